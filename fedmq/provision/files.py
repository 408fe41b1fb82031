"""Files that are there whole or not at all, and that only their owner can read where they are secret."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

SECRET = 0o600
PUBLIC = 0o644
TEMPORARY = ".fedmq-tmp-"
"""How the names of unfinished files begin: what a killed process left is known by it, and swept away."""


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, at no moment anybody else; whole or not at all, also on power cuts."""
    write_whole(path, content, SECRET)


def write_public(path: Path, content: bytes) -> None:
    """Write a file that everybody may read; whole or not at all."""
    write_whole(path, content, PUBLIC)


def write_pem(folder: Path, name: str, certificate: bytes, key: bytes) -> tuple[Path, Path]:
    """Write ``NAME.crt`` and ``NAME.key`` (0600) into the folder, which is made when missing; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{name}.crt", folder / f"{name}.key"
    write_secret(paths[1], key)
    write_public(paths[0], certificate)
    return paths


def write_whole(path: Path, content: bytes, mode: int) -> None:
    """Write the file under another name, to the disk, and rename it."""
    temporary = write_aside(path, content, mode)
    os.replace(temporary, path)  # noqa: PTH105 - as its neighbours
    sync_folder(path.parent)


def write_aside(path: Path, content: bytes, mode: int) -> Path:
    """Write and sync the content next to ``path`` under a temporary name, and return that name."""
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, SECRET)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)  # whatever the umask is
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def sync_folder(folder: Path) -> None:
    """Bring the folder's names to the disk: a rename lives there."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sweep(folder: Path) -> None:
    """Remove what killed processes left in the folder."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)
