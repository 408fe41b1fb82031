"""How a line of the log looks, in the journal and elsewhere. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_LINE = 4000
"""Characters of one line: the journal cuts at 48 KB, people stop sooner."""

MAX_TRACEBACK = 200
"""Lines of one traceback."""


def with_fields(text: str, fields: Mapping[str, object]) -> str:
    """Return ``text key=value ...``, which can be split again whatever a message from outside brought into it."""
    return text + "".join(f" {name}={_word(value)}" for name, value in fields.items())


def journal_lines(priority: int, text: str, trace: str = "") -> str:
    """Return the record as sd-daemon(3) wants it: one entry a line, each with its priority (0 to 7).

    The first line is the text, the others are those of the traceback, indented: one sees what they belong to.
    """
    return "\n".join(f"<{priority}>{line}" for line in _lines(text, trace))


def plain_lines(when: str, level: str, text: str, trace: str = "") -> str:
    """Return the record for people: time and level in front, the lines of the traceback below."""
    return f"{when} {level:<7} " + "\n".join(_lines(text, trace))


def _lines(text: str, trace: str) -> list[str]:
    # Nobody outside can begin a line of his own, or colour one, whatever is quoted: the line ends are ours.
    found = [f"  {printable(line)[:MAX_LINE]}" for line in trace.split("\n") if line.strip()]
    if len(found) > MAX_TRACEBACK:
        found = [*found[: MAX_TRACEBACK // 2], "  ...", *found[-MAX_TRACEBACK // 2 :]]
    return [printable(text)[:MAX_LINE], *found]


def _word(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if text and text.isprintable() and not set(text) & set(' "=') else repr(text)
