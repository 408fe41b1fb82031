"""Reading a ``.tflite`` file without believing it: every offset and length is checked before it is followed.

The runtimes are C++ and follow what a file says; a damaged one can end the process. What comes from outside is read
here first. Whatever is wrong raises ``TfliteError``.
"""

from __future__ import annotations

import struct
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.errors import TfliteError
from models.tflite.schema import FILE_IDENTIFIER

Bytes: TypeAlias = bytes | memoryview
"""Of a file: in memory, or where it is mapped."""

MAX_FILE_BYTES = 512 * 2**20
_LEAST_BYTES = 16
_ROUNDS = 4
"""An honest file is read about once; one whose parts all point to the same long list would be read for hours."""

_FORMATS = {"int8": "<b", "uint8": "<B", "bool": "<B", "int32": "<i", "uint32": "<I", "uint64": "<Q", "float32": "<f"}


class Source:
    """The bytes of a file, and how much of them may still be read."""

    def __init__(self, data: Bytes) -> None:
        if not _LEAST_BYTES <= len(data) <= MAX_FILE_BYTES:
            raise TfliteError(f"{len(data)} bytes are no .tflite file, allowed are {_LEAST_BYTES} to {MAX_FILE_BYTES}")
        if data[4:8] != FILE_IDENTIFIER:
            raise TfliteError("no .tflite file: it does not say TFL3 where these files do")
        self.data = data
        self._left = _ROUNDS * len(data)

    def root(self) -> Table:
        """Return the table that the file begins with."""
        return Table(self, self.unsigned(0))

    def unsigned(self, at: int) -> int:
        """Return the 32-bit number at ``at``."""
        return int(self.unpack("<I", at))

    def unpack(self, form: str, at: int) -> Any:  # noqa: ANN401 - a number of the kind that the form says
        """Return the number at ``at``."""
        size = struct.calcsize(form)
        self.check(at, size, size)
        return struct.unpack_from(form, self.data, at)[0]

    def check(self, at: int, size: int, alignment: int) -> None:
        """Refuse what does not lie in the file whole and aligned, or is more than there can be to read."""
        if at < 0 or at + size > len(self.data):
            raise TfliteError(f"damaged .tflite file: {size} bytes at {at}, and it has {len(self.data)}")
        if at % alignment:
            raise TfliteError(f"damaged .tflite file: a number of {alignment} bytes at {at}")
        self._left -= size
        if self._left < 0:
            raise TfliteError("damaged .tflite file: its parts overlap")


class Table:
    """One table of a FlatBuffer: fields by their position, absent ones with their default."""

    def __init__(self, source: Source, at: int) -> None:
        self._source = source
        self._at = at
        directory = at - int(source.unpack("<i", at))
        size = int(source.unpack("<H", directory))
        self._length = int(source.unpack("<H", directory + 2))
        if size < struct.calcsize("<HH") or size % 2:
            raise TfliteError(f"damaged .tflite file: a table's directory of {size} bytes at {directory}")
        source.check(directory, size, 2)
        source.check(at, self._length, 4)
        self._slots = struct.unpack_from(f"<{size // 2 - 2}H", source.data, directory + 4)

    def number(self, slot: int, kind: str, default: float = 0) -> Any:  # noqa: ANN401 - int or float, by kind
        """Return a scalar."""
        where = self._where(slot)
        return self._source.unpack(_FORMATS[kind], where) if where else default

    def table(self, slot: int) -> Table | None:
        """Return the table that a field points to."""
        target = self._target(slot)
        return Table(self._source, target) if target else None

    def place(self, slot: int, item_bytes: int) -> tuple[int, int] | None:
        """Return where a vector's items begin and how many they are; None when there is no vector."""
        target = self._target(slot)
        if not target:
            return None
        count = self._source.unsigned(target)
        # FlatBuffers align the items of a vector, not only its length.
        self._source.check(target + 4, count * item_bytes, item_bytes)
        return target + 4, count

    def numbers(self, slot: int, dtype: str) -> NDArray[Any]:
        """Return a vector of scalars; empty when there is none."""
        kind = np.dtype(dtype).newbyteorder("<")
        start, count = self.place(slot, kind.itemsize) or (0, 0)
        return np.frombuffer(self._source.data, kind, count, start) if count else np.empty(0, kind)

    def tables(self, slot: int) -> list[Table]:
        """Return a vector of tables; empty when there is none."""
        start, count = self.place(slot, 4) or (0, 0)
        source = self._source
        return [Table(source, at + source.unsigned(at)) for at in range(start, start + 4 * count, 4)]

    def text(self, slot: int) -> str:
        """Return a string; empty when there is none. What is no UTF-8 is shown as such."""
        found = self.place(slot, 1)
        if found is None:
            return ""
        start, count = found
        # Programs in C read until the zero behind it.
        if self._source.unpack("<B", start + count):
            raise TfliteError(f"damaged .tflite file: a text without an end at {start}")
        return bytes(self._source.data[start : start + count]).decode(errors="replace")

    def _where(self, slot: int) -> int:
        """Return where a field lies, 0 when it is absent."""
        offset = self._slots[slot] if slot < len(self._slots) else 0
        if offset >= self._length and offset:
            raise TfliteError(f"damaged .tflite file: a field at {offset} of a table of {self._length} bytes")
        return self._at + offset if offset else 0

    def _target(self, slot: int) -> int:
        where = self._where(slot)
        return where + self._source.unsigned(where) if where else 0
