"""What the examiner is told, and what it tells (see ``fedmq.examiner``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from pathlib import Path

PLAN = "plan.json"
ANSWERS = "answers.json"


class Examined(Struct, frozen=True, kw_only=True):
    """A device, and where its files are."""

    name: str
    state_dir: str
    data: str
    holdout: float


class Plan(Struct, frozen=True, kw_only=True):
    """Who is asked."""

    devices: list[Examined]


class Answered(Struct, frozen=True, kw_only=True):
    """What a device's model says of the newest example that it was asked about."""

    version: int
    said: int
    truth: int
    right: int
    """Of the last so many answers ..."""
    asked: int
    """... and how many these are."""
    by: str
    """What computes: ``numpy``, or a runtime's name and version."""


class Answers(Struct, frozen=True, kw_only=True):
    """What all of them say."""

    devices: dict[str, Answered]

    @property
    def right(self) -> int:
        """Of the last answers of all devices."""
        return sum(answer.right for answer in self.devices.values())

    @property
    def asked(self) -> int:
        """How many these are."""
        return sum(answer.asked for answer in self.devices.values())

    @property
    def by(self) -> str:
        """What computes, of all devices."""
        return " and ".join(sorted({answer.by for answer in self.devices.values()}))


def read_answers(folder: Path) -> Answers | None:
    """Return the newest answers; None when there are none yet."""
    try:
        return msgspec.json.decode((folder / ANSWERS).read_bytes(), type=Answers)
    except (OSError, msgspec.MsgspecError):
        return None
