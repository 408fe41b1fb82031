"""The password, from the file that the configuration names."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

from protocol.settings import ConfigurationError

log = logging.getLogger(__name__)

_MAX_BYTES = 64 * 1024
_warned: set[str] = set()


def read_password(path: str) -> str | None:
    """Return the file's first line, None for no path; raise ``ConfigurationError`` when it cannot be had.

    Warns, once for each file, when others than its owner can read it.
    """
    if not path:
        return None
    file = Path(path)
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
            raise ConfigurationError(f"password file {path}: not a file")
        with file.open("rb") as stream:
            line = stream.readline(_MAX_BYTES).rstrip(b"\r\n").decode()
    except OSError as exc:
        raise ConfigurationError(f"password file {path}: cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"password file {path}: not UTF-8 text") from exc
    if not line:
        raise ConfigurationError(f"password file {path}: the first line is empty")
    if mode & (stat.S_IRGRP | stat.S_IROTH) and path not in _warned:
        _warned.add(path)
        log.warning("password file %s can be read by others than its owner: chmod 600 it", path)
    return line
