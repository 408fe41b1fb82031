"""What the fields of messages may hold: one type each, with its bounds."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from protocol.identifiers import IDENTIFIER_PATTERN

MAX_METRICS = 32

MAX_CHUNKS = 2**20
"""Of one blob: the largest update in chunks of 256 bytes. Book-keeping costs memory too, and is bounded by this."""

Identifier: TypeAlias = Annotated[str, Meta(pattern=IDENTIFIER_PATTERN, max_length=64)]
Digest: TypeAlias = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z", max_length=64)]
Token: TypeAlias = Annotated[str, Meta(pattern=r"\A[0-9a-f]{16}\Z", max_length=16)]
Version: TypeAlias = Annotated[int, Meta(ge=0, lt=2**53)]
Count: TypeAlias = Annotated[int, Meta(ge=1, lt=2**40)]
Sequence: TypeAlias = Annotated[int, Meta(ge=1, lt=2**53)]
Index: TypeAlias = Annotated[int, Meta(ge=0, lt=MAX_CHUNKS)]
Fraction: TypeAlias = Annotated[float, Meta(gt=0.0, le=1.0)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0.0, le=1e9)]
Width: TypeAlias = Annotated[int, Meta(ge=1, le=2**24)]
"""Values of a sample, or of what a network makes of one."""
CodecName: TypeAlias = Annotated[str, Meta(pattern=r"\A[a-z0-9_-]{1,32}\Z", max_length=32)]
Figure: TypeAlias = Annotated[int, Meta(ge=0, lt=2**53)]
"""A count, or a size in bytes: what JSON, msgpack and SQLite can all hold."""
Share: TypeAlias = Annotated[float, Meta(ge=0.0, le=1.0)]
Counts: TypeAlias = Annotated[dict[Annotated[str, Meta(max_length=64)], Figure], Meta(max_length=256)]
Reason: TypeAlias = Annotated[str, Meta(max_length=512)]
PUBLIC_KEY_BYTES = 32
PublicKey: TypeAlias = Annotated[bytes, Meta(min_length=PUBLIC_KEY_BYTES, max_length=PUBLIC_KEY_BYTES)]
"""Of Ed25519, raw."""
SealingSuite: TypeAlias = Literal["x25519", "mlkem768-x25519"]
Metrics: TypeAlias = Annotated[dict[Annotated[str, Meta(max_length=64)], float], Meta(max_length=MAX_METRICS)]

SEALING_KEY_BYTES: dict[SealingSuite, int] = {"x25519": 32, "mlkem768-x25519": 1184 + 32}
"""Length of a raw public key."""
