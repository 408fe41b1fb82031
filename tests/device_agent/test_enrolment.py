"""``fedmq-agent enroll``: the new identity or the old one, and never anything between."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device_agent.__main__ import main
from device_agent.adapters import enrolment
from device_agent.settings import AgentSettings
from protocol import bundles
from protocol.adapters.configuration import load
from tests.provision.desk import Desk


class Board:
    """A device's folder, and the keystore that its bundles come from."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.desk = Desk(folder / "keystore")
        self.desk.init()
        self.desk("device", "press-01", "press-02")
        self.etc = folder / "etc"
        self.configuration = self.etc / "agent.toml"
        self.carried = folder / "carried"
        self.carried.mkdir()
        self._capsys = capsys

    def bundle(self, name: str) -> Path:
        """Carry a device's bundle here."""
        return Path(shutil.copy(self.desk.folder / "bundles" / f"{name}.fedmq", self.carried))

    def altered(self, name: str, changes: dict[str, Any]) -> Path:
        """Carry a bundle that somebody changed, checksum and all."""
        path = self.bundle(name)
        bundle = bundles.decode(path.read_bytes())
        path.write_bytes(bundles.encode(msgspec.structs.replace(bundle, **changes)))
        return path

    def enroll(self, bundle: Path, *words: str, exits: int = 0) -> str:
        self._capsys.readouterr()
        assert main(["enroll", str(bundle), "--to", str(self.etc), *words]) == exits
        said = self._capsys.readouterr()
        return said.out + said.err

    def settings(self) -> AgentSettings:
        return load(self.configuration, AgentSettings)

    def identity(self) -> str:
        """Return who this is by its configuration, and check that everything it names is there and fits."""
        settings = self.settings()
        assert settings.broker.tls
        key, certificate = Path(settings.broker.tls.key), Path(settings.broker.tls.certificate)
        assert key.parent == certificate.parent == Path(settings.security.federation_keys).parent
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        found = next(
            one
            for one in (self.desk.bundle(path.stem) for path in (self.desk.folder / "bundles").iterdir())
            if one.files["certificate"] == certificate.read_text(encoding="utf-8")
        )
        assert found.files["key"] == key.read_text(encoding="utf-8")
        assert found.name == settings.device.id
        return found.name


@pytest.fixture
def board(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Board:
    return Board(tmp_path, capsys)


def test_a_board_takes_on_its_identity(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    said = board.enroll(board.bundle("press-01"), "--data", "samples.csv")

    assert f"fedmq-agent run --config {board.configuration}" in said
    assert "device press-01 of federation plant" in said
    assert board.identity() == "press-01"
    assert board.settings().data.path == str(Path("samples.csv").absolute())
    assert stat.S_IMODE(board.configuration.stat().st_mode) == 0o644
    assert main(["run", "--config", str(board.configuration), "--check"]) == 0
    assert "fine" in capsys.readouterr().out


def test_away_from_etc_its_state_lies_beside_its_identity(board: Board) -> None:
    board.enroll(board.bundle("press-01"), "--data", "/srv/x.npz")
    assert board.settings().device.state_dir == str(board.etc / "state")
    text = board.configuration.read_text().replace(str(board.etc / "state"), "/mnt/flash/agent")
    board.configuration.write_text(text)

    board.enroll(board.bundle("press-01"))

    assert board.settings().device.state_dir == "/mnt/flash/agent", "what its owner set stays"


def test_one_of_several_federations_has_its_state_where_its_unit_may_write(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "SYSTEM_FOLDER", board.etc.parent)
    board.enroll(board.bundle("press-01"))
    assert board.settings().device.state_dir == f"/var/lib/fedmq/agent-{board.etc.name}"


def test_where_the_units_are_the_next_step_is_to_start_one(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "UNITS", tmp_path)
    (tmp_path / "fedmq-agent.service").touch()
    assert "fedmq-agent run --config" in board.enroll(board.bundle("press-01"))
    monkeypatch.setattr(enrolment, "SYSTEM_FOLDER", board.etc.parent)
    assert enrolment.next_step(board.configuration, kept=False) == "sudo systemctl enable --now fedmq-agent@etc"
    monkeypatch.setattr(enrolment, "SYSTEM_FOLDER", board.etc)
    assert "sudo systemctl restart fedmq-agent\n" in board.enroll(board.bundle("press-01"))


def test_the_same_bundle_again_changes_nothing(board: Board) -> None:
    board.enroll(board.bundle("press-01"))
    before = sorted(path.name for path in board.etc.rglob("*"))
    content = board.configuration.read_bytes()

    assert "kept" in board.enroll(board.bundle("press-01"))

    assert sorted(path.name for path in board.etc.rglob("*")) == before
    assert board.configuration.read_bytes() == content


def test_a_new_certificate_leaves_the_owners_settings_alone(board: Board) -> None:
    board.enroll(board.bundle("press-01"), "--data", "/srv/a.npz")
    text = board.configuration.read_text(encoding="utf-8").replace("min_interval_s = 10.0", "min_interval_s = 77.0")
    board.configuration.write_text(text, encoding="utf-8")
    for _ in range(3):
        board.desk("rotate", "device", "press-01")
        board.enroll(board.bundle("press-01"))

    assert board.identity() == "press-01"
    assert board.settings().training.min_interval_s == 77.0
    assert board.settings().data.path == "/srv/a.npz"
    # The one before stays for an agent that is running with it.
    assert len(list(board.etc.glob("identity-*"))) == 2
    assert "the broker is localhost:8883" not in board.enroll(board.bundle("press-01"))


def test_another_devices_identity_is_not_overwritten(board: Board) -> None:
    board.enroll(board.bundle("press-01"))

    said = board.enroll(board.bundle("press-02"), exits=1)

    assert "this is device press-01 of federation plant already" in said
    assert "--replace" in said
    assert board.identity() == "press-01"
    board.enroll(board.bundle("press-02"), "--replace")
    assert board.identity() == "press-02"
    assert 'id = "press-01"' in (board.etc / "agent.toml.replaced").read_text(encoding="utf-8")


def test_a_strange_configuration_is_not_overwritten(board: Board) -> None:
    board.etc.mkdir()
    for content in (b"my notes", b"\xff\xfe", b"[device]\nid = 7\n"):
        board.configuration.write_bytes(content)
        assert "--replace" in board.enroll(board.bundle("press-01"), exits=1)
        assert board.configuration.read_bytes() == content
    board.enroll(board.bundle("press-01"), "--replace")
    assert board.identity() == "press-01"


def test_a_broken_setting_of_the_owner_is_told_and_nothing_changes(board: Board) -> None:
    board.enroll(board.bundle("press-01"))
    text = board.configuration.read_text(encoding="utf-8").replace("min_interval_s", "min_intervall_s")
    board.configuration.write_text(text, encoding="utf-8")
    board.desk("rotate", "device", "press-01")

    said = board.enroll(board.bundle("press-01"), exits=1)

    assert "did you mean 'min_interval_s'" in said
    assert str(board.configuration) in said
    assert board.configuration.read_text(encoding="utf-8") == text


def test_bundles_that_somebody_changed_are_refused(board: Board, tmp_path: Path) -> None:
    other = Desk(tmp_path / "other")
    other.init()
    theirs, ours = board.desk.bundle("press-02").files, board.desk.bundle("press-01").files
    foreign = (other.folder / "ca.crt").read_text(encoding="utf-8")

    cases: list[tuple[dict[str, Any], str]] = [
        ({"name": "press-02"}, "its certificate does not"),
        ({"files": ours | {"key": theirs["key"]}}, "the key is not that of the certificate"),
        ({"files": ours | {"certificate": theirs["certificate"]}}, "its certificate does not"),
        ({"files": ours | {"ca": foreign}}, "do not fit together"),
        ({"files": ours | {"certificate": "nothing"}}, "do not fit together"),
        ({"files": ours | {"key": "nothing"}}, "do not fit together"),
        ({"files": ours | {"configuration": "[device]\n"}}, "device.id is missing"),
        ({"role": "monitor"}, "not of a device"),
    ]
    for changes, says in cases:
        assert says in board.enroll(board.altered("press-01", changes), exits=1)
        assert not board.configuration.exists()
    half = board.bundle("press-01")
    half.write_bytes(half.read_bytes()[:2000])
    assert "copy it again" in board.enroll(half, exits=1)
    assert "cannot be read" in board.enroll(tmp_path / "nothing", exits=1)
    assert "cannot be read" in board.enroll(tmp_path, exits=1)


def test_an_expired_certificate_is_refused(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "today", lambda: datetime.now(UTC) + timedelta(days=6 * 365))

    said = board.enroll(board.bundle("press-01"), exits=1)

    assert "expired on" in said
    assert "rotate device press-01" in said


def test_the_key_belongs_to_who_runs_the_agent(board: Board) -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    assert "no user nobody-at-all" in board.enroll(board.bundle("press-01"), "--owner", "nobody-at-all", exits=1)
    assert not board.configuration.exists()

    for _ in range(2):
        board.enroll(board.bundle("press-01"), "--owner", me)

    assert board.identity() == "press-01"
    if os.getuid() == 0:
        board.enroll(board.bundle("press-01"), "--owner", "nobody")
        assert {path.owner() for path in board.etc.rglob("*.key")} == {"nobody"}


def test_a_folder_that_cannot_be_written_to(board: Board, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    bundle = board.bundle("press-01")

    assert main(["enroll", str(bundle), "--to", str(tmp_path / "file")]) == 1


@pytest.mark.parametrize("words", [(), ("--replace",)])
def test_killed_at_any_step_it_is_the_old_one_or_the_new_one(board: Board, words: tuple[str, ...]) -> None:
    board.enroll(board.bundle("press-01"))
    if not words:
        board.desk("rotate", "device", "press-01")
    after = "press-02" if words else "press-01"
    bundle = board.bundle(after)
    saved = board.etc.with_name("saved")
    shutil.copytree(board.etc, saved)
    before = board.configuration.read_bytes()
    seen, at = set(), 1
    while strike(at, ["enroll", str(bundle), "--to", str(board.etc), *words], board.etc):
        settings = board.settings()
        assert settings.broker.tls
        for path in (settings.broker.tls.key, settings.broker.tls.certificate, settings.broker.tls.ca):
            assert Path(path).is_file()
        seen.add(board.configuration.read_bytes() == before)
        board.enroll(bundle, *words)
        assert board.identity() == after
        assert not list(board.etc.glob(".fedmq-tmp-*"))
        shutil.rmtree(board.etc)
        shutil.copytree(saved, board.etc)
        at += 1
    assert seen == {True, False}


def strike(at: int, arguments: list[str], folder: Path) -> bool:
    """Run in a process that kills itself before its n-th touch of the folder; return whether it came to that."""
    child = os.fork()
    if child == 0:
        count = 0

        def hook(event: str, details: tuple[object, ...]) -> None:
            nonlocal count
            if event in {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"} and str(
                details[0]
            ).startswith(str(folder)):
                count += 1
                if count == at:
                    os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            sys.addaudithook(hook)
            status = main(arguments)
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        return False
    return True
