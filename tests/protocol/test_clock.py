from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from protocol.adapters.system_clock import FILE, SystemClock, boot_id, read_clocks
from protocol.clock import (
    EARLIEST_S,
    KEEP_EVERY_S,
    SLACK_S,
    Reading,
    WallClock,
    jumped,
    moment,
    not_set,
    utc,
)

if TYPE_CHECKING:
    from pathlib import Path

TODAY = EARLIEST_S + 1e7


def reading(wall: float, since_boot: float = 10.0, *, synchronized: bool | None = None) -> Reading:
    return Reading(wall=wall, since_boot=since_boot, synchronized=synchronized)


@pytest.mark.parametrize(
    ("wall", "known", "synchronized", "plausible"),
    [
        (0.0, 0.0, None, False),
        (0.0, 0.0, True, False),
        (TODAY, 0.0, None, True),
        (TODAY, 0.0, False, True),
        (TODAY, TODAY + SLACK_S, None, True),
        (TODAY, TODAY + SLACK_S + 1.0, None, False),
        (TODAY, TODAY + SLACK_S + 1.0, False, False),
        (TODAY, TODAY + 1e8, True, True),
    ],
)
def test_what_cannot_be_is_not_believed(wall: float, known: float, synchronized: bool | None, plausible: bool) -> None:
    assert WallClock(known).plausible(reading(wall, synchronized=synchronized)) is plausible


def test_a_time_service_gets_some_time_to_set_a_clock_that_looks_right() -> None:
    clock = WallClock(wait_s=120.0)
    assert clock.settled(reading(TODAY)), "nobody says that it would be set"
    assert not clock.settled(reading(TODAY, 20.0, synchronized=False))
    assert clock.settled(reading(TODAY, 20.0, synchronized=True))
    assert not clock.settled(reading(TODAY, 129.0, synchronized=False))
    assert clock.settled(reading(TODAY, 130.0, synchronized=False)), "a network without a time server"
    assert not clock.settled(reading(0.0, 1e6, synchronized=False)), "1970 is never right"


def test_a_time_is_written_seldom_and_at_once_when_it_was_wrong() -> None:
    clock = WallClock()
    clock.witness(5.0)
    assert clock.keep() is None
    clock.witness(TODAY)
    assert clock.keep() == TODAY
    clock.witness(TODAY + KEEP_EVERY_S - 1.0)
    assert clock.keep() is None
    clock.witness(TODAY + KEEP_EVERY_S)
    assert clock.keep() == TODAY + KEEP_EVERY_S
    clock.witness(TODAY)
    assert clock.keep() == TODAY
    assert clock.last_known == TODAY


def test_words() -> None:
    assert moment(0.0) == "1970-01-01 00:00 UTC"
    assert moment(1e300) == f"{1e300:.0f} s since 1970"
    assert moment(float("nan")) == "nan s since 1970"


@pytest.mark.parametrize("year", [1969, 1970, 2038, 2039, 2106, 2107, 9999])
def test_there_are_times_after_2038(year: int) -> None:
    """On 32-bit systems too, where the C library has no more seconds."""
    wanted = datetime(year, 5, 6, 7, 8, 9, tzinfo=UTC)
    assert utc(wanted.timestamp()) == wanted
    assert not_set(reading(60.0), 0.0) == (
        "the clock says 1970-01-01 00:01 UTC, and cannot be right: this program is younger (2025-01-01 00:00 UTC)"
    )
    assert not_set(reading(TODAY), TODAY + 1e7).endswith("it was later already (2025-08-20 11:33 UTC)")


def test_a_jump_is_told_from_drift() -> None:
    before = reading(100.0, 50.0)
    assert not jumped(before, reading(1100.5, 1050.0))
    assert jumped(before, reading(TODAY, 1050.0))
    assert jumped(before, reading(90.0, 1050.0))


# -- the file


def test_the_last_known_time_outlives_the_process(tmp_path: Path) -> None:
    now = reading(TODAY)
    clock = SystemClock(tmp_path, wait_s=1.0, read=lambda: now)
    clock.witness()
    assert not (tmp_path / FILE).exists(), "nobody vouched for it"
    clock.witness(vouched=True)
    assert (tmp_path / FILE).read_text() == f"{TODAY:.0f}\n"
    again = SystemClock(tmp_path, wait_s=1.0, read=lambda: reading(EARLIEST_S))
    assert not again.plausible()
    assert "it was later already" in again.complaint()
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("content", [b"", b"nonsense", b"9" * 60, b"-1", b"1e400", b"\xff\x00", b"5"])
def test_a_damaged_file_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert SystemClock(tmp_path, wait_s=1.0).last_known == 0.0


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    clock = SystemClock(tmp_path / "none", wait_s=1.0, read=lambda: reading(TODAY, synchronized=True))
    clock.witness()
    assert clock.last_known == TODAY


def test_the_clocks_of_this_machine() -> None:
    first, second = read_clocks(), read_clocks()
    assert 0.0 < first.since_boot <= second.since_boot < 1e9
    assert not jumped(first, second)
    assert len(boot_id()) == 36
