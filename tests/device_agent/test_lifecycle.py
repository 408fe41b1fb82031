from __future__ import annotations

from typing import Any

import pytest

from device_agent.lifecycle import (
    LINK,
    PHASE,
    WORK,
    Link,
    LinkStep,
    Phase,
    PhaseStep,
    Work,
    WorkStep,
    advance,
    work_name,
)

TABLES = [(LINK, Link, LinkStep), (WORK, Work, WorkStep), (PHASE, Phase, PhaseStep)]


@pytest.mark.parametrize(("table", "states", "steps"), TABLES)
def test_every_state_has_a_row_and_every_move_is_listed_or_refused(table: Any, states: Any, steps: Any) -> None:
    assert set(table) == set(states)
    for state in states:
        for step in steps:
            if step in table[state]:
                assert advance(table, state, step) in states
            else:
                with pytest.raises(ValueError, match="is no move"):
                    advance(table, state, step)


@pytest.mark.parametrize(("table", "states", "steps"), TABLES)
def test_every_state_can_be_reached(table: Any, states: Any, steps: Any) -> None:
    reached = {next(iter(states))}
    for _ in steps:
        reached |= {after for state in reached for after in table[state].values()}
    assert reached == set(states)


def test_a_link_that_was_closed_on_purpose_stays_closed_whatever_is_reported_late() -> None:
    assert advance(LINK, Link.CLOSED, LinkStep.LOST) is Link.CLOSED
    assert advance(LINK, Link.CLOSED, LinkStep.CONNECTED) is Link.CLOSED


def test_nothing_happens_after_the_end() -> None:
    assert PHASE[Phase.STOPPED] == {}


def test_only_one_task_at_a_time() -> None:
    for work in (Work.TRAINING, Work.EVALUATING, Work.STOPPING):
        assert WorkStep.TRAIN not in WORK[work]
        assert WorkStep.EVALUATE not in WORK[work]


@pytest.mark.parametrize(
    ("phase", "work", "fetching", "reporting", "name"),
    [
        (Phase.AWAKE, Work.IDLE, False, False, "idle"),
        (Phase.AWAKE, Work.IDLE, False, True, "reporting"),
        (Phase.AWAKE, Work.IDLE, True, True, "fetching"),
        (Phase.AWAKE, Work.TRAINING, True, True, "training"),
        (Phase.AWAKE, Work.EVALUATING, False, False, "training"),
        (Phase.ASLEEP, Work.IDLE, False, True, "sleeping"),
        (Phase.STOPPING, Work.STOPPING, False, False, "training"),
        (Phase.STOPPED, Work.STOPPING, True, True, "stopped"),
    ],
)
def test_what_people_see(phase: Phase, work: Work, fetching: bool, reporting: bool, name: str) -> None:
    assert work_name(phase, work, fetching=fetching, reporting=reporting) == name
