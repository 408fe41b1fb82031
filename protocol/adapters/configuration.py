"""Reading TOML configuration files."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

from protocol.settings import ConfigurationError, StructT, anchored, settings_from

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ConfigurationError", "load"]

MAX_FILE_BYTES = 1024 * 1024
"""No configuration is this large: whatever was named by mistake is not read into memory."""


def load(path: Path, wanted: type[StructT]) -> StructT:
    """Return the TOML file as the struct, strictly checked (see ``protocol.settings``), with its paths anchored.

    Raise ``ConfigurationError``, whose text names the file and for each fault the key, what was found and what is
    allowed; also when the file cannot be read or is no TOML (with the line).
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as exc:
        raise ConfigurationError(f"{path}: there is no such file") from exc
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    if len(content) > MAX_FILE_BYTES:
        raise ConfigurationError(f"{path}: larger than {MAX_FILE_BYTES} bytes; this is no configuration file")
    try:
        data = tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as exc:
        line = content[: exc.start].count(b"\n") + 1
        raise ConfigurationError(f"{path}: not UTF-8 text (line {line})") from exc
    except (ValueError, RecursionError) as exc:  # also a number of thousands of digits, which is no TOMLDecodeError
        raise ConfigurationError(f"{path}: not valid TOML: {str(exc)[:300]}") from exc
    return anchored(settings_from(data, wanted, str(path)), str(path.parent))
