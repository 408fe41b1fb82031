"""Names of federations and devices: one spelling that is safe in topics, file names and logs."""

import re

from protocol.errors import ProtocolError

IDENTIFIER_PATTERN = r"\A(?!\.{1,2}\Z)[A-Za-z0-9_.-]{1,64}\Z"
"""Letters, digits, ``_ . -``; no ``/ + # $``, so that an id is always exactly one topic segment,
and neither ``.`` nor ``..``, which are no file names.

``\\Z`` rather than ``$``, which would let a trailing newline through."""

_IDENTIFIER = re.compile(IDENTIFIER_PATTERN)


def check_identifier(text: str, what: str = "id") -> str:
    """Return ``text`` when it is a legal federation or device id, else raise ``ProtocolError``."""
    if not _IDENTIFIER.match(text):
        raise ProtocolError(
            f"{what} {text[:80]!r} is not 1 to 64 letters, digits, '_', '.' or '-' (and not '.' or '..')"
        )
    return text
