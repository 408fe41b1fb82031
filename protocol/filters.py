"""What may be published on and subscribed to, as MQTT has it (section 4.7 of both versions)."""

from __future__ import annotations

_MAX_TOPIC_BYTES = 65535


def check_topic(topic: str) -> None:
    """Raise ``ValueError`` when nothing can be published on ``topic``."""
    if "+" in topic or "#" in topic:
        raise ValueError(f"topic {topic[:200]!r} has a wildcard")
    _check_text(topic)


def check_filter(text: str) -> None:
    """Raise ``ValueError`` when ``text`` is no topic filter."""
    _check_text(text)
    levels = text.split("/")
    for position, level in enumerate(levels):
        last = position == len(levels) - 1
        if (("+" in level or "#" in level) and len(level) > 1) or (level == "#" and not last):
            raise ValueError(f"topic filter {text[:200]!r} has a wildcard in a wrong place")


def matches(text: str, topic: str) -> bool:
    """Return whether a subscription to the filter ``text`` brings what is published on ``topic``."""
    levels, names = text.split("/"), topic.split("/")
    if names[0].startswith("$") and levels[0] in ("+", "#"):
        return False
    for position, level in enumerate(levels):
        if level == "#":
            return True
        if position >= len(names) or level not in ("+", names[position]):
            return False
    return len(names) == len(levels)


def _check_text(text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as exc:
        raise ValueError(f"topic {text[:200]!r} is no Unicode text") from exc
    if not 1 <= size <= _MAX_TOPIC_BYTES or "\0" in text:
        raise ValueError(f"topic {text[:200]!r} is empty, too long, or has a zero in it")
