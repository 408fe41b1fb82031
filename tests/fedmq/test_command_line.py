"""Mistakes on the command line: one helpful line, no traceback, nothing done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from fedmq.__main__ import MAX_DEVICES, app
from fedmq.arguments import broker_address
from fedmq.demo_data import MAX_DEVICES as MAX_DEVICES_OF_DATA

if TYPE_CHECKING:
    from pathlib import Path

RUNNER = CliRunner()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["demo", "--broker", "rabbit"], "auto, mosquitto, iotcore and HOST:PORT"),
        (["demo", "--broker", "localhost:99999"], "65535"),
        (["demo", "--devices", "0"], "--devices"),
        (["demo", "--seconds", "soon"], "--seconds"),
        (["monitor", "--broker", "a b"], "HOST, HOST:PORT and [IPv6]:PORT"),
        (["monitor", "--broker", "host:port"], "HOST, HOST:PORT and [IPv6]:PORT"),
        (["monitor", "--federation", "a/b"], "1 to 64 letters"),
        (["monitro"], "monitro"),
    ],
)
def test_a_mistake_says_what_is_allowed(arguments: list[str], says: str) -> None:
    result = RUNNER.invoke(app, arguments)

    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_the_demo_does_not_touch_a_folder_that_is_in_use(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")

    result = RUNNER.invoke(app, ["demo", "--keep", str(tmp_path)])

    assert result.exit_code == 1
    assert "is not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("broker", "broker", 1883),
        ("broker.example:8883", "broker.example", 8883),
        ("10.0.0.1:1", "10.0.0.1", 1),
        ("[::1]:1884", "::1", 1884),
        ("[fe80::1]", "fe80::1", 1883),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    settings = broker_address(text)

    assert (settings.host, settings.port) == (host, port)


@pytest.mark.parametrize("host", ["192.0.2.1", "broker.plant:1883", "[2001:db8::1]"])
def test_a_monitor_says_nothing_in_the_clear_over_a_network(host: str) -> None:
    result = RUNNER.invoke(app, ["monitor", "--broker", host, "--json", "--listen", "0.1"])

    assert result.exit_code == 1
    assert "fedmq provision monitor NAME" in result.stderr
    insisted = RUNNER.invoke(app, ["monitor", "--broker", host, "--json", "--listen", "0.1", "--insecure"])
    assert "no connection" in insisted.stderr


def test_init_points_to_identities_for_other_machines(tmp_path: Path) -> None:
    assert "fedmq provision init NAME --broker HOST" in RUNNER.invoke(app, ["init", str(tmp_path)]).stdout


def test_init_writes_and_does_not_overwrite(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"

    assert RUNNER.invoke(app, ["init", str(folder)]).exit_code == 0
    (folder / "agent.toml").write_text("mine", encoding="utf-8")
    again = RUNNER.invoke(app, ["init", str(folder)])

    assert again.exit_code == 1
    assert "--force" in again.stderr
    assert (folder / "agent.toml").read_text(encoding="utf-8") == "mine"
    assert RUNNER.invoke(app, ["init", str(folder), "--force"]).exit_code == 0
    assert (folder / "agent.toml").read_text(encoding="utf-8") != "mine"
    (tmp_path / "file").touch()
    assert RUNNER.invoke(app, ["init", str(tmp_path / "file")]).exit_code == 2


def test_help_names_every_command() -> None:
    text = RUNNER.invoke(app, ["--help"]).stdout

    for command in ("demo", "monitor", "init"):
        assert command in text


def test_the_limit_of_devices_is_the_one_of_the_data() -> None:
    assert MAX_DEVICES == MAX_DEVICES_OF_DATA
