"""Which version of MQTT to speak to a broker that we know nothing of."""

from __future__ import annotations

from typing import Literal, TypeAlias

from protocol.link import ProtocolChoice

Version: TypeAlias = Literal["5", "3.1.1"]

_RETRY_5_EVERY = 10
"""Every so many rounds a broker that has only understood 3.1.1 is offered 5 first: it may have been upgraded."""


class Negotiation:
    """Rounds of attempts: the version that connected last comes first, the other one follows when it is turned down.

    A broker that does not know a version may say so, or just close the connection; the latter also happens when a
    broker restarts at the wrong moment. So nothing is ever concluded from a failure: only a success is remembered.
    """

    def __init__(self, choice: ProtocolChoice = "auto") -> None:
        self._auto = choice == "auto"
        self._known: Version = "3.1.1" if choice == "3.1.1" else "5"
        self._version: Version = self._known
        self._turned = False
        self._rounds = 0

    @property
    def version(self) -> Version:
        """What to speak in the next attempt."""
        return self._version

    def turned_down(self) -> bool:
        """Return whether to try at once with the other version, now that ``version`` was refused or cut off."""
        if not self._auto or self._turned:
            return False
        self._turned = True
        self._version = _other(self._version)
        return True

    def connected(self) -> None:
        """Remember that ``version`` works."""
        self._known = self._version

    def next_round(self) -> None:
        """Begin again after a wait or a lost connection."""
        self._rounds += 1
        self._turned = False
        retry = self._auto and self._known == "3.1.1" and self._rounds % _RETRY_5_EVERY == 0
        self._version = "5" if retry else self._known


def _other(version: Version) -> Version:
    return "3.1.1" if version == "5" else "5"
