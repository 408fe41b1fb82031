"""The part of a configuration file that is made by a program, in the middle of what belongs to its owner. Pure."""

from __future__ import annotations

import re

BEGIN = "# -- fedmq: identity. Made by a program, and made again: what is changed between these two lines is lost. --"
END = "# -- fedmq: end of identity. --"


def block(*lines: str) -> str:
    """Return the lines between the two marks."""
    return "\n".join([BEGIN, *lines, END]) + "\n"


def with_block(text: str, new: str) -> str:
    """Return the text with ``new`` (made by ``block``) in place of the block that it had, or at its end."""
    lines = text.splitlines(keepends=True)
    begins = [number for number, line in enumerate(lines) if line.strip() == BEGIN]
    ends = [number for number, line in enumerate(lines) if line.strip() == END]
    if len(begins) == 1 and len(ends) == 1 and begins[0] < ends[0]:
        return "".join([*lines[: begins[0]], new, *lines[ends[0] + 1 :]])
    between = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    return text + between + new


def with_value(text: str, table: str, key: str, value: str) -> str:
    """Return the TOML text with ``key = "value"`` in ``[table]``, in place of the line that sets it.

    Raise ``ValueError`` when no line of that table does. What follows the value on its line, a comment, stays.
    """
    lines = text.splitlines(keepends=True)
    here = ""
    for number, line in enumerate(lines):
        if found := re.match(r"\s*\[([^\[\]]+)\]", line):
            here = found[1].strip()
        elif here == table and (
            found := re.match(rf"""(\s*{re.escape(key)}\s*=\s*)("(?:[^"\\]|\\.)*"|'[^']*')""", line)
        ):
            lines[number] = found[1] + quoted(value) + line[found.end() :]
            return "".join(lines)
    raise ValueError(f"there is no line {key} = ... in [{table}]")


def quoted(value: str) -> str:
    """Return the text as a basic string of TOML."""
    escaped = "".join(_ESCAPES.get(character, character) for character in value)
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\u{ord(found[0]):04x}", escaped) + '"'


_ESCAPES = {"\\": "\\\\", '"': '\\"'}
