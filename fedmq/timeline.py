"""What happens in the demo when: devices come and go by plan, and chaos strikes. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fedmq.chaos import Strike
    from fedmq.demo_plan import DevicePlan

Kind: TypeAlias = Literal["join", "leave", "return", "kill", "revive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something to do to a process, so many seconds after the start of the fleet."""

    at_s: float
    kind: Kind
    target: str


def timeline(plans: Iterable[DevicePlan], strikes: Iterable[Strike]) -> list[Action]:
    """Return all actions in order of time."""
    actions = [Action(at_s=plan.joins_at_s, kind="join", target=plan.name) for plan in plans]
    for plan in plans:
        if plan.leaves_at_s is not None:
            actions.append(Action(at_s=plan.leaves_at_s, kind="leave", target=plan.name))
        if plan.returns_at_s is not None:
            actions.append(Action(at_s=plan.returns_at_s, kind="return", target=plan.name))
    for strike in strikes:
        actions.append(Action(at_s=strike.at_s, kind="kill", target=strike.target))
        actions.append(Action(at_s=strike.back_at_s, kind="revive", target=strike.target))
    return sorted(actions, key=lambda action: action.at_s)


class Timeline:
    """Hands out the actions whose time has come.

    Whoever has not joined, or has left, cannot be killed; who was killed while it was to leave stays away when its
    time to be revived comes.
    """

    def __init__(self, actions: Iterable[Action], present: Iterable[str] = ()) -> None:
        self._ahead = sorted(actions, key=lambda action: action.at_s)
        self._wanted = set(present)
        self._down: set[str] = set()

    @property
    def down(self) -> frozenset[str]:
        """Who was killed and is not back yet."""
        return frozenset(self._down)

    def due(self, now_s: float) -> list[Action]:
        """Return what is to be done now, in order."""
        actions = []
        while self._ahead and self._ahead[0].at_s <= now_s:
            action = self._ahead.pop(0)
            if self._takes_effect(action):
                actions.append(action)
        return actions

    def last_words(self) -> list[Action]:
        """Give up what lies ahead; return the actions that bring back all that are down."""
        self._ahead.clear()
        back = [Action(at_s=0.0, kind="revive", target=target) for target in sorted(self._down)]
        return [action for action in back if self._takes_effect(action)]

    def _takes_effect(self, action: Action) -> bool:
        target = action.target
        match action.kind:
            case "join" | "return":
                self._wanted.add(target)
                return target not in self._down
            case "leave":
                self._wanted.discard(target)
                return target not in self._down
            case "kill":
                if target not in self._wanted:
                    return False
                self._down.add(target)
                return True
            case "revive":
                was_down = target in self._down
                self._down.discard(target)
                return was_down and target in self._wanted
