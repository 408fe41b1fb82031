"""The installer on a tree that is no machine: real environments and pip, and no systemd. tests/boot has the rest."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from fedmq_installer.acting import undo
from fedmq_installer.layout import AGENT, AGGREGATOR, BROKER, InstallError, Layout
from fedmq_installer.machine import Machine
from fedmq_installer.placing import Placing
from fedmq_installer.services import Patience, Services, Watch
from fedmq_installer.source import Source
from fedmq_installer.upgrading import Probation, Upgrade

from tests.support.patience import PATIENCE_S

INSTALL = Path(__file__).parent.parent.parent / "systemd" / "install"
COMMANDS = ("fedmq", "fedmq-agent", "fedmq-aggregator")


def release(folder: Path, version: str, *, needs: str = "") -> Path:
    """Make a folder with a wheel that is called fedmq, has its commands, and tells its version."""
    folder.mkdir()
    info = f"fedmq-{version}.dist-info"
    extras = "Provides-Extra: aggregator\n"
    scripts = "".join(f"{name} = fedmq_told:main\n" for name in COMMANDS)
    files = {
        "fedmq_told.py": f"def main():\n    print('fedmq {version}')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: fedmq\nVersion: {version}\n{needs}{extras}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{scripts}",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"fedmq-{version}-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return folder


def install(root: Path, *arguments: str, code: int = 0) -> str:
    command = [str(INSTALL), "--root", str(root), *arguments]
    environment = {**os.environ, "FEDMQ_PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def current(root: Path) -> str:
    return (root / "opt/fedmq/venv").resolve().name


def told(root: Path, command: str = "fedmq-agent") -> str:
    program = root / "opt/fedmq/venv/bin" / command
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    (path / "opt").mkdir(parents=True)
    return path


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    return release(tmp_path / "wheels", "0.1.0")


def test_install_again_and_uninstall(root: Path, wheels: Path) -> None:
    bare = tree(root)
    said = install(root, "agent", "--wheels", str(wheels))
    assert "sudo systemctl enable --now fedmq-agent" in said
    assert told(root) == "fedmq 0.1.0"
    assert (root / "usr/local/bin/fedmq-agent").readlink() == Path("/opt/fedmq/venv/bin/fedmq-agent")
    units = {path.name for path in (root / "etc/systemd/system").iterdir()}
    assert units == {"fedmq-agent.service", "fedmq-agent@.service", "fedmq-failure@.service"}
    whole = tree(root)
    assert "is the current one" in install(root, "agent", "--wheels", str(wheels))
    assert tree(root) == whole
    (root / "etc/fedmq").mkdir()
    (root / "etc/fedmq/agent.toml").touch()
    assert "kept" in install(root, "uninstall")
    assert (root / "etc/fedmq/agent.toml").exists()
    install(root, "uninstall", "--purge")
    folders = {"usr", "usr/local", "usr/local/bin", "var", "etc", "etc/systemd", "etc/systemd/system"}
    assert tree(root) - bare - folders - {"usr/lib", "usr/lib/sysusers.d", "usr/lib/tmpfiles.d"} == set()
    assert install(root, "uninstall") == "nothing of it was installed\n"


def test_the_packages_of_the_machine_are_seen_on_request_alone(root: Path, wheels: Path) -> None:
    install(root, "agent", "--wheels", str(wheels))
    alone = current(root)
    assert "include-system-site-packages = false" in (root / "opt/fedmq/venv/pyvenv.cfg").read_text()

    install(root, "upgrade", "--wheels", str(wheels), "--system-packages")

    assert current(root) != alone
    assert "include-system-site-packages = true" in (root / "opt/fedmq/venv/pyvenv.cfg").read_text()
    assert told(root) == "fedmq 0.1.0"


def test_two_roles_upgrade_and_one_taken_away(root: Path, wheels: Path, tmp_path: Path) -> None:
    versioned(root, "first")
    install(root, "aggregator", "--wheels", str(wheels))  # a version for both
    second = current(root)
    assert {path.name for path in (root / "opt/fedmq/versions").iterdir()} == {"first", second}
    install(root, "upgrade", "--wheels", str(release(tmp_path / "later", "0.2.0")))
    assert told(root, "fedmq") == "fedmq 0.2.0"
    assert (root / "opt/fedmq/previous").readlink() == Path(f"versions/{second}")
    assert {path.name for path in (root / "opt/fedmq/versions").iterdir()} == {second, current(root)}
    install(root, "uninstall", "agent")
    assert not (root / "etc/systemd/system/fedmq-agent.service").exists()
    assert (root / "etc/systemd/system/fedmq-failure@.service").exists()
    assert told(root, "fedmq-aggregator") == "fedmq 0.2.0"
    assert "roles     aggregator" in install(root, "status")


def test_undo_goes_back_and_forth(root: Path, wheels: Path, tmp_path: Path) -> None:
    install(root, "agent", "--wheels", str(wheels))
    assert "no version before" in install(root, "undo", code=1)
    install(root, "upgrade", "--wheels", str(release(tmp_path / "later", "0.2.0")))
    both = tree(root)
    for version in ("0.1.0", "0.2.0", "0.1.0"):
        assert "another undo takes" in install(root, "undo")
        assert told(root) == f"fedmq {version}"
        assert tree(root) == both
    assert (root / "opt/fedmq/previous").resolve().name.startswith("0.2.0-")


def test_what_fails_leaves_what_was_there(root: Path, tmp_path: Path) -> None:
    broken = release(tmp_path / "broken", "0.2.0", needs="Requires-Dist: not-among-the-wheels\n")
    bare = tree(root)
    said = install(root, "agent", "--wheels", str(broken), code=1)
    assert "nothing has changed" in said
    assert "not-among-the-wheels" in said
    assert tree(root) == bare
    versioned(root, "1")
    whole = tree(root)
    install(root, "upgrade", "--wheels", str(broken), code=1)
    assert tree(root) == whole


def test_what_a_killed_run_left_is_swept(root: Path, wheels: Path) -> None:
    version = Source(wheels).version_id("", sys.executable)
    half = root / "opt/fedmq/versions" / version
    (half / "bin").mkdir(parents=True)
    (half / "bin" / "rest").touch()
    (root / "opt/fedmq/.fedmq-install-venv").symlink_to("versions/nowhere")
    theirs = root / "usr/local/bin/fedmq-agent"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("#!/bin/sh\n")
    install(root, "agent", "--wheels", str(wheels))
    assert not (half / "bin" / "rest").exists()
    assert not (root / "opt/fedmq/.fedmq-install-venv").is_symlink()
    install(root, "uninstall", "--purge")  # and a command of that name that is somebody else's stays
    assert theirs.read_text() == "#!/bin/sh\n"


def test_the_broker_gets_its_drop_in_and_is_told_what_comes_next(root: Path) -> None:
    assert "fedmq provision init" in install(root, "broker")
    (root / "etc/mosquitto/conf.d").mkdir(parents=True)
    (root / "etc/mosquitto/conf.d/fedmq.conf").touch()
    assert "sudo systemctl restart mosquitto" in install(root, "broker")
    assert (root / "etc/systemd/system/mosquitto.service.d/fedmq-hardening.conf").exists()
    install(root, "uninstall", "broker")
    assert not (root / "etc/systemd/system/mosquitto.service.d").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["agent", "--wheels", "/nowhere"], 1, "no such folder"),
        (["upgrade"], 1, "nothing is installed here"),
        (["undo"], 1, "no version before"),
        (["agent", "--wheels"], 2, "expected one argument"),
        (["everything"], 2, "invalid choice"),
        ([], 2, "required"),
    ],
)
def test_errors_are_clear(root: Path, arguments: Sequence[str], code: int, words: str) -> None:
    assert words in install(root, *arguments, code=code)
    assert tree(root) == {"opt"}


def test_two_wheels_of_fedmq_are_one_too_many(root: Path, wheels: Path, tmp_path: Path) -> None:
    next(release(tmp_path / "more", "0.2.0").iterdir()).rename(wheels / "fedmq-0.2.0-py3-none-any.whl")
    assert "leave one" in install(root, "agent", "--wheels", str(wheels), code=1)


def test_two_runs_at_once_are_one_too_many(root: Path, wheels: Path) -> None:
    with Machine(Layout(root), sys.executable).locked():
        assert "another run" in install(root, "agent", "--wheels", str(wheels), code=1)


def test_who_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InstallError, match="run it with sudo"):
        Machine(Layout(Path("/")), sys.executable).check()


def test_a_python_that_the_services_cannot_see_is_refused() -> None:
    with pytest.raises(InstallError, match="neither /home nor /root"):
        Machine(Layout(Path("/")), "/root/somewhere/python3").check_python()


def test_a_disk_that_is_too_small_is_told_before_anything_is_done(root: Path) -> None:
    with pytest.raises(InstallError, match="Make room"):
        Machine(Layout(root), sys.executable).check_space(2**60)


# -- probation: systemd is a stand-in here, for what it says cannot be had otherwise in CI -----------------------------


class StandIn(Machine):
    """A machine on which each version's services behave as told."""

    def __init__(self, root: Path, behaviour: dict[str, str]) -> None:
        super().__init__(Layout(root), sys.executable)
        self.behaviour = behaviour
        self.restarted: list[str] = []
        self.starts = 1

    def run(self, *command: str, check: bool = False) -> str:  # noqa: ARG002 - as its parent
        if command[:2] == ("systemctl", "list-units") and "fedmq-agent.service" in command:
            return "fedmq-agent.service loaded active running fedmq agent\n"
        if command[:2] == ("systemctl", "restart"):
            self.restarted.append(current(self.layout.root))
            self.starts += 1
        if command[:2] == ("systemctl", "show"):
            how = self.behaviour.get(current(self.layout.root), "active") if self.restarted else "active"
            if how == "flapping":
                self.starts += 1
            state = "active" if how == "flapping" else how
            return (
                f"ActiveState={state}\nSubState={how}\nInvocationID={self.starts}\nResult=exit-code\nExecMainStatus=1\n"
            )
        return ""


QUICK = Patience(patience_s=1.5, settle_s=0.6)


def versioned(root: Path, *names: str) -> None:
    for name in names:
        folder = root / "opt/fedmq/versions" / name
        (folder / "systemd").mkdir(parents=True)
        for path in INSTALL.parent.iterdir():
            if path.is_file():
                (folder / "systemd" / path.name).write_bytes(path.read_bytes())
        (folder / "complete").touch()
    (root / "opt/fedmq/venv").symlink_to(f"versions/{names[0]}")
    Placing(Machine(Layout(root), sys.executable)).place([AGENT], root / "opt/fedmq/versions" / names[0] / "systemd")


def test_a_healthy_version_stays(root: Path) -> None:
    versioned(root, "1", "2")
    machine = StandIn(root, {})
    Upgrade(machine, QUICK).to("2", [AGENT], running_roles=[AGENT])
    assert (current(root), machine.restarted) == ("2", ["2"])
    assert not (root / "opt/fedmq/probation.json").exists()


@pytest.mark.parametrize("how", ["failed", "activating", "flapping", "inactive"])
def test_a_version_that_is_not_healthy_goes(root: Path, how: str) -> None:
    versioned(root, "1", "2")
    machine = StandIn(root, {"2": how})
    with pytest.raises(InstallError, match=r"went back to version 1, because fedmq-agent\.service"):
        Upgrade(machine, QUICK).to("2", [AGENT], running_roles=[AGENT])
    assert (current(root), machine.restarted) == ("1", ["2", "1"])
    assert [path.name for path in (root / "opt/fedmq/versions").iterdir()] == ["1"]
    assert not (root / "etc/systemd/system/fedmq-resume.service").exists()


def test_it_is_said_when_the_version_before_is_not_well_either(root: Path) -> None:
    versioned(root, "1", "2")
    with pytest.raises(InstallError, match="not well either"):
        Upgrade(StandIn(root, {"1": "failed", "2": "failed"}), QUICK).to("2", [AGENT], running_roles=[AGENT])


def test_an_undo_that_is_not_healthy_is_undone(root: Path) -> None:
    versioned(root, "2", "1")
    (root / "opt/fedmq/previous").symlink_to("versions/1")
    with pytest.raises(InstallError, match="went back to version 2"):
        undo(StandIn(root, {"1": "failed"}), QUICK)
    assert (current(root), (root / "opt/fedmq/previous").resolve().name) == ("2", "1")

    undo(StandIn(root, {}), QUICK)

    assert (current(root), (root / "opt/fedmq/previous").resolve().name) == ("1", "2")


@pytest.mark.parametrize(("how", "kept"), [("failed", "1"), ("active", "2")])
def test_an_undecided_upgrade_is_decided_later(root: Path, how: str, kept: str) -> None:
    versioned(root, "1", "2")
    machine = StandIn(root, {"2": how})
    upgrade = Upgrade(machine, QUICK)
    upgrade._begin(Probation("1", "2", ["fedmq-agent.service"]))  # and then it was killed
    assert (root / "etc/systemd/system/fedmq-resume.service").exists()
    try:
        Upgrade(machine, QUICK).decide()
    except InstallError:
        assert kept == "1"
    assert current(root) == kept
    assert upgrade.pending() is None


def test_roles_without_services_have_none(root: Path) -> None:
    assert Services(StandIn(root, {})).loaded(BROKER) == []
    assert Services(StandIn(root, {})).loaded(AGGREGATOR) == []


def test_health_is_one_start_that_lasts() -> None:
    watch = Watch("fedmq-agent.service")
    for now, state, start, since in [
        (0.0, "activating", "a", None),
        (1.0, "active", "a", 1.0),
        (5.0, "active", "a", 1.0),
        (6.0, "activating", "b", None),
        (7.0, "active", "b", 7.0),
        (8.0, "active", "c", 8.0),
    ]:
        watch.look({"ActiveState": state, "InvocationID": start}, now)
        assert watch.since == since
    assert watch.starts == {"a", "b", "c"}
