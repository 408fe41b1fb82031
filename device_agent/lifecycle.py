"""The life of an agent as tables: what is not listed is an error by construction.

Three questions, three tables, because their answers are independent: a device trains while offline, and fetches the
next model while it trains. What people see (``work_name``) is derived from them, never stored.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from protocol.status import WorkName


class Link(Enum):
    """Whether there is a connection."""

    CLOSED = "closed"
    """On purpose: not started yet, asleep, or stopped."""
    DOWN = "down"
    """Wanted; the link is trying."""
    UP = "up"


class LinkStep(Enum):
    """What can happen to the connection."""

    OPENED = "opened"
    CONNECTED = "connected"
    LOST = "lost"
    CLOSED = "closed"


class Work(Enum):
    """What the trainer is doing."""

    IDLE = "idle"
    TRAINING = "training"
    EVALUATING = "evaluating"
    STOPPING = "stopping"
    """Asked to stop at the next step."""


class WorkStep(Enum):
    """What can happen to the trainer."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    STOP = "stop"
    ENDED = "ended"


class Phase(Enum):
    """Whether the agent as a whole is awake."""

    AWAKE = "awake"
    ASLEEP = "asleep"
    STOPPING = "stopping"
    STOPPED = "stopped"


class PhaseStep(Enum):
    """What can happen to the agent as a whole."""

    FALL_ASLEEP = "fall asleep"
    WAKE = "wake"
    STOP = "stop"
    END = "end"


LINK: dict[Link, dict[LinkStep, Link]] = {
    # Reports of a connection that was closed on purpose come late; they change nothing.
    Link.CLOSED: {
        LinkStep.OPENED: Link.DOWN,
        LinkStep.CONNECTED: Link.CLOSED,
        LinkStep.LOST: Link.CLOSED,
        LinkStep.CLOSED: Link.CLOSED,
    },
    Link.DOWN: {LinkStep.CONNECTED: Link.UP, LinkStep.LOST: Link.DOWN, LinkStep.CLOSED: Link.CLOSED},
    # A second "connected" is a new connection whose predecessor's end went unnoticed.
    Link.UP: {LinkStep.CONNECTED: Link.UP, LinkStep.LOST: Link.DOWN, LinkStep.CLOSED: Link.CLOSED},
}

WORK: dict[Work, dict[WorkStep, Work]] = {
    Work.IDLE: {WorkStep.TRAIN: Work.TRAINING, WorkStep.EVALUATE: Work.EVALUATING},
    Work.TRAINING: {WorkStep.ENDED: Work.IDLE, WorkStep.STOP: Work.STOPPING},
    Work.EVALUATING: {WorkStep.ENDED: Work.IDLE, WorkStep.STOP: Work.STOPPING},
    Work.STOPPING: {WorkStep.ENDED: Work.IDLE},
}

PHASE: dict[Phase, dict[PhaseStep, Phase]] = {
    Phase.AWAKE: {PhaseStep.FALL_ASLEEP: Phase.ASLEEP, PhaseStep.STOP: Phase.STOPPING},
    Phase.ASLEEP: {PhaseStep.WAKE: Phase.AWAKE, PhaseStep.STOP: Phase.STOPPING},
    Phase.STOPPING: {PhaseStep.STOP: Phase.STOPPING, PhaseStep.END: Phase.STOPPED},
    Phase.STOPPED: {},
}

_State = TypeVar("_State")
_Step = TypeVar("_Step")


def advance(table: dict[_State, dict[_Step, _State]], state: _State, step: _Step) -> _State:
    """Return the state that ``step`` leads to; raise ``ValueError`` for a move that the table does not have."""
    try:
        return table[state][step]
    except KeyError:
        raise ValueError(f"{step} is no move from {state}") from None


def work_name(phase: Phase, work: Work, *, fetching: bool, reporting: bool) -> WorkName:
    """Return what people see: of several things under way, the one that takes the device the longest."""
    if phase is Phase.STOPPED:
        return "stopped"
    if phase is Phase.ASLEEP:
        return "sleeping"
    if work is not Work.IDLE:
        return "training"
    if fetching:
        return "fetching"
    return "reporting" if reporting else "idle"
