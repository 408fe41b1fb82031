"""What the aggregator asks of devices besides training, and what they answer: figures that add up, and no sample.

A report takes the way of an update: outbox, sequence, receipt. ``protocol.messages`` reads and writes these.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

import msgpack
from msgspec import Meta, Struct

from protocol.errors import ProtocolError
from protocol.fields import Count, Fraction, Identifier, Sequence, Token, Version

MAX_SURVEYS: Final = 4
"""Of operators, open at a time: the manifest has little room, and a device answers each. A comparison comes on top."""

MAX_CONTENT_BYTES: Final = 4 * 1024 * 1024
"""Of a report: some thousand features with their quantiles."""

AskedKind: TypeAlias = Literal["statistics", "evaluation"]
"""What operators ask."""

SurveyKind: TypeAlias = Literal["statistics", "evaluation", "comparison"]
Content: TypeAlias = Annotated[bytes, Meta(max_length=MAX_CONTENT_BYTES)]


class Survey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A question to the fleet, in the manifest for as long as it is open. A device answers it once."""

    id: Token
    kind: SurveyKind
    """What examples to train on look like; how good the held model is on those that are held out; or how good on those
    both that and the manifest's candidate are."""
    fraction: Fraction = 1.0
    """Share of the fleet that answers (see ``protocol.sampling``)."""
    min_examples: Count = 1
    """A device with fewer examples says that it has none: of very few, figures give away each."""


class Report(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type", tag="report"
):
    """One device's answer. Identity as an update's, of the same sequence."""

    federation: Identifier
    epoch: Token
    device_id: Identifier
    incarnation: Token
    sequence: Sequence
    base_version: Version
    """The version that was held; an evaluation is of that one."""
    survey: Token
    content: Content
    """Msgpack: see docs/protocol.md."""


class SealedReport(
    Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="type",
    tag="sealed-report",
):
    """A ``Report`` of which brokers see only whose it is, and to which survey."""

    federation: Identifier
    epoch: Token
    device_id: Identifier
    incarnation: Token
    sequence: Sequence
    base_version: Version
    survey: Token
    key: Token
    """Id of the sealing key (see ``protocol.signing.key_id``)."""
    sealed: Annotated[bytes, Meta(max_length=MAX_CONTENT_BYTES + 4096)]
    """HPKE's encapsulated key and ciphertext of the content."""


def pack_content(figures: dict[str, Any]) -> bytes:
    """Return the content with these figures; raise ``ProtocolError`` when it is too long."""
    content: bytes = msgpack.packb(figures)
    if len(content) > MAX_CONTENT_BYTES:
        raise ProtocolError(f"a report of {len(content)} bytes where at most {MAX_CONTENT_BYTES} are allowed")
    return content


def unpack_content(content: bytes) -> dict[str, Any]:
    """Return the figures, a map of whatever; raise ``ProtocolError`` when it is none."""
    try:
        found = msgpack.unpackb(content, raw=False, strict_map_key=True, max_ext_len=0)
    except RecursionError as exc:
        raise ProtocolError("a report's content is nested too deeply") from exc
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as exc:
        raise ProtocolError(f"a report's content is not msgpack: {str(exc) or type(exc).__name__}"[:400]) from exc
    if not isinstance(found, dict):
        raise ProtocolError("a report's content is no map")
    return found
