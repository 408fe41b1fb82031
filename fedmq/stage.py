"""Runs the demo's processes: carries out the timeline, and ends everything in good order."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fedmq.chaos import AGGREGATOR, BROKER
from fedmq.processes import stop_all

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedmq.embedded_broker import EmbeddedBroker
    from fedmq.processes import Child
    from fedmq.timeline import Action, Timeline

GRACE_S = 30.0
"""To a process that was asked to end, before it is killed."""
NEWS_S = 6.0
"""How long a piece of news stays in the picture."""


class Stage:
    """The processes by name, among them the aggregator and, when it is ours, the broker."""

    def __init__(
        self,
        agents: Mapping[str, Child],
        aggregator: Child,
        broker: EmbeddedBroker | None,
        others: Sequence[Child] = (),
    ) -> None:
        self.kills: Counter[str] = Counter()
        """SIGKILLs by target."""
        self._children = {**agents, AGGREGATOR: aggregator}
        self._others = tuple(others)
        self._broker = broker
        self._news: list[tuple[float, str]] = []

    def start_aggregator(self) -> None:
        """Start the aggregator, and who plays no part of his own; devices need not wait for them."""
        for child in (self._children[AGGREGATOR], *self._others):
            child.start()

    def tick(self, timeline: Timeline, now_s: float) -> None:
        """Do what is due. Raise ``ChildDiedError`` when somebody ended without having been asked."""
        self.perform(timeline.due(now_s), now_s)
        for child in (*self._children.values(), *self._others):
            child.check()

    def perform(self, actions: Sequence[Action], now_s: float) -> None:
        """Carry out the actions."""
        for action in actions:
            self._perform(action, now_s)

    def news(self, now_s: float) -> str:
        """Return what happened of late, newest first."""
        return ", ".join(text for at_s, text in reversed(self._news) if now_s - at_s < NEWS_S)

    def end_agents(self) -> list[str]:
        """Ask all agents to end; return who had to be killed."""
        return stop_all([child for name, child in self._children.items() if name != AGGREGATOR], GRACE_S)

    def end_aggregator(self) -> list[str]:
        """Ask the aggregator to end; return whether it had to be killed, as above."""
        return stop_all([*self._others, self._children[AGGREGATOR]], GRACE_S)

    def kill_all(self) -> None:
        """End everything at once."""
        for child in (*self._children.values(), *self._others):
            child.kill()

    def _perform(self, action: Action, now_s: float) -> None:
        target = action.target
        match action.kind:
            case "join" | "return":
                self._start(target)
                if action.at_s > 0:  # who is there from the beginning is no news
                    self._tell(now_s, f"{target} {'joins' if action.kind == 'join' else 'is back'}")
            case "leave":
                self._leave(target)
                self._tell(now_s, f"{target} is switched off")
            case "kill":
                self.kills[target] += 1
                self._kill(target)
                self._tell(now_s, f"{'the ' if target in {AGGREGATOR, BROKER} else ''}{target} was killed")
            case "revive":
                self._start(target)

    def _start(self, target: str) -> None:
        if target == BROKER and self._broker is not None:
            self._broker.restart()
        else:
            self._children[target].start()

    def _kill(self, target: str) -> None:
        if target == BROKER and self._broker is not None:
            self._broker.kill()
        else:
            self._children[target].kill()

    def _leave(self, target: str) -> None:
        self._children[target].terminate()

    def _tell(self, now_s: float, text: str) -> None:
        self._news = [*self._news[-2:], (now_s, text)]
