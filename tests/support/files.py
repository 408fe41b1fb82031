"""Files that another process reads at any moment."""

from __future__ import annotations

from pathlib import Path


def put(path: Path, text: str) -> None:
    """Write the file whole or not at all: who reads it meanwhile finds the old text, and never an empty file."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.replace(path)
