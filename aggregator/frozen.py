"""Files that devices need beside the parameters, the same for all versions: what is announced, and the bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from protocol.messages import BackboneRef, BlobRef

MAX_BACKBONE_BYTES = 64 * 1024 * 1024
"""The broker keeps it in memory beside everything else, and each device on its disk."""

ENCODING = "tflite"
"""Of the blob."""


class Carried(Protocol):
    """A checked file that every version is announced with."""

    @property
    def blob(self) -> BlobRef:
        """What it is on the wire."""

    @property
    def data(self) -> bytes:
        """The file."""

    @property
    def ref(self) -> BackboneRef | None:
        """What the manifest says of it in a field of its own; None: the model's spec says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """A frozen network before the model."""

    ref: BackboneRef
    data: bytes

    @property
    def blob(self) -> BlobRef:
        """What it is on the wire."""
        return self.ref.blob


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """The model itself, where that is a file that learns."""

    blob: BlobRef
    data: bytes
    ref: BackboneRef | None = None
