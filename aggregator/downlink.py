"""How a version's parameters are made from the master, and in which forms they travel.

A version *is* what devices end up with: the master is encoded for the way down and decoded again, and that vector is
evaluated, kept and announced by digest. What encoding rounds away stays in the master, so it is not lost: it goes down
with a later version (error feedback on the downlink).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.configuration import DownlinkTable
from protocol import tensors
from protocol.chunks import blob_of, digest_of
from protocol.messages import BlobRef, DeltaRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendition:
    """A version's parameters and their encoded forms."""

    vector: NDArray[np.float32]
    parameters: bytes
    digest: str
    blob: BlobRef
    blob_bytes: bytes
    delta: DeltaRef | None = None
    delta_bytes: bytes = b""


def vector_of(parameters: bytes) -> NDArray[np.float32]:
    """Return the float32 vector (read-only view) of a version's bytes."""
    return np.frombuffer(parameters, dtype="<f4")


def render(
    master: NDArray[np.float32],
    settings: DownlinkTable,
    rng: np.random.Generator,
    base: tuple[int, NDArray[np.float32]] | None = None,
) -> Rendition:
    """Return the version made from ``master`` (float32, finite).

    With ``base``, an earlier version's number and vector, and a delta codec in the settings, the version is
    ``base + decode(delta)`` in float32, so that who holds the base gets exactly the same vector from the small delta.
    Where that sum overflows, there is no delta.
    """
    delta, delta_bytes, wanted = None, b"", master
    stepped = _stepped(master, base[1], settings.delta_codec, rng) if base and settings.delta_codec else None
    if base and stepped:
        wanted, delta_bytes = stepped
        reference = blob_of(delta_bytes, settings.delta_codec, settings.chunk_bytes)
        delta = DeltaRef(base_version=base[0], blob=reference)
    blob_bytes = tensors.encode(settings.encoding, wanted, rng)
    vector = tensors.decode(settings.encoding, blob_bytes, master.size)
    parameters = vector.astype("<f4", copy=False).tobytes()
    return Rendition(
        vector=vector,
        parameters=parameters,
        digest=digest_of(parameters),
        blob=blob_of(blob_bytes, settings.encoding, settings.chunk_bytes),
        blob_bytes=blob_bytes,
        delta=delta,
        delta_bytes=delta_bytes,
    )


def _stepped(
    master: NDArray[np.float32], held: NDArray[np.float32], codec: str, rng: np.random.Generator
) -> tuple[NDArray[np.float32], bytes] | None:
    """Return where the encoded step from ``held`` towards ``master`` leads, and that step; None if it overflows."""
    with np.errstate(over="ignore"):
        step = master - held
        if not tensors.is_finite(step):
            return None
        encoded = tensors.encode(codec, step, rng)
        vector = held + tensors.decode(codec, encoded, master.size)
    return (vector, encoded) if tensors.is_finite(vector) else None
