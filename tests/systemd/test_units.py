"""The units as systemd's own tools see them, and whether they say what the programs do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from aggregator.__main__ import EXIT_CONFIGURATION, EXIT_NOT_ALONE
from device_agent.__main__ import EXIT_DAMAGED, EXIT_UNUSABLE, EXIT_USAGE
from device_agent.double import EXIT_TWICE
from device_agent.last_words import configuration_of
from fedmq.provision.installing import AGGREGATOR_AT, AGGREGATOR_USER
from fedmq.provision.texts import AGGREGATOR_STATE, DEVICE_STATE
from tests.support.patience import PATIENCE_S
from tests.support.sandbox import settings

FOLDER = Path(__file__).parent.parent.parent / "systemd"
SERVICES = ["fedmq-agent.service", "fedmq-agent@.service", "fedmq-aggregator.service"]
UNITS = [*SERVICES, "fedmq-failure@.service"]
ROOTS = "fedmq-resume.service"
"""Installs, and so cannot be confined like the others."""

MOSQUITTO = Path("/lib/systemd/system/mosquitto.service")

EXPOSURE = 15
"""In tenths, as systemd-analyze counts: 1.5 of 10."""

INSTALLED = "/opt/fedmq/venv/bin/"


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE_S, check=False
    )


def test_there_are_no_other_units() -> None:
    assert {path.name for path in FOLDER.glob("*.service")} == {*UNITS, ROOTS}


def test_systemd_finds_no_fault_with_the_units(tmp_path: Path) -> None:
    here = Path(sys.executable).parent
    for name in (*UNITS, ROOTS):  # the programs have to be there, so they are those of this environment
        (tmp_path / name).write_text((FOLDER / name).read_text().replace(INSTALLED, f"{here}/"))
    resuming = tmp_path / ROOTS
    resuming.write_text(resuming.read_text().replace("/opt/fedmq/venv/systemd", str(FOLDER)))
    names = [name.replace("@", "@plant") for name in (*UNITS, ROOTS)]
    for name in names:
        if not (tmp_path / name).exists():
            (tmp_path / name).symlink_to(name.replace("@plant", "@"))
    found = run("systemd-analyze", "verify", "--man=no", *(f"./{name}" for name in names), cwd=tmp_path)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_check_of_units_would_notice_a_fault(tmp_path: Path) -> None:
    (tmp_path / "wrong.service").write_text("[Service]\nExecStart=/bin/true\nProtectSistem=strict\n")
    found = run("systemd-analyze", "verify", "--man=no", "./wrong.service", cwd=tmp_path)
    assert "ProtectSistem" in found.stdout


@pytest.mark.parametrize("name", UNITS)
def test_little_is_exposed(name: str) -> None:
    found = run(
        "systemd-analyze",
        "security",
        "--no-pager",
        "--offline=true",
        f"--threshold={EXPOSURE}",
        f"./{name}",
        cwd=FOLDER,
    )
    assert found.returncode == 0, found.stdout
    assert re.search(r"Overall exposure level for fedmq-\S+: [01]\.\d", found.stdout), found.stdout


def test_mosquitto_is_hardened(tmp_path: Path) -> None:
    unit = tmp_path / "mosquitto.service"
    unit.write_text(MOSQUITTO.read_text() + (FOLDER / "mosquitto-hardening.conf").read_text())
    verified = run("systemd-analyze", "verify", "--man=no", f"./{unit.name}", cwd=tmp_path)
    assert (verified.returncode, verified.stdout) == (0, "")
    options = ("--no-pager", "--offline=true", f"--threshold={EXPOSURE}")
    found = run("systemd-analyze", "security", *options, f"./{unit.name}", cwd=tmp_path)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", UNITS)
def test_systemd_knows_the_users_and_folders(name: str, tmp_path: Path) -> None:
    users = (FOLDER / "fedmq.sysusers").read_text()
    for user in settings(FOLDER / name).get("User", []):
        assert re.search(rf"^u {user} ", users, re.MULTILINE)
    made = run("systemd-sysusers", "--dry-run", f"--root={tmp_path}", str(FOLDER / "fedmq.sysusers"), cwd=tmp_path)
    assert made.returncode == 0, made.stdout
    assert "fedmq-agent" in made.stdout


def test_the_folders_are_made(tmp_path: Path) -> None:
    made = run("systemd-tmpfiles", "--create", f"--root={tmp_path}", str(FOLDER / "fedmq.tmpfiles"), cwd=tmp_path)
    assert made.returncode == 0, made.stdout
    assert (tmp_path / "etc/fedmq").is_dir()
    assert (tmp_path / "var/lib/fedmq").is_dir()


# -- what the programs do -------------------------------------------------------------------------------------------


def test_no_other_start_is_tried_where_it_would_change_nothing() -> None:
    aggregator = settings(FOLDER / "fedmq-aggregator.service")["RestartPreventExitStatus"]
    assert aggregator == [f"{EXIT_CONFIGURATION} {EXIT_NOT_ALONE}"]
    for name in SERVICES[:2]:
        agent = settings(FOLDER / name)["RestartPreventExitStatus"][0].split()
        assert agent == [str(EXIT_USAGE), str(EXIT_TWICE)]
        assert not {str(EXIT_DAMAGED), str(EXIT_UNUSABLE)} & set(agent)


def test_state_and_configuration_are_where_they_are_expected() -> None:
    agent, aggregator = settings(FOLDER / SERVICES[0]), settings(FOLDER / SERVICES[2])
    assert f"/var/lib/{agent['StateDirectory'][0]}" == DEVICE_STATE
    assert f"/var/lib/{aggregator['StateDirectory'][0]}" == AGGREGATOR_STATE
    assert f"/{AGGREGATOR_AT}/aggregator.toml" in aggregator["ExecStart"][0]
    assert aggregator["User"] == [AGGREGATOR_USER]


def test_an_instance_differs_only_in_its_names() -> None:
    single, instance = ((FOLDER / name).read_text() for name in SERVICES[:2])
    instance = re.sub(r"# In that agent.toml: .*\n", "", instance)
    instance = instance.replace("agent %i\n", "agent\n").replace("fedmq/%i/", "fedmq/").replace("agent-%i\n", "agent\n")
    assert instance == single


def test_the_failure_unit_knows_whose_configuration_it_is() -> None:
    for name, unit in (("fedmq-agent.service", SERVICES[0]), ("fedmq-agent@hall-2.service", SERVICES[1])):
        started = settings(FOLDER / unit)["ExecStart"][0].replace("%i", "hall-2")
        assert started.endswith(f"--config {configuration_of(name)}")
    assert configuration_of("fedmq-aggregator.service") is None
    assert configuration_of("fedmq-agent@a/b.service") is None


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_program_starts_with_is_what_the_unit_waits_for(name: str) -> None:
    unit = settings(FOLDER / name)
    assert unit["Type"] == ["notify"]
    assert unit["WatchdogSec"] == ["5min"]
    assert "fedmq-failure@%n.service" in unit["OnFailure"]
    assert "AF_UNIX" in unit["RestrictAddressFamilies"][0]  # the socket of both


def test_the_failure_is_told_in_one_line(tmp_path: Path) -> None:
    command = settings(FOLDER / "fedmq-failure@.service")["ExecStart"][0]
    script = re.fullmatch(r"/bin/sh -c '(.*)'", command)
    assert script
    found = subprocess.run(
        ["/bin/sh", "-c", script[1].replace("$$", "$").replace("%i", "fedmq-agent.service")],
        env={"MONITOR_SERVICE_RESULT": "exit-code", "MONITOR_EXIT_CODE": "exited", "MONITOR_EXIT_STATUS": "78"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "<3>unit=fedmq-agent.service result=exit-code exit=exited status=78\n"
