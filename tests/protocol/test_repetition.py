from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.repetition import (
    BUDGET,
    BUDGET_PER_H,
    DISTINCT,
    FAULT_LINES_PER_H,
    MAX_KINDS,
    QUIET_S,
    Repetition,
    Tally,
    span,
)

HOUR = 3600.0


def repetition() -> Repetition:
    return Repetition(calm_below=logging.WARNING, silent_below=logging.INFO)


def said(judge: Repetition, times: list[float], text: str = "disk full", level: int = logging.ERROR) -> list[str]:
    verdicts = [(when, judge.note(level, text, when)) for when in times]
    return [f"{when:.0f}{verdict.more}" for when, verdict in verdicts if verdict.said]


def test_a_fault_that_goes_on_is_said_at_widening_intervals_with_a_count() -> None:
    assert said(repetition(), [float(second) for second in range(8000)]) == [
        "0",
        "10 (again 10 times in 10 s)",
        "70 (again 60 times in 60 s)",
        "670 (again 600 times in 10 min)",
        "4270 (again 3600 times in 60 min)",
        "7870 (again 3600 times in 60 min)",
    ]


def test_after_a_pause_it_is_news_again() -> None:
    judge = repetition()
    assert said(judge, [0.0, 1.0]) == ["0"]
    assert said(judge, [1.0 + QUIET_S, 2.0 + QUIET_S]) == ["1201 (again 2 times in 20 min)"]
    assert said(judge, [12.0 + QUIET_S]) == ["1212 (again 2 times in 11 s)"]


def test_lines_that_differ_in_numbers_are_said_until_there_are_too_many() -> None:
    judge = repetition()
    lines = [judge.note(logging.WARNING, f"quarantine device=press-{number}", 1.0).said for number in range(20)]
    assert sum(lines) == DISTINCT
    assert judge.note(logging.WARNING, "quarantine device=lathe", 1.0).said


@pytest.mark.parametrize(
    "numbers",
    [
        ["3", "17", "1,234", "1,234,567", "0", "99"],
        ["0.5", "2", "-0.25", "1e-07", "3.2e+16", "1.5e5", "nan", "inf"],
        ["10.0.0.1", "10.0.0.17", "192.168.1.1", "127.0.0.1", "1.2.3.4", "5.6.7.8"],
        ["3f9c", "0a", "deadbeef01", "1", "77", "c0ffee0"],
    ],
    ids=["counts", "figures", "addresses", "digests"],
)
def test_a_number_is_a_number_however_it_is_spelled(numbers: list[str]) -> None:
    judge = repetition()
    lines = [f"training failed reason=loss {number}: {number} examples of {number}" for number in numbers]
    assert [judge.note(logging.WARNING, line, 1.0).said for line in lines].count(True) == DISTINCT


def test_details_make_no_other_fault() -> None:
    judge = repetition()
    reason = "training failed reason=samples: {} windows to train on in {} rows, where min_examples is 20"
    whys = ["", "; of the others 3 are held out", "; of the others 9 have no label yet, 3 are held out"]
    lines = [reason.format(number, 5 * number) + whys[number % 3] for number in range(1, 19)]
    assert [judge.note(logging.WARNING, line, 1.0).said for line in lines].count(True) == DISTINCT
    assert judge.note(logging.WARNING, "training failed reason=samples: no row with 'x' has come yet", 1.0).said


def test_what_ended_unsaid_is_said_once() -> None:
    judge = repetition()
    said(judge, [0.0, 1.0, 2.0])
    assert judge.ended(100.0) == []
    (ended,) = judge.ended(1300.0)
    assert (ended.level, ended.text, ended.more) == (logging.ERROR, "disk full", " (again 2 times in 2 s)")
    assert judge.ended(10_000.0) == []
    said(judge, [10_000.0, 10_001.0])
    assert [ended.more for ended in judge.ended(10_001.0, all_of_them=True)] == [" (again 1 time in 1 s)"]


def test_debug_is_never_held_back() -> None:
    judge = repetition()
    assert all(judge.note(logging.DEBUG, "x", 0.0).said for _ in range(10 * BUDGET))


def test_whatever_strangers_write_the_log_has_a_bound() -> None:
    judge = repetition()
    letters = "abcdefghijklmnopqrstuvwxyz"
    times = []
    for second in range(24 * 3600):
        word = "".join(letters[second // 26**place % 26] for place in range(4))
        if judge.note(logging.WARNING, f"unknown field {word}", float(second)).said:
            times.append(second)
    assert len(times) <= BUDGET + 24 * BUDGET_PER_H
    assert len(judge._kinds) <= MAX_KINDS
    assert judge.note(logging.ERROR, "cannot store", 24 * HOUR).said, "errors have a budget of their own"


def test_what_was_left_out_is_counted() -> None:
    judge = repetition()
    for number in range(BUDGET + 7):
        judge.note(logging.WARNING, f"word {'x' * number}", 0.0)
    assert judge.note(logging.WARNING, "calm again", HOUR).more == " (7 other lines were left out)"


@given(st.lists(st.floats(0.0, 2000.0), min_size=1, max_size=300))
def test_no_rhythm_of_a_fault_makes_a_storm(gaps: list[float]) -> None:
    judge, now, times = repetition(), 0.0, []
    for gap in gaps:
        now += gap
        if judge.note(logging.ERROR, "disk full", now).said:
            times.append(now)
    # The worst comes in bursts with just the pause that makes it news again: three lines in each 21 minutes.
    assert all(sum(begin <= when < begin + HOUR for when in times) <= FAULT_LINES_PER_H + 1 for begin in times)


def test_tally() -> None:
    tally = Tally()
    assert tally.take(0.0) == ""
    tally.note(10.0)
    assert tally.take(40.0) == " after 1 failure in 30 s"
    for now in (0.0, 50.0, 600.0):
        tally.note(now)
    assert tally.take(6000.0) == " after 3 failures in 100 min"
    assert tally.take(7000.0) == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (119.0, "119 s"), (120.0, "2 min"), (7200.0, "2 h"), (864_000.0, "10 d")]
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text
