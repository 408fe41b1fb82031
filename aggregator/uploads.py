"""Updates that arrive in chunks, put together under a bound on memory for each device and for all."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from aggregator.admission import Refused
from protocol.chunks import Assembly
from protocol.errors import ProtocolError
from protocol.messages import BlobRef, UpdateChunk

MAX_MISSING = 1024
"""So many indices in one receipt; a device that misses more asks again after sending those."""

ENVELOPE_BYTES = 8192
"""An update's fields and metrics around its delta."""


@dataclass(slots=True)
class _Upload:
    incarnation: str
    sequence: int
    assembly: Assembly
    touched: float


def _memory_of(blob: BlobRef) -> int:
    return blob.total_bytes + blob.chunk_count  # an assembly keeps a byte for every chunk


class Uploads:
    """At most one unfinished upload a device: a newer sequence replaces an older one.

    ``max_update_bytes`` bounds one upload, ``max_total_bytes`` all together: beyond it the one that was idle longest
    gives way, and its device learns from the next receipt that it has to send again.
    """

    def __init__(self, max_update_bytes: int, max_total_bytes: int, timeout_s: float) -> None:
        self._max_update_bytes = max_update_bytes
        self._max_total_bytes = max_total_bytes
        self._timeout_s = timeout_s
        self._by_device: OrderedDict[str, _Upload] = OrderedDict()
        self.total_bytes = 0
        """Memory promised to the unfinished uploads."""

    def __len__(self) -> int:
        return len(self._by_device)

    def add(self, device_id: str, chunk: UpdateChunk, now: float) -> bytes | None:
        """Take a chunk in; return the whole update when this completes it.

        Raises ``Refused``: ``rejected`` for what can never become an update, ``retry`` when all has to be sent anew.
        """
        upload = self._upload_for(device_id, chunk, now)
        upload.touched = now
        self._by_device.move_to_end(device_id)
        try:
            upload.assembly.add(chunk.index, chunk.data)
            if not upload.assembly.complete:
                return None
            self._forget(device_id)
            return upload.assembly.result()
        except ProtocolError as exc:
            self._forget(device_id)
            raise Refused("retry", "bad-chunk", str(exc)) from exc

    def wants(self, device_id: str, chunk: UpdateChunk) -> bool:
        """Return whether this chunk brings the device's unfinished upload on."""
        upload = self._by_device.get(device_id)
        if upload is None or (upload.incarnation, upload.sequence) != (chunk.incarnation, chunk.sequence):
            return False
        return upload.assembly.blob == chunk.blob and upload.assembly.wants(chunk.index)

    def missing(self, device_id: str, incarnation: str, sequence: int) -> list[int]:
        """Return the chunk indices still wanted of this update; empty when nothing of it is here."""
        upload = self._by_device.get(device_id)
        if upload is None or (upload.incarnation, upload.sequence) != (incarnation, sequence):
            return []
        return upload.assembly.first_missing(MAX_MISSING)

    def expire(self, now: float) -> int:
        """Forget uploads that nothing was heard of for the timeout; return how many."""
        old = [d for d, upload in self._by_device.items() if now >= upload.touched + self._timeout_s]
        for device_id in old:
            self._forget(device_id)
        return len(old)

    def _forget(self, device_id: str) -> None:
        upload = self._by_device.pop(device_id, None)
        if upload is not None:
            self.total_bytes -= _memory_of(upload.assembly.blob)

    def _upload_for(self, device_id: str, chunk: UpdateChunk, now: float) -> _Upload:
        upload = self._by_device.get(device_id)
        if upload and (upload.incarnation, upload.sequence) == (chunk.incarnation, chunk.sequence):
            if upload.assembly.blob == chunk.blob:
                return upload
            if upload.assembly.blob.digest != chunk.blob.digest:
                raise Refused("rejected", "bad-chunk", "the chunks of one update disagree about the whole")
            # The same bytes cut anew: its device came back with another chunk size.
        elif upload and upload.incarnation == chunk.incarnation and upload.sequence > chunk.sequence:
            raise Refused("retry", "superseded", f"update {upload.sequence} is being sent already")
        allowed = min(self._max_update_bytes, self._max_total_bytes)
        if chunk.blob.total_bytes > allowed:
            raise Refused("rejected", "oversized", f"{chunk.blob.total_bytes} bytes, {allowed} allowed")
        self._forget(device_id)
        memory = _memory_of(chunk.blob)
        while self._by_device and self.total_bytes + memory > self._max_total_bytes:
            self._forget(next(iter(self._by_device)))
        fresh = _Upload(chunk.incarnation, chunk.sequence, Assembly(chunk.blob), now)
        self._by_device[device_id] = fresh
        self.total_bytes += memory
        return fresh
