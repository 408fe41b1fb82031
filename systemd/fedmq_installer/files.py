"""Files that are there whole or not at all, whenever the installer is killed."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from fedmq_installer.layout import INCOMPLETE


def write(path: Path, content: bytes, mode: int = 0o644) -> bool:
    """Put the content there, durably and in one step; return whether anything changed."""
    if path.is_file() and not path.is_symlink() and path.read_bytes() == content:
        return False
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    aside = path.parent / f"{INCOMPLETE}{path.name}"
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    _sync(path.parent)
    return True


def link(path: Path, target: str) -> bool:
    """Make, or turn, a symbolic link in one step; return whether anything changed."""
    if path.is_symlink() and str(path.readlink()) == target:
        return False
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    aside = path.parent / f"{INCOMPLETE}{path.name}"
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    aside.replace(path)
    _sync(path.parent)
    return True


def remove(path: Path) -> bool:
    """Remove a file, a link (never what it leads to) or a folder with all in it; return whether it was there."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
        return True
    if path.is_dir():
        shutil.rmtree(path)
        return True
    return False


def remove_if_empty(path: Path) -> None:
    """Remove a folder in which nobody has anything."""
    with contextlib.suppress(OSError):
        path.rmdir()


def sweep(folder: Path) -> None:
    """Remove what a run that was killed did not finish."""
    for path in folder.glob(f"{INCOMPLETE}*"):
        remove(path)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
