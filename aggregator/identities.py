"""Noticing two agents that use one identity: the broker connects them in turns, and each has a boot id of its own."""

from __future__ import annotations

PROVEN_AFTER = 3
"""So many returns of a boot id: a broker that delivers old states again, in their order, makes fewer."""

_MAX_BOOT = 64


class Identities:
    """The last two boot ids of each device, since this process began."""

    def __init__(self) -> None:
        self._boots: dict[str, tuple[str, str, int]] = {}
        self.conflicts = 0
        """How often a boot id came back after another one, where that is proof."""

    def note(self, device_id: str, boot: str) -> bool:
        """Take note of a device's boot id; return whether this proves that another agent has the same identity.

        Not for wills: the broker publishes them late, when the next start has already spoken.
        """
        boot = boot[:_MAX_BOOT]
        current, before, returns = self._boots.get(device_id, (boot, "", 0))
        if boot == current:
            self._boots[device_id] = (current, before, returns)
            return False
        # A restarted agent never takes its old boot id again; a third one means that one of them was restarted.
        returns = returns + 1 if boot == before else 0
        self._boots[device_id] = (boot, current, returns)
        if returns < PROVEN_AFTER:
            return False
        self.conflicts += 1
        return True
