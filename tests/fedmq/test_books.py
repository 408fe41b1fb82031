"""The audit over databases that a real fleet has written, whole and tampered with."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from fedmq.audit import Verdict, audit
from fedmq.books import BooksError, aggregator_books, all_device_books, device_books

DEVICES = ("watch-1", "watch-2", "watch-3")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a demo has left."""
    folder = tmp_path_factory.mktemp("demo") / "kept"
    arguments = ["--devices", "3", "--seconds", "4", "--json", "--broker", "iotcore", "--keep", str(folder)]
    subprocess.run([sys.executable, "-m", "fedmq", "demo", *arguments], check=True, cwd=Path(__file__).parents[2])
    return folder


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(kept, tmp_path / "copy", ignore=shutil.ignore_patterns("*.lock", "*.sock")))


def verdict_on(folder: Path) -> Verdict:
    return audit(all_device_books(folder / name for name in DEVICES), aggregator_books(folder / "aggregator"))


def tamper(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)


def test_what_a_fleet_has_written_adds_up(folder: Path) -> None:
    verdict = verdict_on(folder)

    assert verdict.holds, verdict.faults
    assert verdict.taken_in == verdict.folded > 0
    books = aggregator_books(folder / "aggregator")
    assert books.parameters == 96 * 32 + 32 + 32 * 7 + 7
    assert books.accuracy is not None
    assert books.versions == tuple(range(len(books.versions)))


def test_an_update_that_was_folded_again_is_found(folder: Path) -> None:
    again = "INSERT INTO lineage SELECT aggregation, position + 1000, device, incarnation, sequence, base_version,"
    again += " staleness, num_examples, num_steps, weight, update_bytes, metrics, clip FROM lineage LIMIT 1"
    tamper(folder / "aggregator" / "aggregator.sqlite", again)

    assert any("counted 2 times" in fault for fault in verdict_on(folder).faults)


def test_an_update_that_was_lost_is_found(folder: Path) -> None:
    lost = "DELETE FROM lineage WHERE (aggregation, position) IN (SELECT aggregation, position FROM lineage LIMIT 1)"
    tamper(folder / "aggregator" / "aggregator.sqlite", lost)

    faults = verdict_on(folder).faults
    assert any("receipts said accepted, but only" in fault for fault in faults)
    assert any("the aggregator counted" in fault for fault in faults)


def test_a_device_that_forgot_an_update_is_found(folder: Path) -> None:
    later = "UPDATE meta SET value = CAST(replace(CAST(value AS TEXT), '\"updates_created\":', '\"updates_created\":1')"
    later += " AS BLOB) WHERE key = 'state'"
    tamper(folder / "watch-1" / "agent.sqlite", later)

    assert any(fault.startswith("watch-1: created 1") for fault in verdict_on(folder).faults)


def test_books_are_read_and_not_written(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*.sqlite")}

    verdict_on(folder)

    assert {path: path.read_bytes() for path in before} == before


def test_missing_books_are_told(tmp_path: Path) -> None:
    with pytest.raises(BooksError, match="no such file"):
        aggregator_books(tmp_path)
    (tmp_path / "agent.sqlite").write_bytes(b"not a database at all, but long enough to be taken for one" * 100)
    with pytest.raises(BooksError, match="not a database"):
        device_books(tmp_path)
