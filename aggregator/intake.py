"""Messages on the update topics: what each one is answered with. Nothing here raises for what a device sends."""

from __future__ import annotations

from msgspec import Struct

from aggregator.admission import FORGIVEN, Refused
from aggregator.allowance import Allowances
from aggregator.commands import Command, Journal, Log, Publish, SaveAnswer
from aggregator.configuration import AggregatorSettings
from aggregator.fleet import Fleet
from aggregator.ledger import Ledger
from aggregator.pace import Pace
from aggregator.records import DeviceRecord
from aggregator.surveys import Surveys
from aggregator.uploads import ENVELOPE_BYTES, Uploads
from protocol.errors import ProtocolError
from protocol.link import Received
from protocol.messages import ModelUpdate, Receipt, ReceiptStatus, SealedUpdate, UpdateChunk, UpdateProbe, UpMessage
from protocol.packing import decode_up, decode_update, encode, identity_of
from protocol.surveys import Report, SealedReport
from protocol.topics import Topics

QUARANTINE_RETRY_S = 300.0
"""A device in quarantine keeps its update and asks again so often: when it is released, it goes on by itself."""


class _Sender(Struct, frozen=True, kw_only=True):
    """Whom the answer goes to: always the owner of the topic, whatever the message claims."""

    device_id: str
    incarnation: str
    sequence: int


class Intake:
    """Takes in updates, whole or in chunks, and probes; returns the journal entry, if any, and then the receipt."""

    def __init__(  # noqa: PLR0917 - six parts of one core
        self,
        settings: AggregatorSettings,
        topics: Topics,
        ledger: Ledger,
        surveys: Surveys,
        fleet: Fleet,
        pace: Pace,
    ) -> None:
        self._surveys = surveys
        self._federation = settings.aggregator.federation
        self._topics = topics
        self._ledger = ledger
        self._fleet = fleet
        self._pace = pace
        # Float32 is the widest encoding that any codec has, save for scales. Reports of a small model may be longer.
        max_update_bytes = max(5 * ledger.server.master.size, surveys.largest_bytes) + ENVELOPE_BYTES
        self._allowances = Allowances(settings.admission, max_update_bytes)
        self._quarantine_after = settings.admission.quarantine_after
        self._uploads = Uploads(
            max_update_bytes=max_update_bytes,
            max_total_bytes=settings.admission.max_assembly_bytes,
            timeout_s=settings.admission.assembly_timeout_s,
        )
        self.load = 0.0
        """Fill of the shell's inbox, 0 to 1."""

    def expire(self, now: float) -> None:
        """Forget uploads that were given up, and devices that were quiet."""
        self._uploads.expire(now)
        self._allowances.expire(now)

    def receive(self, device_id: str, received: Received, now: float, wall: float) -> list[Command]:
        """Return what one message on the device's update topic leads to."""
        try:
            record = self._fleet.seen(device_id, wall)
        except Refused as refused:
            return self._refuse(None, self._sender(device_id, received.payload), refused)
        self._fleet.received(record, len(received.payload))
        unwelcome = self._unwelcome(record, len(received.payload), now)
        if unwelcome is not None:
            return self._turn_away(record, received, unwelcome, now)
        try:
            message = decode_up(received.payload)
        except ProtocolError as exc:
            malformed = Refused("rejected", "malformed", str(exc))
            return self._refuse(record, self._sender(device_id, received.payload), malformed)
        sender = _Sender(device_id=device_id, incarnation=message.incarnation, sequence=message.sequence)
        try:
            self._ledger.gate.check_origin(device_id, message.device_id, message.federation)
            return self._take(record, sender, message, len(received.payload), now)
        except Refused as refused:
            return self._refuse(record, sender, refused)

    def _unwelcome(self, record: DeviceRecord, payload_bytes: int, now: float) -> Refused | None:
        """Return why nothing of the device is looked at now, or None when it is welcome."""
        if record.quarantined:
            return Refused("retry", "quarantined", "an operator has to release this device", QUARANTINE_RETRY_S)
        wait_s = self._allowances.spend(record.device_id, payload_bytes, now)
        if wait_s > 0.0:
            return Refused("retry", "too-many", "more messages or bytes than one device may send", wait_s)
        return None

    def _turn_away(self, record: DeviceRecord, received: Received, unwelcome: Refused, now: float) -> list[Command]:
        if self._allowances.may_answer(record.device_id, now):
            return self._refuse(record, self._sender(record.device_id, received.payload), unwelcome)
        self._fleet.refused(record, unwelcome.status, unwelcome.code)
        return []

    def put_off(self, device_id: str, received: Received, reason: str, next_after_s: float) -> list[Command]:
        """Return the receipt for a message that could not be stored: the device keeps its update."""
        not_stored = Refused("retry", "not-stored", reason, next_after_s)
        return self._refuse(None, self._sender(device_id, received.payload), not_stored)

    def _take(
        self, record: DeviceRecord, sender: _Sender, message: UpMessage, payload_bytes: int, now: float
    ) -> list[Command]:
        match message:
            case ModelUpdate() | SealedUpdate():
                return self._admit(record, sender, message, payload_bytes)
            case Report() | SealedReport():
                return self._take_report(record, sender, message)
            case UpdateChunk():
                return self._add_chunk(record, sender, message, now)
            case UpdateProbe():
                return self._answer_probe(record, sender)

    def _admit(
        self, record: DeviceRecord, sender: _Sender, update: ModelUpdate | SealedUpdate, update_bytes: int
    ) -> list[Command]:
        entry = self._ledger.admit(update, update_bytes, self._pace.retry_after_s())
        self._fleet.accepted(record, entry, update_bytes)
        next_after_s = self._pace.next_after_s(self._fleet.online_estimate, self.load)
        return [Journal(entry), self._receipt(sender, "accepted", "", next_after_s)]

    def _take_report(self, record: DeviceRecord, sender: _Sender, report: Report | SealedReport) -> list[Command]:
        try:
            saved = self._accepted_report(sender, report)
        except Refused as refused:
            self._fleet.refused_report(refused)
            reason = "" if refused.status == "duplicate" else str(refused)
            return [*self._blame(record, refused), self._receipt(sender, refused.status, reason, refused.next_after_s)]
        self._ledger.note_sequence(sender.device_id, sender.incarnation, sender.sequence)
        self._fleet.accepted_report(record)
        return [saved, self._receipt(sender, "accepted", "", 0.0)]

    def _accepted_report(self, sender: _Sender, report: Report | SealedReport) -> SaveAnswer:
        if self._ledger.is_duplicate(sender.device_id, sender.incarnation, sender.sequence):
            raise Refused("duplicate", "", "accepted before")
        return self._surveys.take(self._ledger.gate, report)

    def _add_chunk(self, record: DeviceRecord, sender: _Sender, chunk: UpdateChunk, now: float) -> list[Command]:
        if self._ledger.is_duplicate(sender.device_id, sender.incarnation, sender.sequence):
            raise Refused("duplicate", "", "accepted before")
        wanted = self._uploads.wants(sender.device_id, chunk)
        whole = self._uploads.add(sender.device_id, chunk, now)
        if wanted:
            self._allowances.refund(sender.device_id)
        if whole is None:
            return []
        try:
            inside = decode_update(whole)
        except ProtocolError as exc:
            raise Refused("rejected", "malformed", str(exc)) from exc
        self._ledger.gate.check_origin(sender.device_id, inside.device_id, inside.federation)
        if (inside.incarnation, inside.sequence) != (sender.incarnation, sender.sequence):
            raise Refused("rejected", "malformed", "the update in the chunks has another identity than the chunks")
        return self._take(record, sender, inside, len(whole), now)

    def _answer_probe(self, record: DeviceRecord, sender: _Sender) -> list[Command]:
        if self._ledger.is_duplicate(sender.device_id, sender.incarnation, sender.sequence):
            raise Refused("duplicate", "", "accepted before")
        self._fleet.refused(record, "retry", "")
        missing = self._uploads.missing(sender.device_id, sender.incarnation, sender.sequence)
        return [self._receipt(sender, "retry", "still wanted", 0.0, missing)]

    def _refuse(self, record: DeviceRecord | None, sender: _Sender | None, refused: Refused) -> list[Command]:
        self._fleet.refused(record, refused.status, refused.code)
        commands = self._blame(record, refused) if record is not None else []
        if sender is None:
            return commands  # nobody can be answered: the message does not say which update it is
        reason = "" if refused.status == "duplicate" else str(refused)
        return [*commands, self._receipt(sender, refused.status, reason, refused.next_after_s)]

    def _blame(self, record: DeviceRecord, refused: Refused) -> list[Command]:
        if refused.status != "rejected" or refused.code in FORGIVEN:
            return []
        if not self._fleet.blamed(record, self._quarantine_after, str(refused)):
            return []
        return [Log("warning", "quarantine", {"device": record.device_id, "reason": record.quarantined})]

    def _sender(self, device_id: str, payload: bytes) -> _Sender | None:
        identity = identity_of(payload)
        if identity is None:
            return None
        return _Sender(device_id=device_id, incarnation=identity[0], sequence=identity[1])

    def _receipt(
        self, sender: _Sender, status: ReceiptStatus, reason: str, next_after_s: float, missing: list[int] | None = None
    ) -> Publish:
        receipt = Receipt(
            federation=self._federation,
            epoch=self._ledger.epoch,
            device_id=sender.device_id,
            incarnation=sender.incarnation,
            sequence=sender.sequence,
            status=status,
            reason=reason[:512],
            version=self._ledger.version.version,
            next_after_s=next_after_s,
            missing=missing or [],
        )
        return Publish(topic=self._topics.receipt(sender.device_id), payload=encode(receipt))
