"""A task that is told to stop while it reads or measures: it asks as it goes along, and leaves by an exception."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ASK_EVERY = 256
"""Items between two questions: a few milliseconds' worth of rows, and the asking costs nothing beside them."""

_T = TypeVar("_T")


class TaskLeftError(Exception):
    """The task is to stop, and stops here; nothing of what it was at is kept."""


def never() -> bool:
    """For who is never told to stop."""
    return False


def leave_if(stopped: Callable[[], bool]) -> None:
    """Raise ``TaskLeftError`` when the task is to stop."""
    if stopped():
        raise TaskLeftError


def asking(stopped: Callable[[], bool]) -> Callable[[], None]:
    """Return what is called between two pieces of work, and leaves the task when it is to stop."""

    def between() -> None:
        leave_if(stopped)

    return between


def until(stopped: Callable[[], bool], items: Iterable[_T], every: int = ASK_EVERY) -> Iterator[_T]:
    """Return the items; raise ``TaskLeftError`` between two of them when the task is to stop."""
    for number, item in enumerate(items):
        if number % every == 0:
            leave_if(stopped)
        yield item
