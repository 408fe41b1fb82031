"""Proves from both ends' books that no update was lost and none counted twice. Pure: values in, faults out.

The books are the databases of all devices and of the aggregator, read after every process has ended. They were written
independently of each other: a device books what it made and which receipts it got, the aggregator what it took in.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

Identity: TypeAlias = tuple[str, str, int]
"""Of an update: device, incarnation (names the device's outbox), sequence from 1."""

MAX_FAULTS = 10
"""Told per check; a thousand lost updates need no thousand lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceBooks:
    """What one device has on its disk."""

    device_id: str
    incarnation: str
    next_sequence: int
    created: int
    accepted: int
    """Receipts that said accepted, or that it had been accepted before."""
    refused: int
    """Receipts that said stale or rejected."""
    dropped: int
    """Given up because the outbox was full."""
    waiting: frozenset[int]
    """Sequences of updates in the outbox: no receipt yet."""
    reports_created: int = 0
    """Answers to surveys: they take sequences from the same row of numbers."""
    reports_accepted: int = 0
    """Receipts, as of updates."""
    reports_refused: int = 0
    reports_dropped: int = 0
    reports_waiting: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorBooks:
    """What the aggregator has on its disk."""

    folded: tuple[Identity, ...]
    """Every update that went into a version or into the open buffer."""
    set_aside: tuple[Identity, ...] = ()
    """Accepted, and then taken out of the open buffer by a rollback."""
    reports: tuple[Identity, ...] = ()
    """Every answer to a survey that was taken in."""
    counted_accepted: int
    counted_folded: int
    versions: tuple[int, ...]
    """In ascending order."""
    update_bytes: int = 0
    """Mean size of an accepted update as sent."""
    parameters: int = 0
    """Of the model."""
    accuracy: float | None = None
    """Of the newest version."""

    @property
    def accepted(self) -> tuple[Identity, ...]:
        """Every update that was accepted, as often as it was."""
        return self.folded + self.set_aside


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The sums over the fleet, and what does not add up."""

    created: int
    accepted: int
    refused: int
    dropped: int
    waiting: int
    folded: int
    taken_in: int
    """Accepted, as the aggregator counts: also those whose receipt the device has not seen yet."""
    faults: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing was lost and nothing counted twice."""
        return not self.faults


def audit(devices: Sequence[DeviceBooks], aggregator: AggregatorBooks) -> Verdict:
    """Compare the books."""
    by_outbox, reports = _by_outbox(aggregator.accepted), _by_outbox(aggregator.reports)
    faults = _twice(aggregator) + _sums(aggregator)
    for books in devices:
        outbox = (books.device_id, books.incarnation)
        taken_in, answered = set(by_outbox.pop(outbox, [])), set(reports.pop(outbox, []))
        faults += [f"{books.device_id}: {fault}" for fault in _device_faults(books, taken_in, answered)]
    faults += [
        f"{device_id}: {len(found)} updates of an outbox that no device has"
        for (device_id, _), found in [*by_outbox.items(), *reports.items()]
    ]
    return Verdict(
        created=sum(books.created for books in devices),
        accepted=sum(books.accepted for books in devices),
        refused=sum(books.refused for books in devices),
        dropped=sum(books.dropped for books in devices),
        waiting=sum(len(books.waiting) for books in devices),
        folded=len(aggregator.folded),
        taken_in=len(aggregator.accepted),
        faults=tuple(faults),
    )


def _by_outbox(identities: tuple[Identity, ...]) -> dict[tuple[str, str], list[int]]:
    found: dict[tuple[str, str], list[int]] = {}
    for device_id, incarnation, sequence in identities:
        found.setdefault((device_id, incarnation), []).append(sequence)
    return found


def _twice(aggregator: AggregatorBooks) -> list[str]:
    # A sequence names one thing: what is a report is no update.
    counts = Counter(aggregator.accepted + aggregator.reports)
    return [
        f"{device_id}: update {sequence} was counted {count} times"
        for (device_id, _, sequence), count in counts.most_common(MAX_FAULTS)
        if count > 1
    ]


def _sums(aggregator: AggregatorBooks) -> list[str]:
    faults = [
        f"the aggregator counted {counted} {kind} updates, and holds {held}"
        for kind, counted, held in (
            ("accepted", aggregator.counted_accepted, len(aggregator.accepted)),
            ("folded", aggregator.counted_folded, len(aggregator.folded)),
        )
        if counted != held
    ]
    if list(aggregator.versions) != list(range(len(aggregator.versions))):
        faults.append(f"versions are not consecutive: {aggregator.versions}")
    return faults


def _device_faults(books: DeviceBooks, taken_in: set[int], answered: set[int]) -> list[str]:
    faults = []
    made = books.created + books.reports_created
    if made != books.next_sequence - 1:
        what = f"{books.created} updates" + (f" and {books.reports_created} reports" if books.reports_created else "")
        faults.append(f"created {what}, but gave out {books.next_sequence - 1} numbers")
    accounted = books.accepted + books.refused + books.dropped + len(books.waiting)
    if books.created != accounted:
        faults.append(f"created {books.created} updates, but can account for {accounted}")
    everything = taken_in | answered | books.waiting | books.reports_waiting
    strange = [sequence for sequence in sorted(everything) if not 1 <= sequence < books.next_sequence]
    faults += [f"update {sequence} exists, but was never made" for sequence in strange[:MAX_FAULTS]]
    faults += _report_faults(books, answered)
    # An update whose receipt was under way at the end is taken in and still waits; one that was given up may have been
    # taken in as well. All others that were taken in are the ones that the device got a receipt "accepted" for.
    settled = len(taken_in - books.waiting)
    if settled < books.accepted:
        faults.append(f"{books.accepted} receipts said accepted, but only {settled} of those updates were taken in")
    if settled > books.accepted + books.dropped:
        faults.append(f"{settled} updates were taken in for good, but only {books.accepted} receipts said accepted")
    return faults


def _report_faults(books: DeviceBooks, answered: set[int]) -> list[str]:
    faults = []
    accounted = books.reports_accepted + books.reports_refused + books.reports_dropped + len(books.reports_waiting)
    if books.reports_created != accounted:
        faults.append(f"created {books.reports_created} reports, but can account for {accounted}")
    settled = len(answered - books.reports_waiting)
    # Of old surveys the aggregator forgets who has answered; none can appear that was not sent.
    if settled > books.reports_accepted + books.reports_dropped:
        faults.append(f"{settled} reports were taken in for good, but {books.reports_accepted} receipts said accepted")
    return faults
