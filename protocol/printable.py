"""Text from outside on its way to a terminal or a log: what could steer either is written as an escape."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return the text with everything that is no printable character (nor a space) as an escape, as in JSON.

    So there are no escape sequences of terminals in it, no line breaks that would forge a line of a log, and no marks
    that turn the direction of reading: the character ESC becomes the six letters ``\u001b``.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"
