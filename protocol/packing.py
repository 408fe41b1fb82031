"""Messages as bytes and back: msgpack maps, checked once, here, at the gate.

Order of the checks: size, then msgpack syntax under limits, then names and types, then finiteness. Whatever is wrong,
one exception comes out, ``ProtocolError``, and names the fault.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import msgpack
import msgspec
from msgspec import Struct

from protocol.envelope import Signed
from protocol.errors import ProtocolError
from protocol.fields import Sequence, Token
from protocol.messages import (
    MAX_MANIFEST_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_UPDATE_BYTES,
    AnyMessage,
    DeviceCommand,
    Manifest,
    ModelUpdate,
    Receipt,
    UpdateContent,
    UpMessage,
    WholeMessage,
)

_T = TypeVar("_T", bound=Struct)


class _Identity(Struct, frozen=True, kw_only=True):
    incarnation: Token
    sequence: Sequence


_UP_DECODER: msgspec.msgpack.Decoder[UpMessage] = msgspec.msgpack.Decoder(UpMessage)
_ENCODER = msgspec.msgpack.Encoder()


def encode(message: AnyMessage) -> bytes:
    """Return the message as msgpack."""
    return _ENCODER.encode(message)


def decode_up(payload: bytes, *, max_bytes: int = MAX_MESSAGE_BYTES) -> UpMessage:
    """Return the message on an update topic, or raise ``ProtocolError``."""
    message = _decoded_up(payload, max_bytes)
    if isinstance(message, ModelUpdate):
        _check_metrics(message.metrics)
    return message


def _decoded_up(payload: bytes, max_bytes: int) -> UpMessage:
    # Updates are the many: here syntax and shape are checked in one pass, which takes half the time. It accepts nothing
    # that the gate would not (a test compares them); what it refuses the gate refuses too, and names the fault.
    if len(payload) <= max_bytes:
        try:
            return _UP_DECODER.decode(payload)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            pass
    message: UpMessage = _converted(_unpacked(payload, max_bytes), UpMessage)
    return message


def decode_update(payload: bytes) -> WholeMessage:
    """Return the update or report that chunks added up to, or raise ``ProtocolError``."""
    message = decode_up(payload, max_bytes=MAX_UPDATE_BYTES)
    if not isinstance(message, WholeMessage):
        raise ProtocolError("the chunks do not add up to an update or a report")
    return message


def decode_content(payload: bytes) -> UpdateContent:
    """Return what was sealed, or raise ``ProtocolError``."""
    content = _decode(payload, UpdateContent, MAX_UPDATE_BYTES)
    _check_metrics(content.metrics)
    return content


def identity_of(payload: bytes) -> tuple[str, int] | None:
    """Return incarnation and sequence of an update message that was refused, when they can be told, for its receipt."""
    try:
        body = _unpacked(payload, MAX_MESSAGE_BYTES)
        identity = {"incarnation": body["incarnation"], "sequence": body["sequence"]}
        found = msgspec.convert(identity, _Identity, strict=True)
    except (ProtocolError, msgspec.ValidationError, KeyError, TypeError):
        return None
    return found.incarnation, found.sequence


def decode_manifest(payload: bytes) -> Manifest:
    """Return the manifest in the payload, or raise ``ProtocolError``."""
    return _decode(payload, Manifest, MAX_MANIFEST_BYTES)


def decode_receipt(payload: bytes) -> Receipt:
    """Return the receipt in the payload, or raise ``ProtocolError``."""
    return _decode(payload, Receipt, 32 * 1024)


def decode_command(payload: bytes) -> DeviceCommand:
    """Return the command in the payload, or raise ``ProtocolError``."""
    return _decode(payload, DeviceCommand, MAX_MANIFEST_BYTES)


def decode_signed(payload: bytes) -> Signed:
    """Return the envelope in the payload, its signatures not yet checked, or raise ``ProtocolError``."""
    return _decode(payload, Signed, MAX_MANIFEST_BYTES)


def _decode(payload: bytes, wanted: type[_T], max_bytes: int) -> _T:
    message: _T = _converted(_unpacked(payload, max_bytes), wanted)
    return message


def _unpacked(payload: bytes, max_bytes: int) -> Any:  # noqa: ANN401 - nothing is known of it yet
    if len(payload) > max_bytes:
        raise ProtocolError(f"payload of {len(payload)} bytes where at most {max_bytes} are allowed")
    try:
        # msgpack bounds every length by the payload's own, so nothing larger than the payload is ever allocated.
        return msgpack.unpackb(payload, raw=False, strict_map_key=True, max_ext_len=0)
    except RecursionError as exc:
        raise ProtocolError("not msgpack: nested too deeply") from exc
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as exc:
        raise ProtocolError(f"not msgpack: {str(exc) or type(exc).__name__}") from exc


def _converted(body: Any, wanted: Any) -> Any:  # noqa: ANN401 - msgspec makes the type
    try:
        # Without builtin_types a text in the place of bytes would be taken for base64.
        return msgspec.convert(body, wanted, strict=True, builtin_types=(bytes,))
    except (msgspec.ValidationError, RecursionError) as exc:
        raise ProtocolError(f"wrong message: {exc}"[:400] + _advice(exc)) from exc


def _advice(fault: Exception) -> str:
    return "; if the sender is a newer fedmq, upgrade this one" if "unknown field" in str(fault) else ""


def _check_metrics(metrics: dict[str, float]) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise ProtocolError(f"metric {name!r} is {value}")
