"""Files that are there whole or not at all, and that only their owner can read where they are secret."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeAlias

SECRET = 0o600
PUBLIC = 0o644
TEMPORARY = ".fedmq-tmp-"
"""How the names of unfinished files begin: what a killed process left is known by it, and swept away."""
SYNCING = 16
"""Files that are synced at the same time: 256 of them in 0.07 s, and one by one in 1.9."""
Owner: TypeAlias = tuple[int, int]
"""User and group, by their numbers."""
MANY = 256
"""Files open at once: a shell allows 1024."""


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


def write_whole(path: Path, content: bytes, mode: int, owner: Owner | None = None) -> None:
    """Write the file under another name, to the disk, and rename it. Without ``owner`` it is the folder's owner's."""
    temporary = _write_aside(path, content, mode, owner)
    os.replace(temporary, path)  # noqa: PTH105 - as its neighbours
    sync_folder(path.parent)


def read_own(path: Path) -> bytes:
    """Return the content of a file whose place somebody else may own, to write it there again; raise ``OSError``.

    Root would otherwise be led by a link to a file that only root can read, and lay a copy of it before everybody.
    """
    plain = "not a file with this one name; put the file itself there"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise OSError(exc.errno, plain, str(path)) from exc
        raise
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise OSError(errno.EINVAL, plain, str(path))
        return file.read()


def _write_aside(path: Path, content: bytes, mode: int, owner: Owner | None) -> Path:
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, SECRET)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            _hand_over(file.fileno(), path.parent, owner)
            os.fchmod(file.fileno(), mode)  # whatever the umask is
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _hand_over(fd: int, folder: Path, owner: Owner | None) -> None:
    """Root, called by sudo in somebody's keystore, leaves nothing there that its owner cannot read or replace."""
    if os.geteuid() == 0:
        status = folder.stat()
        os.fchown(fd, *(owner or (status.st_uid, status.st_gid)))


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


def write_many(contents: list[tuple[Path, bytes]]) -> None:
    """Write secret files, and sync them at the same time: the disk then writes its journal once for many of them."""
    with ThreadPoolExecutor(SYNCING) as pool:
        for begin in range(0, len(contents), MANY):
            _write_together(contents[begin : begin + MANY], pool)


def _write_together(contents: list[tuple[Path, bytes]], pool: ThreadPoolExecutor) -> None:
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(_created(path)) for path, _content in contents]
        for file, (path, content) in zip(opened, contents, strict=True):
            _hand_over(file.fileno(), path.parent, None)
            file.write(content)
            file.flush()
        list(pool.map(os.fsync, [file.fileno() for file in opened]))


def _created(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, SECRET), "wb")
