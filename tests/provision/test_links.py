"""Root installs and enrols where somebody else may own the folder: links there lead it nowhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.device_agent.test_enrolment import Board, board
from tests.provision.desk import Desk

__all__ = ["board"]

SECRET = "root:$y$j9T$nobody-may-read-this\n"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "shadow"
    path.write_text(SECRET, encoding="utf-8")
    path.chmod(0o600)
    return path


def readable(folder: Path, secret: Path) -> list[Path]:
    """Return the files with the secret, but the one that it is in."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path != secret]
    return [path for path in files if b"nobody-may-read" in path.read_bytes()]


@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_install_copies_no_secret_for_who_owns_the_aggregators_folder(tmp_path: Path, secret: Path, link: str) -> None:
    """``aggregator.toml`` is read, and written again for everybody: its folder belongs to the aggregator's user."""
    desk = Desk(tmp_path / "keystore")
    desk.init()
    root = tmp_path / "root"
    desk("install", "aggregator", "--root", str(root))
    configuration = root / "etc/fedmq/aggregator/aggregator.toml"
    configuration.unlink()
    if link == "symbolic":
        configuration.symlink_to(secret)
    else:
        configuration.hardlink_to(secret)

    assert "put the file itself there" in desk("install", "aggregator", "--root", str(root), exits=1)

    assert [path for path in readable(root, secret) if path != configuration] == []
    assert secret.read_text(encoding="utf-8") == SECRET


@pytest.mark.parametrize("words", [(), ("--replace",)])
def test_enroll_copies_no_secret_that_a_link_leads_to(board: Board, secret: Path, words: tuple[str, ...]) -> None:
    board.etc.mkdir()
    board.configuration.symlink_to(secret)

    assert "is a link" in board.enroll(board.bundle("press-01"), *words, exits=1)

    assert readable(board.etc, secret) == []


def test_enroll_writes_through_no_link(board: Board, secret: Path) -> None:
    board.enroll(board.bundle("press-01"))
    for make in (Path.symlink_to, Path.hardlink_to):
        aside = board.etc / "agent.toml.replaced"
        aside.unlink(missing_ok=True)
        make(aside, secret)
        board.enroll(board.bundle("press-02"), "--replace")
        board.enroll(board.bundle("press-01"), "--replace")
        assert secret.read_text(encoding="utf-8") == SECRET


def test_enroll_gives_nobody_the_file_that_a_link_leads_to(board: Board, secret: Path) -> None:
    board.enroll(board.bundle("press-01"))
    key = next(board.etc.glob("identity-*/identity.key"))
    key.unlink()
    key.symlink_to(secret)
    owner = "nobody" if os.getuid() == 0 else secret.owner()

    board.enroll(board.bundle("press-01"), "--owner", owner, exits=1)

    assert secret.stat().st_uid == os.getuid()


def test_enroll_puts_no_key_where_everybody_can_write(board: Board) -> None:
    board.etc.mkdir()
    board.etc.chmod(0o777)

    assert "everybody can write" in board.enroll(board.bundle("press-01"), exits=1)

    assert list(board.etc.iterdir()) == []
