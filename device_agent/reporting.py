"""Getting updates out of the outbox: one at a time, in order of sequence, until a receipt says that it is settled."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from device_agent.commands import Command, LoadUpdate, Publish
from protocol.backoff import full_jitter
from protocol.chunks import blob_of
from protocol.messages import BlobRef, Receipt, UpdateChunk, UpdateProbe
from protocol.packing import encode

if TYPE_CHECKING:
    import random

    from device_agent.records import OutboxEntry
    from device_agent.settings import OutboxSettings

WINDOW = 4
"""Chunks handed to the link and not yet acknowledged by the broker: the outbox is the queue, not the client library."""

EAGER_RETRIES = 3
"""So many "retry" receipts that name no wait are obeyed at once; then they are taken for a sign of trouble."""

RETRY_FIRST_S = 0.5


class Step(Enum):
    """Where the update in flight is."""

    LOADING = "loading"
    SENDING = "sending"
    PROBING = "probing"
    AWAITING = "awaiting"
    """Everything is with the broker; the receipt is not here yet."""
    RESTING = "resting"
    """Until the deadline, or until the next connection when there is none."""


@dataclass(slots=True)
class InFlight:
    """The one update that is being sent."""

    entry: OutboxEntry
    step: Step = Step.RESTING
    deadline: float | None = None
    paced: bool = False
    """The aggregator asked for this rest: a new connection does not end it."""
    plan: list[int] | None = None
    """Chunks that the last receipt asked for; None = not known."""
    offered: bool = False
    """Some of its chunks may be with the aggregator already: ask before sending all of them again."""
    failures: int = 0
    retries: int = 0
    body: bytes = b""
    blob: BlobRef | None = None
    to_send: deque[int] = field(default_factory=deque)
    unacked: set[str] = field(default_factory=set)


class Reporter:
    """Sends the outbox. It knows rows by their entries, and the bytes of the one in flight only while it sends them."""

    def __init__(
        self,
        settings: OutboxSettings,
        identity: tuple[str, str, str],
        topic: str,
        entries: tuple[OutboxEntry, ...],
        rng: random.Random,
    ) -> None:
        self._settings = settings
        self._federation, self._device_id, self._incarnation = identity
        self._topic = topic
        self._rng = rng
        self._entries = {entry.sequence: entry for entry in sorted(entries, key=lambda entry: entry.sequence)}
        # A run before this one may have sent some of them.
        self._maybe_offered = set(self._entries)
        self._flight: InFlight | None = None
        self._linked = False
        self._attempt = 0
        self.held_up = False
        """Whether nothing new may be sent on this line; what is on its way is finished."""

    @property
    def entries(self) -> list[OutboxEntry]:
        """What waits, in ascending sequence."""
        return list(self._entries.values())

    @property
    def total_bytes(self) -> int:
        """Encoded size of all that waits."""
        return sum(entry.size for entry in self._entries.values())

    @property
    def busy(self) -> bool:
        """Whether an update is on its way or its receipt may come any moment."""
        return self._flight is not None and self._flight.step is not Step.RESTING

    @property
    def put_off(self) -> bool:
        """Whether the aggregator asked the update in flight to wait: another one would only grow old behind it."""
        return self._flight is not None and self._flight.retries > 0

    @property
    def deadline(self) -> float | None:
        """When ``due`` has something to do."""
        return self._flight.deadline if self._flight and (self.busy or not self.held_up) else None

    def entry(self, sequence: int) -> OutboxEntry | None:
        """Return the waiting update with this sequence."""
        return self._entries.get(sequence)

    def add(self, entry: OutboxEntry) -> None:
        """Take in an update that is on disk."""
        self._entries[entry.sequence] = entry

    def remove(self, sequence: int) -> None:
        """Forget an update: settled or given up."""
        self._entries.pop(sequence, None)
        self._maybe_offered.discard(sequence)
        if self._flight is not None and self._flight.entry.sequence == sequence:
            self._flight = None

    def displaced_by(self, size: int) -> list[OutboxEntry] | None:
        """Return which updates have to go to make room for ``size`` bytes, stalest first; None if that is too much."""
        if size > self._settings.max_bytes:
            return None
        count, total = len(self._entries) + 1, self.total_bytes + size
        gone: list[OutboxEntry] = []
        for entry in sorted(self._entries.values(), key=lambda entry: (entry.base_version, entry.sequence)):
            if count <= self._settings.max_updates and total <= self._settings.max_bytes:
                break
            gone.append(entry)
            count, total = count - 1, total - entry.size
        return gone

    def link_up(self) -> None:
        """Send again what was interrupted, save where the aggregator asked for a rest."""
        self._linked = True
        flight = self._flight
        if flight is None:
            return
        if flight.step is not Step.RESTING:
            self._interrupt(flight)
        if not flight.paced:
            flight.deadline = None

    def link_down(self) -> None:
        """Stop: what the broker did not acknowledge is not sent."""
        self._linked = False
        if self._flight is not None and self._flight.step is not Step.RESTING:
            self._interrupt(self._flight)
            self._flight.deadline = None

    def due(self, now: float) -> list[Command]:
        """Do what can be done now: start the next update, end a rest, or take note that no receipt came."""
        if self.held_up and not self.busy:
            return []
        if self._flight is None:
            self._take_next()
        flight = self._flight
        if flight is None:
            return []
        if flight.step is Step.RESTING:
            rested = flight.deadline is None or now >= flight.deadline
            return self._begin(flight, now) if rested and self._linked else []
        if flight.deadline is not None and now >= flight.deadline:
            self._failed(flight, now)
        return []

    def loaded(self, sequence: int, payload: bytes, now: float) -> list[Command]:
        """Take in the bytes of the update in flight and start sending."""
        flight = self._flight
        if flight is None or flight.entry.sequence != sequence or flight.step is not Step.LOADING:
            return []
        flight.step = Step.SENDING
        flight.body = payload
        if self._chunked(flight):
            flight.blob = blob_of(payload, "update", self._settings.chunk_bytes)
            count = flight.blob.chunk_count
            flight.to_send = deque(index for index in flight.plan or range(count) if index < count)
            flight.offered = True
        else:
            flight.to_send = deque([0])
        flight.plan = None
        return self._pump(flight, now)

    def published(self, token: str, error: str, now: float) -> list[Command]:
        """Take in the broker's acknowledgement of a publish, or its failure."""
        flight = self._flight
        if flight is None or token not in flight.unacked:
            return []
        if error:
            self._failed(flight, now)
            return []
        flight.unacked.discard(token)
        return self._pump(flight, now)

    def retry(self, receipt: Receipt, now: float) -> None:
        """Keep the update and send it, or what is missing of it, when the receipt says so."""
        flight = self._flight
        if flight is None or flight.entry.sequence != receipt.sequence:
            return
        if flight.step in (Step.LOADING, Step.SENDING) and receipt.next_after_s == 0:
            return  # it answers an earlier attempt, and this one is under way
        self._interrupt(flight)
        flight.retries += 1
        flight.plan = list(receipt.missing)
        flight.paced = receipt.next_after_s > 0
        wait = receipt.next_after_s
        if not flight.paced and flight.retries > EAGER_RETRIES:
            wait = full_jitter(self._rng, flight.retries, RETRY_FIRST_S, self._settings.resend_max_s)
        flight.deadline = now + wait

    def _take_next(self) -> None:
        entry = next(iter(self._entries.values()), None)
        if entry is not None:
            self._flight = InFlight(entry=entry, offered=entry.sequence in self._maybe_offered)

    def _begin(self, flight: InFlight, now: float) -> list[Command]:
        self._attempt += 1
        flight.paced = False
        # An attempt that neither fails nor ends would hang for ever; this is far beyond any honest wait.
        flight.deadline = now + max(self._settings.resend_max_s, self._settings.receipt_timeout_s)
        if self._chunked(flight) and flight.offered and flight.plan is None:
            flight.step = Step.PROBING
            probe = UpdateProbe(
                federation=self._federation,
                device_id=self._device_id,
                incarnation=self._incarnation,
                sequence=flight.entry.sequence,
            )
            return [self._publish(flight, encode(probe), "probe")]
        flight.step = Step.LOADING
        return [LoadUpdate(sequence=flight.entry.sequence)]

    def _pump(self, flight: InFlight, now: float) -> list[Command]:
        commands: list[Command] = []
        while flight.to_send and len(flight.unacked) < WINDOW:
            index = flight.to_send.popleft()
            commands.append(self._publish(flight, self._message(flight, index), str(index)))
        if flight.unacked:
            flight.deadline = now + max(self._settings.resend_max_s, self._settings.receipt_timeout_s)
        else:
            flight.step = Step.AWAITING
            flight.body = b""
            flight.deadline = now + self._settings.receipt_timeout_s
        return commands

    def _message(self, flight: InFlight, index: int) -> bytes:
        if flight.blob is None:
            return flight.body
        start = index * flight.blob.chunk_bytes
        chunk = UpdateChunk(
            federation=self._federation,
            device_id=self._device_id,
            incarnation=self._incarnation,
            sequence=flight.entry.sequence,
            blob=flight.blob,
            index=index,
            data=flight.body[start : start + flight.blob.chunk_bytes],
        )
        return encode(chunk)

    def _publish(self, flight: InFlight, payload: bytes, what: str) -> Publish:
        token = f"{flight.entry.sequence}/{self._attempt}/{what}"
        flight.unacked.add(token)
        return Publish(topic=self._topic, payload=payload, token=token)

    def _chunked(self, flight: InFlight) -> bool:
        return flight.entry.size > self._settings.chunk_bytes

    def _failed(self, flight: InFlight, now: float) -> None:
        """Rest before the next attempt; an attempt that failed is forgotten, its late acknowledgements with it."""
        wait = full_jitter(self._rng, flight.failures, self._settings.receipt_timeout_s, self._settings.resend_max_s)
        flight.failures += 1
        self._interrupt(flight)
        flight.deadline = now + wait

    @staticmethod
    def _interrupt(flight: InFlight) -> None:
        flight.step = Step.RESTING
        flight.paced = False
        flight.plan = None
        flight.body = b""
        flight.blob = None
        flight.to_send.clear()
        flight.unacked.clear()
