"""The frozen network before the model: what is announced of it, and its bytes, the same for all versions."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.messages import BackboneRef

MAX_BACKBONE_BYTES = 64 * 1024 * 1024
"""The broker keeps it in memory beside everything else, and each device on its disk."""

ENCODING = "tflite"
"""Of the blob."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """A checked file, ready to be announced."""

    ref: BackboneRef
    data: bytes
