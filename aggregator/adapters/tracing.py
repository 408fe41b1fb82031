"""From a file found somewhere to the version that it holds: by what was noted, then by what it can only be."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aggregator.adapters.errors import ExportFailed
from aggregator.adapters.exports import ExportLog
from aggregator.adapters.registry import NotKept, Registry, open_registry
from aggregator.card import Export
from aggregator.downlink import vector_of
from models import SpecError, TfliteError
from models.predicting import Origin
from models.tflite.adapters.files import read_file
from models.tflite.file import TfliteModel

_BLOCK = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Which version a file holds, and how that is known."""

    file: str
    sha256: str
    version: int
    how: str


def trace(state_dir: Path, file: Path) -> Trace:
    """Return which version of this store's epoch the file holds.

    Raise ``ExportFailed`` when it holds none, saying what is known of it; ``OSError`` when it cannot be read.
    """
    sha256, size = _digest(file)
    with open_registry(state_dir) as registry:
        _, epoch = registry.identity()
        elsewhere: list[Export] = []
        for export in reversed(ExportLog(state_dir).of_file(sha256)):
            if export.epoch == epoch and registry.knows(export.version):
                return _found(file, sha256, export.version, f"exported to {export.file}")
            elsewhere.append(export)
        if elsewhere:
            export = elsewhere[0]
            raise ExportFailed(
                f"{file} is version {export.version} of epoch {export.epoch}, exported to {export.file}: this store, "
                f"of epoch {epoch}, does not hold that version. SHA-256 of its parameters: {export.parameters}"
            )
        for digest, how in _vectors(registry, file, sha256, size):
            if versions := registry.versions_of(digest):
                same = f" (as have versions {', '.join(map(str, versions[:-1]))})" if versions[1:] else ""
                return _found(file, sha256, versions[-1], f"{how}{same}")
        return _by_its_own_word(registry, file, sha256)


def _found(file: Path, sha256: str, version: int, how: str) -> Trace:
    return Trace(file=str(file), sha256=sha256, version=version, how=how)


def _vectors(registry: Registry, file: Path, sha256: str, size: int) -> Iterator[tuple[str, str]]:
    """Give the digests under which the store may know what is in the file."""
    yield sha256, "it is the parameters themselves"
    for length in registry.blob_lengths():
        if length < size:
            yield _digest(file, size - length)[0], "it ends with the parameters, as a device's cached model does"


def _by_its_own_word(registry: Registry, file: Path, sha256: str) -> Trace:
    """Look whether a ``.tflite`` file, patched on a device say, has the bytes that an export of its version has."""
    unknown = f"{file} (SHA-256 {sha256}) was not exported here, and holds no version of this store"
    try:
        model = registry.model()
        found = TfliteModel.parse(read_file(file), model)
        origin = found.origin
    except (TfliteError, SpecError, NotKept):
        raise ExportFailed(unknown) from None
    claimed = f"it says that it is version {origin.version} of federation {origin.federation}, epoch {origin.epoch}"
    if (origin.federation, origin.epoch) != registry.identity():
        raise ExportFailed(f"{unknown}; {claimed}")
    try:
        vector = vector_of(registry.parameters(origin.version)).astype(np.float32)
    except NotKept as exc:
        raise ExportFailed(f"{unknown}; {claimed}, which cannot be checked: {exc}") from exc
    if _fresh(found, vector, origin) != found.data:
        raise ExportFailed(f"{file}: {claimed}, but it has other weights: fine-tuned on a device, private, or changed")
    return _found(file, sha256, origin.version, "an export of this version has the same bytes")


def _fresh(found: TfliteModel, vector: np.ndarray[tuple[int], np.dtype[np.float32]], origin: Origin) -> bytes:
    return TfliteModel.export(found.model, vector, origin, found.scheme).data


def _digest(path: Path, start: int = 0) -> tuple[str, int]:
    """Return the SHA-256 of a file from some byte on, and the length of that."""
    digest, length = hashlib.sha256(), 0
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(_BLOCK):
            digest.update(block)
            length += len(block)
    return digest.hexdigest(), length
