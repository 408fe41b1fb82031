"""``.tflite`` files on the disk: whole or not at all."""

from __future__ import annotations

import contextlib
import os
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


def read_file(path: Path) -> bytes:
    """Return the file's bytes. Raise ``OSError``, or ``TfliteError`` when it is too large to be one."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise TfliteError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    return data
