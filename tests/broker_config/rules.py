"""Mosquitto's reading of an ACL file, written down once more: what a test expects of the texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from paho.mqtt.client import topic_matches_sub


@dataclass
class Rules:
    """The lines of an ACL file: of nobody in particular, of each user, and the patterns for all."""

    of_user: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    patterns: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def read(cls, text: str) -> Self:
        rules, user = cls(), ""
        for line in text.splitlines():
            match line.split():
                case ["user", user]:
                    pass
                case ["topic", access, topic]:
                    rules.of_user.setdefault(user, []).append((access, topic))
                case ["pattern", access, topic]:
                    rules.patterns.append((access, topic))
                case [] | ["#", *_]:
                    pass
                case _:
                    raise AssertionError(f"what does this line mean? {line!r}")
        return rules

    def allow(self, user: str, access: str, topic: str) -> bool:
        """Whether ``user`` (empty: anonymous) may ``read`` or ``write`` the topic. Denials come first."""
        own = [entry for entry in self.of_user.get(user, []) if topic_matches_sub(entry[1], topic)]
        if any(kind == "deny" for kind, _ in own):
            return False
        common = [(kind, pattern.replace("%u", user)) for kind, pattern in self.patterns if user or "%u" not in pattern]
        found = own + [entry for entry in common if topic_matches_sub(entry[1], topic)]
        return any(kind in (access, "readwrite") for kind, _ in found)
