"""Damaged sample stores: how they are known, and where they go: renamed, the newest few of them kept."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MAX_ASIDE = 3
"""Damaged files that are kept; they are as large as the store may be."""

_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def is_corrupt(exc: sqlite3.Error) -> bool:
    """Return whether the error says that the file is damaged."""
    code = getattr(exc, "sqlite_errorcode", None)
    return (code & 0xFF) in _CORRUPT if code is not None else False


def put_aside(path: Path) -> Path:
    """Rename the damaged file and its companions; only the newest few are kept."""
    for number in range(MAX_ASIDE, 0, -1):
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(f"{path.name}.corrupt-{number}{suffix}")
            if not part.exists():
                continue
            if number == MAX_ASIDE:
                part.unlink()
            else:
                part.rename(path.with_name(f"{path.name}.corrupt-{number + 1}{suffix}"))
    aside = path.with_name(f"{path.name}.corrupt-1")
    for suffix in ("-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            os.replace(part, aside.with_name(aside.name + suffix))  # noqa: PTH105 - whole or not at all
    return aside
