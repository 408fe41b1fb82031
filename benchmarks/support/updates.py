"""The updates that the load generator sends: real messages, made once, numbered when they are sent."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from benchmarks.support.swarm import MessagesOf
from protocol import chunks, tensors
from protocol.messages import MAX_CHUNK_BYTES, Manifest, ModelUpdate, UpdateChunk
from protocol.packing import encode

_FIRST_SEQUENCE = 1 << 20
"""From here on msgpack takes five bytes for a sequence: it can be written into the finished message."""
_DIRECT_BYTES = 96 * 1024
"""Larger updates travel in chunks."""
_CHUNK_BYTES = 64 * 1024
INCARNATION = "0123456789abcdef"


class Updates:
    """Updates of many devices against one manifest; the deltas are all the same, their identities are not."""

    def __init__(self, manifest: Manifest, size: int, codec: str, device_ids: Sequence[str]) -> None:
        rng = np.random.default_rng(1)
        # Heavy-tailed and small, as real deltas are.
        vector = (1e-3 * rng.standard_t(4, size)).astype(np.float32)
        self.delta = tensors.encode(codec, vector, rng)
        self._manifest = manifest
        self._codec = codec
        self._ids = list(device_ids)
        self._templates: dict[int, tuple[bytes, bytes]] = {}

    @property
    def chunked(self) -> bool:
        """Whether an update needs more than one message."""
        return len(self.delta) > _DIRECT_BYTES

    def messages_of(self) -> MessagesOf:
        """Return the function that the swarm asks for the messages of an update."""
        return self._chunked if self.chunked else self._direct

    def update(self, number: int, sequence: int) -> bytes:
        """Return the encoded update."""
        return encode(
            ModelUpdate(
                federation=self._manifest.federation,
                epoch=self._manifest.epoch,
                device_id=self._ids[number],
                incarnation=INCARNATION,
                sequence=_FIRST_SEQUENCE + sequence,
                base_version=self._manifest.version,
                num_examples=32,
                num_steps=2,
                codec=self._codec,
                layout=self._manifest.layout,
                delta=self.delta,
                metrics={"train_loss": 0.5, "training_s": 0.1},
            )
        )

    def _direct(self, number: int, sequence: int) -> list[bytes]:
        template = self._templates.get(number)
        if template is None:
            template = self._templates[number] = self._cut(number)
        head, tail = template
        return [b"".join((head, struct.pack(">I", _FIRST_SEQUENCE + sequence), tail))]

    def _cut(self, number: int) -> tuple[bytes, bytes]:
        """Return what stands before and after the sequence number."""
        whole = self.update(number, 0)
        mark = b"\xa8sequence\xce" + struct.pack(">I", _FIRST_SEQUENCE)
        position = whole.index(mark) + len(mark) - 4
        return whole[:position], whole[position + 4 :]

    def _chunked(self, number: int, sequence: int) -> list[bytes]:
        whole = self.update(number, sequence)
        blob = chunks.blob_of(whole, "update", min(_CHUNK_BYTES, MAX_CHUNK_BYTES))
        return [
            encode(
                UpdateChunk(
                    federation=self._manifest.federation,
                    device_id=self._ids[number],
                    incarnation=INCARNATION,
                    sequence=_FIRST_SEQUENCE + sequence,
                    blob=blob,
                    index=index,
                    data=data,
                )
            )
            for index, data in enumerate(chunks.split(whole, blob.chunk_bytes))
        ]
