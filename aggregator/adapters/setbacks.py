"""What becomes of a batch of events that came to nothing: through a fault of ours in one of them, or of the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregator.adapters.inbox import hollow
from aggregator.commands import Command, Reply
from aggregator.events import (
    DeviceCommandRequested,
    Event,
    QuarantineRequested,
    RollbackRequested,
    ScheduleDue,
    StatusRequested,
    StopRequested,
    Tick,
)
from protocol.link import Received

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def rest_without(
    culprit: Event, events: Sequence[Event], unacknowledged: Iterable[Received], fault: Exception
) -> list[Event]:
    """Return what to decide on again, without what the culprit says; raise the fault if no message can have caused it.

    Nothing that a device sends should lead here. If something does, it must not do so again and again: the broker
    would deliver it after every restart. Other faults end the process.
    """
    there = {id(event) for event in events}
    held = [received for received in unacknowledged if id(received) not in there]
    # The tick that ends the claim hands out what was held back until then.
    if not (isinstance(culprit, Received) or (isinstance(culprit, Tick) and held)):
        raise fault
    rest: list[Event] = [*held]
    for event in events:
        if event is not culprit:
            rest.append(event)
        elif isinstance(event, Received):
            rest.append(hollow(event))
    return rest


def refusals(events: Sequence[Event], reason: str) -> list[Command]:
    """Return the answers to operators whose wishes could not be stored."""
    return [
        Reply(request_id=event.request_id, error=f"cannot store: {reason}")
        for event in events
        if isinstance(event, RollbackRequested | DeviceCommandRequested | QuarantineRequested)
    ]


def storeless(events: Sequence[Event]) -> list[Event]:
    """Return those of which nothing has to be stored."""
    return [event for event in events if isinstance(event, StatusRequested | StopRequested)]


def repeated(events: Sequence[Event]) -> list[Event]:
    """Return those that nobody would send again. The new core knows the link, and figures will be due again."""
    return [event for event in events if isinstance(event, ScheduleDue)]
