"""Where bytes become messages: what arrived on which topic, checked, or counted and told once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from device_agent.settings import MAX_MODEL_BYTES, MAX_MODEL_CHUNKS
from protocol.errors import ProtocolError
from protocol.identifiers import check_identifier
from protocol.messages import DeviceCommand, Manifest, Receipt
from protocol.packing import decode_command, decode_manifest, decode_receipt

if TYPE_CHECKING:
    from collections.abc import Callable

    from device_agent.trust import Trust
    from protocol.link import Received
    from protocol.messages import BlobRef
    from protocol.signing import SignedKind
    from protocol.topics import Topics

_MessageT = TypeVar("_MessageT", Manifest, DeviceCommand)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of some blob, not checked yet against what it should be."""

    digest: str
    index: int
    data: bytes


Message: TypeAlias = Manifest | Receipt | DeviceCommand | Chunk


class Gate:
    """Reads what the link received for one device."""

    def __init__(self, topics: Topics, device_id: str, trust: Trust) -> None:
        self._topics = topics
        self._trust = trust
        self._device_id = check_identifier(device_id, "device id")
        self._receipt = topics.receipt(device_id)
        self._commands = (topics.command(device_id), topics.command_all)

    def subscriptions(self) -> tuple[str, ...]:
        """Return the topics that a device listens to all the time."""
        return (self._receipt, *self._commands, self._topics.current_model)

    def read(self, received: Received) -> Message | None:
        """Return the message; None for a retained topic that was cleared; raise ``ProtocolError`` when it is none."""
        topic, payload = received.topic, received.payload
        if topic == self._topics.current_model:
            return self._manifest(payload) if payload else None
        if topic == self._receipt:
            return self._own_receipt(decode_receipt(payload))
        if topic in self._commands:
            return self._command(payload, retained=received.retain)
        digest, index = self._topics.parse_blob_topic(topic)
        return Chunk(digest=digest, index=index, data=payload)

    def _manifest(self, payload: bytes) -> Manifest:
        manifest = self._believed("manifest", payload, decode_manifest)
        self._trust.check_manifest(manifest)
        for named in (manifest, manifest.candidate):
            if named is not None:
                _check_blob(named.blob, named.parameters)
        return manifest

    def _own_receipt(self, receipt: Receipt) -> Receipt:
        self._check_federation(receipt.federation)
        if receipt.device_id != self._device_id:
            raise ProtocolError("receipt for another device")
        return receipt

    def _command(self, payload: bytes, *, retained: bool) -> DeviceCommand | None:
        if not payload:
            return None
        if retained:
            # It would be obeyed at every start for ever; commands are for those who are there.
            raise ProtocolError("retained command")
        command = self._believed("command", payload, decode_command)
        self._trust.check_command(command)
        return command

    def _believed(self, kind: SignedKind, payload: bytes, decode: Callable[[bytes], _MessageT]) -> _MessageT:
        body = self._trust.body_of(kind, payload)
        try:
            return decode(body)
        except ProtocolError as exc:
            raise self._trust.malformed(kind, exc) from exc

    def _check_federation(self, federation: str) -> None:
        if federation != self._topics.federation:
            raise ProtocolError("message of another federation")


def _check_blob(blob: BlobRef, parameters: str) -> None:
    if blob.total_bytes > MAX_MODEL_BYTES or blob.chunk_count > MAX_MODEL_CHUNKS:
        raise ProtocolError(f"manifest of a model of {blob.total_bytes} bytes in {blob.chunk_count} chunks")
    if blob.encoding == "f32" and blob.digest != parameters:
        raise ProtocolError("manifest whose float32 blob is not the parameters that it names")
