"""The messages that carry models and updates: see docs/protocol.md, and ``protocol.packing``, which reads them.

A field whose value is its default is left out. So what is added later, with a default that means "not used", disturbs
nobody who does not know it, until it is used; then he refuses the message, and says why. (msgspec compares by identity:
an equal number or text that was read from somewhere is written. So defaults of new fields are None, True, False or
empty.)
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct

from protocol.envelope import Signed
from protocol.fields import (
    MAX_CHUNKS,
    SEALING_KEY_BYTES,
    CodecName,
    Count,
    Digest,
    Fraction,
    Identifier,
    Index,
    Metrics,
    PublicKey,
    Reason,
    SealingSuite,
    Seconds,
    Sequence,
    Token,
    Version,
    Width,
)
from protocol.surveys import MAX_SURVEYS, Report, SealedReport, Survey
from protocol.thresholds import Threshold

MAX_MESSAGE_BYTES = 128 * 1024
"""No single MQTT message is larger: managed brokers cut at 128 KB, and big messages stall slow links."""

MAX_CHUNK_BYTES = 96 * 1024
"""Leaves room for the envelope under ``MAX_MESSAGE_BYTES``."""

MAX_MANIFEST_BYTES = 4096
"""Of a manifest or a command as it travels, signatures included."""

MAX_UPDATE_BYTES = 256 * 1024 * 1024


class BlobRef(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Names an immutable byte string and how it is cut into retained chunks."""

    digest: Digest
    """SHA-256 of the whole blob, lower-case hexadecimal."""
    total_bytes: Annotated[int, Meta(ge=1, le=MAX_UPDATE_BYTES)]
    chunk_bytes: Annotated[int, Meta(ge=1, le=MAX_CHUNK_BYTES)]
    encoding: CodecName
    """Tensor codec of the vector inside."""

    def __post_init__(self) -> None:
        if self.chunk_count > MAX_CHUNKS:
            raise ValueError(f"{self.chunk_count} chunks where at most {MAX_CHUNKS} are allowed")

    @property
    def chunk_count(self) -> int:
        """Number of chunks: all of ``chunk_bytes`` but the last, which may be shorter."""
        return -(-self.total_bytes // self.chunk_bytes)


class DeltaRef(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A way to the new version for who holds an older one: ``parameters(base) + decode(blob)`` in float32."""

    base_version: Version
    blob: BlobRef


class BackboneRef(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A frozen network that devices run before the model: samples go in, and what comes out is the model's input."""

    blob: BlobRef
    """The whole ``.tflite`` file; its encoding is ``"tflite"``, and its digest pins it."""
    inputs: Width
    """Values of a sample."""
    outputs: Width
    """Values of an embedding: the inputs of the model."""


class Participation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Who takes part in this version, and how updates are to be sent."""

    codec: CodecName = "int8"
    """Tensor codec of the updates."""
    sampling_fraction: Fraction = 1.0
    """Share of the fleet that takes part, decided by each device alone (see ``protocol.sampling``)."""
    contributions_per_version: Count = 1
    """How many updates of one device one version may hold."""


class Sealing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How updates are to be sealed (see ``protocol.sealing``)."""

    suite: SealingSuite
    key: Annotated[bytes, Meta(min_length=32, max_length=1216)]
    """The aggregator's public key, raw: X25519, or ML-KEM-768 followed by X25519."""

    def __post_init__(self) -> None:
        wanted = SEALING_KEY_BYTES[self.suite]
        if len(self.key) != wanted:
            raise ValueError(f"a key of {len(self.key)} bytes where {self.suite} has {wanted}")


class Candidate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What may become the next version: to be compared with the current one, never trained or predicted with."""

    survey: Token
    """Which of the manifest's surveys asks for the comparison."""
    version: Version
    """The number that it will have if it is published."""
    parameters: Digest
    blob: BlobRef


class Manifest(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type", tag="manifest"
):
    """Announces the current version: all that a device needs to fetch, check, build and train it."""

    federation: Identifier
    epoch: Token
    """Identity of the aggregator's history; versions of different epochs are not comparable."""
    version: Version
    generation: Version = 0
    """When the epoch began, in milliseconds since 1970 by the aggregator's clock; above every earlier epoch's."""
    issued: Version = 0
    """Grows with every start of the aggregator: orders announcements of one version."""
    model: dict[str, Any]
    """Model spec as data; ``models.build`` checks it."""
    layout: Digest
    """Digest of the parameter layout that the spec leads to: the blob's. Updates leave out what is private."""
    parameters: Digest
    """SHA-256 of the version's float32 little-endian parameter vector, however it was fetched."""
    blob: BlobRef
    """The whole parameter vector."""
    deltas: Annotated[list[DeltaRef], Meta(max_length=3)] = []
    training: dict[str, Any]
    """Training plan as data; ``models.TrainingPlan`` checks it."""
    features: dict[str, Any] = {}
    """How rows of sensors become examples, as data; ``models.Pipeline`` checks it. Empty: devices have examples."""
    personal: dict[str, Any] = {}
    """Which parameters devices keep to themselves, as data; ``models.Personal`` checks it. Empty: none."""
    backbone: BackboneRef | None = None
    """What samples go through before the model; None: nothing."""
    participation: Participation
    trains: bool = True
    """Whether this version is to be trained; one that is only announced for its surveys is not."""
    surveys: Annotated[list[Survey], Meta(max_length=MAX_SURVEYS + 1)] = []
    """What devices are asked besides."""
    anomaly: Threshold | None = None
    """From which error on an example is an anomaly; None: nobody has measured it."""
    candidate: Candidate | None = None
    """What is tried before it is published; None: nothing."""
    signing_keys: Annotated[list[PublicKey], Meta(max_length=3)] = []
    """Whom to trust from now on, for who checks signatures; the first one signs now."""
    sealing: Sealing | None = None
    """Updates must be sealed to this key; None: they travel in the clear."""


class ModelUpdate(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type", tag="update"
):
    """One device's contribution, relative to the version that it started from.

    Identity: ``(device_id, incarnation, sequence)``. The sequence is durable in the device's outbox and only grows;
    the incarnation names that outbox, so that a device whose disk was lost does not repeat old identities.
    """

    federation: Identifier
    epoch: Token
    device_id: Identifier
    incarnation: Token
    sequence: Sequence
    base_version: Version
    num_examples: Count
    num_steps: Count
    codec: CodecName
    layout: Digest
    delta: bytes
    """``parameters after training - parameters of base_version``, encoded with ``codec``."""
    metrics: Metrics = {}


class SealedUpdate(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type", tag="sealed"
):
    """A ``ModelUpdate`` of which brokers see only whose it is. The clear fields are bound to the sealed ones."""

    federation: Identifier
    epoch: Token
    device_id: Identifier
    incarnation: Token
    sequence: Sequence
    base_version: Version
    key: Token
    """Id of the sealing key (see ``protocol.signing.key_id``)."""
    sealed: bytes
    """HPKE's encapsulated key and ciphertext of an ``UpdateContent``."""


class UpdateContent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is sealed: the fields of a ``ModelUpdate`` that are nobody's business on the way."""

    num_examples: Count
    num_steps: Count
    codec: CodecName
    layout: Digest
    delta: bytes
    metrics: Metrics = {}


class UpdateChunk(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type", tag="chunk"
):
    """A piece of an encoded update or report, sealed or not, that is too large for one MQTT message."""

    federation: Identifier
    device_id: Identifier
    incarnation: Token
    sequence: Sequence
    blob: BlobRef
    """The whole; its encoding is ``"update"``."""
    index: Index
    data: bytes


class UpdateProbe(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type", tag="probe"
):
    """Asks what became of an update, before its chunks are sent again; the answer is a receipt."""

    federation: Identifier
    device_id: Identifier
    incarnation: Token
    sequence: Sequence


ReceiptStatus: TypeAlias = Literal["accepted", "duplicate", "stale", "rejected", "retry"]


class Receipt(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type", tag="receipt"
):
    """What became of one update. All but ``retry`` are final: the device forgets the update."""

    federation: Identifier
    epoch: Token
    device_id: Identifier
    incarnation: Token
    sequence: Sequence
    status: ReceiptStatus
    reason: Reason = ""
    version: Version = 0
    """The aggregator's current version."""
    next_after_s: Seconds = 0.0
    """Pace: after ``retry`` send again no sooner, after the others start the next training no sooner."""
    missing: Annotated[list[Index], Meta(max_length=4096)] = []
    """With ``retry``: chunk indices still wanted; empty means the whole update."""


CommandAction: TypeAlias = Literal["pause", "resume", "evaluate", "forget"]


class DeviceCommand(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type", tag="command"
):
    """An operator's wish to one device or to all."""

    federation: Identifier
    request_id: Token
    action: CommandAction
    target: Identifier
    """A device id, or ``all``."""
    issued: Version
    """Number that only grows, over the life of the federation."""


WholeMessage: TypeAlias = ModelUpdate | SealedUpdate | Report | SealedReport
"""What is kept in an outbox, and may come in chunks."""

UpMessage: TypeAlias = WholeMessage | UpdateChunk | UpdateProbe
"""What arrives on an update topic."""

AnyMessage: TypeAlias = UpMessage | Manifest | UpdateContent | Receipt | DeviceCommand | Signed
