"""``.tflite`` files on the disk: whole or not at all."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from models.errors import TfliteError
from models.tflite.reading import MAX_FILE_BYTES


def write_file(path: Path, data: bytes) -> None:
    """Replace the file; a crash at any moment leaves the old one or the new one. Raise ``OSError``."""
    fresh = path.with_name(path.name + ".new")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    """Give the file's bytes without reading them into memory of our own.

    Raise ``OSError``, or ``TfliteError`` when its size is that of no such file.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not 1 <= size <= MAX_FILE_BYTES:
            raise TfliteError(f"{path} has {size} bytes, allowed are 1 to {MAX_FILE_BYTES}")
        whole = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        view = memoryview(whole)
        try:
            yield view
        finally:
            # Who still looks at a part of it (BufferError) has it unmapped when he is done.
            with contextlib.suppress(BufferError):
                view.release()
                whole.close()


def read_file(path: Path) -> bytes:
    """Return the file's bytes. Raise ``OSError``, or ``TfliteError`` when it is too large to be one."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise TfliteError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    return data
