"""Where a value is in a JSON document: ``ENERGY.Power``, ``readings[0].value``, ``["a.b"].c``, ``$``."""

from __future__ import annotations

import re
from typing import TypeAlias

from device_agent.sensing.values import Sent

Path: TypeAlias = tuple[str | int, ...]
"""Names and indices, outermost first; empty: the whole document."""

MAX_PATH = 256
"""Characters."""

WHOLE = "$"
"""The whole payload, for topics that carry a bare number."""

_STEP = re.compile(r"""\[(?P<index>\d{1,6})\]|\["(?P<quoted>[^"\]]+)"\]|(?P<name>[^.\[\]"]+)""")


class PathError(ValueError):
    """A text that is no path; the message says what is wrong with it."""


def parse_path(text: str) -> Path:
    """Return the steps of the path; raise ``PathError``.

    Names are parted by dots, indices of lists are in brackets, and so are names in quotes that hold dots or brackets.
    ``$`` alone is the whole document; before other steps it may be left out.
    """
    if not 1 <= len(text) <= MAX_PATH:
        raise PathError(f"a path of {len(text)} characters, where 1 to {MAX_PATH} are allowed; {WHOLE!r} is all of it")
    rest = text[1:].removeprefix(".") if text.startswith(WHOLE) else text
    if text.startswith(f"{WHOLE}.") and not rest:
        raise PathError(f"the path {text!r} ends with a dot")
    steps: list[str | int] = []
    at = 0
    while at < len(rest):
        found = _STEP.match(rest, at)
        if found is None:
            raise PathError(f"the path {text!r} cannot be read from {rest[at:]!r} on")
        steps.append(int(found["index"]) if found["index"] else found["quoted"] or found["name"])
        at = _next_step(text, rest, found.end())
    return tuple(steps)


def _next_step(text: str, rest: str, at: int) -> int:
    """Return where the next step begins: behind a dot, at a bracket, or at the end."""
    if at == len(rest) or rest[at] == "[":
        return at
    if rest[at] != "." or at + 1 == len(rest):
        raise PathError(f"the path {text!r} cannot be read from {rest[at:]!r} on")
    return at + 1


def look_up(document: Sent, path: Path) -> Sent:
    """Return what the path leads to; None when it leads nowhere."""
    for step in path:
        if isinstance(step, int):
            if not isinstance(document, list) or step >= len(document):
                return None
            document = document[step]
        elif isinstance(document, dict):
            document = document.get(step)
        else:
            return None
    return document
