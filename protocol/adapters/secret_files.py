"""The files of keys, certificates and passwords that the configuration names: where they are, and if they are safe.

What is in them never gets into a message, whatever is wrong with it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from protocol.settings import CREDENTIAL, ConfigurationError

MAX_FILE_BYTES = 1024 * 1024
"""No key, and no chain of certificates, is this large: whatever was named by mistake is not read into memory."""

_NOT_THE_OWNER = stat.S_IRWXG | stat.S_IRWXO


def path_of(name: str, what: str) -> Path:
    """Return the path behind a ``FilePath``: itself, or for ``credential:NAME`` systemd's file of that name.

    Raise ``ConfigurationError``, which begins with ``what`` (as in "private key"), when systemd has handed over none.
    """
    if not name.startswith(CREDENTIAL):
        return Path(name)
    credential = name.removeprefix(CREDENTIAL)
    if not credential or credential in {".", ".."} or "/" in credential:
        raise ConfigurationError(f"{what} {name!r}: after {CREDENTIAL!r} belongs the name of a credential, no path")
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise ConfigurationError(
            f"{what} {name}: this was not started by systemd with credentials (CREDENTIALS_DIRECTORY is not set); "
            f"the unit needs LoadCredential={credential}:/path/of/the/file"
        )
    return Path(folder) / credential


def read_public(name: str, what: str) -> bytes:
    """Return the content of a file that everybody may read; raise ``ConfigurationError`` when it cannot be had."""
    return _content(path_of(name, what), what, private=False)


def read_private(name: str, what: str) -> bytes:
    """Return the content of a secret file; raise ``ConfigurationError`` as well when others could read it.

    systemd's credentials are excepted: it guards their folder, whatever their modes say.
    """
    return _content(path_of(name, what), what, private=not name.startswith(CREDENTIAL))


def _content(path: Path, what: str, *, private: bool) -> bytes:
    try:
        # Without O_NONBLOCK a named pipe put in the file's place would stop the link's thread.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigurationError(f"{what} {path}: not a file")
            if private and status.st_mode & _NOT_THE_OWNER:
                mode = stat.S_IMODE(status.st_mode)
                raise ConfigurationError(
                    f"{what} {path}: others than its owner can get at it (mode {mode:04o}); chmod 600 {path}"
                )
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise ConfigurationError(f"{what} {path}: cannot be read: {exc.strerror or exc}") from exc
    except ValueError as exc:
        if isinstance(exc, ConfigurationError):
            raise
        raise ConfigurationError(f"{what} {str(path)!r}: no path: {exc}") from exc
    if not content:
        raise ConfigurationError(f"{what} {path}: the file is empty")
    if len(content) > MAX_FILE_BYTES:
        raise ConfigurationError(f"{what} {path}: larger than {MAX_FILE_BYTES} bytes; this is no such file")
    return content
