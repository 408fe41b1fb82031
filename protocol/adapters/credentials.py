"""The password, from the file that the configuration names."""

from __future__ import annotations

import stat

from protocol.adapters.secret_files import path_of
from protocol.settings import CREDENTIAL, ConfigurationError

_MAX_BYTES = 64 * 1024
_WHAT = "password file"


def read_password(name: str) -> str | None:
    """Return the file's first line, None for no name; raise ``ConfigurationError`` when it cannot be had.

    Refused as well, as private keys are, when others than its owner can read it. A pipe is nobody else's (a shell's
    ``<(...)``), and systemd guards its credentials itself.
    """
    if not name:
        return None
    path = path_of(name, _WHAT)
    try:
        mode = path.stat().st_mode
        _check(mode, f"{_WHAT} {path}", guarded=name.startswith(CREDENTIAL) or stat.S_ISFIFO(mode))
        with path.open("rb") as stream:
            line = stream.readline(_MAX_BYTES).rstrip(b"\r\n").decode()
    except OSError as exc:
        raise ConfigurationError(f"{_WHAT} {path}: cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{_WHAT} {path}: not UTF-8 text") from exc
    if not line:
        raise ConfigurationError(f"{_WHAT} {path}: the first line is empty")
    return line


def _check(mode: int, file: str, *, guarded: bool) -> None:
    if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
        raise ConfigurationError(f"{file}: not a file")
    if not guarded and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(
            f"{file}: others than its owner can get at it (mode {stat.S_IMODE(mode):04o}); chmod 600 it"
        )
