"""The local samples: read from NPZ or CSV, checked, and split so that a row never changes sides.

Imports NumPy: only the trainer's thread imports this module, when a first task starts.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO, cast

import numpy as np

from device_agent.adapters.late_imports import ARCHIVERS, postponed
from device_agent.adapters.leaving import asking, never, until
from models import DataError, Dataset
from models.pieces import Between, pieces_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from device_agent.settings import DataSettings
    from models import Standardization
    from models.data import Shaped

MAX_ROWS = 10_000_000


class DataFileError(ValueError):
    """The file of samples cannot be used; the text names file, row and column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What a device trains and measures on; ``holdout`` is None when no row fell into it."""

    train: Dataset
    holdout: Dataset | None
    upto: int | None = None
    """Newest row of the sample store among them, so that the same can be read again; None: they come from a file."""
    train_ends: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """When each example was complete: a time, or the number of its row in a file. Empty: nobody knows."""
    holdout_ends: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    lasts: float = 0.0
    """Two examples whose ends are further apart share no row."""
    row_hashes: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    """Of a file: of every row, in its order."""
    constants: Standardization | None = None
    """The device's own, by which the features were standardized."""


def load_samples(path: Path, settings: DataSettings, model: Shaped, stopped: Callable[[], bool] = never) -> Samples:
    """Read and check the file, and split it; raise ``DataFileError``, or ``TaskLeftError`` when it is ``stopped``.

    That is asked between bounded pieces, whatever the size of the file. Labels may be missing where none are needed.
    """
    labelled, between = model.task != "reconstruction", asking(stopped)
    if path.suffix.lower() == ".npz":
        x, y = _read_npz(path, between, labelled=labelled)
    else:
        x, y = _read_csv(path, settings.label, stopped, labelled=labelled)
    try:
        data = Dataset.for_model(model, x, y, between)
        hashes = row_hashes(data.x, y, stopped)
        held_out = drawn(hashes, settings.holdout_fraction)
        del x  # of another type it is one copy more
        train = data.parted(~held_out, between)
        holdout = data.parted(held_out, between) if held_out.any() else None
    except DataError as exc:
        raise DataFileError(f"{path}: {exc}") from exc
    if len(train.x) < settings.min_examples:
        raise DataFileError(
            f"{path}: {len(train.x)} examples to train on where min_examples is {settings.min_examples}"
        )
    places = np.arange(len(hashes), dtype=np.float64)
    return Samples(
        train=train,
        holdout=holdout,
        train_ends=places[~held_out],
        holdout_ends=places[held_out],
        row_hashes=hashes,
    )


def row_hashes(x: NDArray[Any], y: NDArray[Any], stopped: Callable[[], bool] = never) -> NDArray[np.uint64]:
    """Return the first 8 bytes, big-endian, of BLAKE2b over each row's float32 features and its label."""
    hashes = np.empty(len(x), np.uint64)
    for part in pieces_of(x):
        rows = np.ascontiguousarray(x[part], dtype="<f4").reshape(part.stop - part.start, -1)
        labels = np.ascontiguousarray(y[part], dtype="<f8").reshape(len(rows), -1)
        found = (
            int.from_bytes(hashlib.blake2b(row.tobytes() + label.tobytes(), digest_size=8).digest(), "big")
            for row, label in until(stopped, zip(rows, labels, strict=True))
        )
        hashes[part] = np.fromiter(found, dtype=np.uint64, count=len(rows))
    return hashes


def drawn(hashes: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_]:
    """Return which rows (n,) are held out: those whose hash is below this fraction of 2**64, exactly.

    By the content of each row alone: it is on the same side whatever other rows there are, in whatever order, and equal
    rows are on the same side.
    """
    limit = math.ceil(fraction * 2.0**64)
    return np.ones(len(hashes), np.bool_) if limit >= 1 << 64 else hashes < np.uint64(limit)


def fingerprint(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when the file does (modification time, size, inode); None when there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class _Asking:
    """A file of which every read may end the task. NumPy reads archives in pieces of 256 KB."""

    def __init__(self, file: BinaryIO, between: Between) -> None:
        self._between = between
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        self._between()
        return self._file.read(size)


def _read_npz(path: Path, between: Between, *, labelled: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    with postponed(ARCHIVERS):
        import zipfile  # noqa: PLC0415 - memory, which a board with sensors does without

    try:
        with path.open("rb") as file, np.load(cast("Any", _Asking(file, between)), allow_pickle=False) as archive:
            found = {name: archive[name] for name in ("x", "y") if name in archive.files}
            names = sorted(archive.files)
    except FileNotFoundError as exc:
        raise DataFileError(f"{path}: there is no such file") from exc
    except (OSError, ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as exc:
        # AttributeError: what np.load returns for a single array (.npy) knows no "files".
        raise DataFileError(f"{path}: cannot be read as .npz: {exc}") from exc
    if not labelled and "x" in found:
        found.setdefault("y", np.zeros(found["x"].shape[:1]))
    for name in ("x", "y"):
        if name not in found:
            raise DataFileError(f"{path}: has no array {name!r}; it has {names}")
    x, y = found["x"], found["y"]
    for name, values in (("x", x), ("y", y)):
        if values.dtype.kind not in "iufb":
            raise DataFileError(f"{path}: array {name!r} holds {values.dtype}, not numbers")
        if values.ndim == 0 or len(values) == 0:
            raise DataFileError(f"{path}: array {name!r} has no rows")
    if len(x) != len(y):
        raise DataFileError(f"{path}: {len(x)} rows in 'x', {len(y)} in 'y'")
    return x.reshape(len(x), -1), y


def _read_csv(
    path: Path, label: str | list[str], stopped: Callable[[], bool], *, labelled: bool
) -> tuple[NDArray[Any], NDArray[Any]]:
    import csv  # noqa: PLC0415 - memory, for who has no such file

    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _parse_csv(path, file, [label] if isinstance(label, str) else label, stopped, labelled=labelled)
    except FileNotFoundError as exc:
        raise DataFileError(f"{path}: there is no such file") from exc
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise DataFileError(f"{path}: cannot be read as .csv: {exc}") from exc


def _parse_csv(
    path: Path, file: TextIO, labels: Sequence[str], stopped: Callable[[], bool], *, labelled: bool
) -> tuple[NDArray[Any], NDArray[Any]]:
    from csv import reader as read_rows  # noqa: PLC0415 - as above

    reader = read_rows(file)
    header = [name.strip() for name in next(reader, [])]
    if not header:
        raise DataFileError(f"{path}: is empty; the first line must name the columns")
    if not labelled:
        labels = [name for name in labels if name in header]
    for name in labels:
        if header.count(name) != 1:
            raise DataFileError(f"{path}: {header.count(name)} columns are called {name!r}; there are {header}")
    # One flat buffer of float64: a list of lists of Python floats takes ten times the memory.
    values = array("d")
    for row in until(stopped, reader):
        if row:
            values.extend(_numbers(path, reader.line_num, header, row))
    if not values:
        raise DataFileError(f"{path}: has a header and no rows")
    table = np.frombuffer(values, dtype=np.float64).reshape(-1, len(header))
    label_columns = [header.index(name) for name in labels]
    features = [index for index in range(len(header)) if index not in label_columns]
    y = table[:, label_columns] if labels or labelled else np.zeros((len(table), 1))
    x = np.empty((len(table), len(features)), np.float32)
    for part in pieces_of(table, asking(stopped)):
        x[part] = table[part][:, features]
    return x, y[:, 0] if y.shape[1] == 1 else y


def _numbers(path: Path, line: int, header: list[str], row: list[str]) -> list[float]:
    if len(row) != len(header):
        raise DataFileError(f"{path}: line {line} has {len(row)} values where the header names {len(header)}")
    if line > MAX_ROWS:
        raise DataFileError(f"{path}: more than {MAX_ROWS} lines")
    try:
        return [float(text) for text in row]
    except ValueError:
        name, text = next((name, text) for name, text in zip(header, row, strict=True) if not _is_number(text))
        raise DataFileError(f"{path}: line {line}, column {name!r}: {text[:40]!r} is no number") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
