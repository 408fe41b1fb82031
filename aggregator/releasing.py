"""How versions come about: of a full buffer, of statistics, by a rollback; and what is said then."""

from __future__ import annotations

from collections.abc import Sequence

from aggregator.asking import Asking
from aggregator.commands import Command, Log, Reply, SaveAggregation
from aggregator.events import RollbackRequested
from aggregator.fleet import Fleet
from aggregator.ledger import Ledger
from aggregator.pace import Pace
from aggregator.speaking import Speaker


class Releases:
    """Makes versions, counts them, and has them announced."""

    def __init__(self, ledger: Ledger, asking: Asking, fleet: Fleet, pace: Pace, speaker: Speaker) -> None:
        self._ledger = ledger
        self._asking = asking
        self._fleet = fleet
        self._pace = pace
        self._speaker = speaker

    def due(self, now: float, wall: float) -> list[Command]:
        """Take note of what was asked and is answered; make the version that what came in last leads to, if it does."""
        commands: list[Command] = []
        while self._asking.ready:
            commands += self._answers_are_in(now, wall)
        return [*commands, *(self._close(now, wall) if self._ledger.goal_reached else [])]

    def scheduled(self, now: float, wall: float) -> list[Command]:
        """Make a version because its time has come, if there are enough updates."""
        return self._close(now, wall) if self._ledger.quorate else []

    def begin_to_ask(self, wall: float) -> list[Command]:
        """Ask for the statistics that training waits for."""
        return [*self._asking.begin(wall), *self._speaker.announce_anew(wall)]

    def asked(self, saved: Sequence[Command], reply: Reply, wall: float) -> list[Command]:
        """Return what follows from a survey that was opened or closed, or from the refusal to."""
        return [*saved, *(self._speaker.announce_anew(wall) if saved else []), reply]

    def roll_back(self, event: RollbackRequested, now: float, wall: float) -> list[Command]:
        """Make a version of an older one's parameters, or say why not."""
        current = self._ledger.version.version
        if event.target >= current:
            text = f"version {event.target} is not older than the current one, {current}"
            return [Reply(request_id=event.request_id, error=text)]
        if len(event.parameters) != self._ledger.server.master.nbytes:
            return [Reply(request_id=event.request_id, error="the kept parameters belong to another model")]
        saved = self._ledger.roll_back(event.target, event.parameters, wall)
        aside = len(saved.aggregation.lineage)
        self._fleet.set_aside(aside)
        made = self._ledger.version.version
        body = {"version": made, "rolled_back_to": event.target, "updates_set_aside": aside}
        dropped = self._asking.rolled_back(wall)
        return [saved, *dropped, *self._version_made(saved, now), Reply(request_id=event.request_id, body=body)]

    def _close(self, now: float, wall: float) -> list[Command]:
        saved = self._ledger.close(wall)
        if saved.version is None:
            self._fleet.counters.versions_withheld += 1
            self._fleet.mark_counters()
            text = f"withheld version {self._ledger.version.version + 1}: {saved.aggregation.reason}"
            told = Log("error", text, {"updates": len(saved.aggregation.lineage)})
            return [saved, told, *self._speaker.metrics(now)]
        self._pace.version_made(now)
        return [saved, *self._version_made(saved, now)]

    def _answers_are_in(self, now: float, wall: float) -> list[Command]:
        commands, saved = self._asking.finish(wall)
        if saved is None:
            return [*commands, *self._speaker.announce_anew(wall)]
        self._pace.version_made(now)
        return [*commands, *self._version_made(saved, now)]

    def _version_made(self, saved: SaveAggregation, now: float) -> list[Command]:
        self._fleet.counters.versions_published += 1
        self._fleet.mark_counters()
        version = self._ledger.version
        fields = {"version": version.version, "updates": len(saved.aggregation.lineage), **version.metrics}
        told = Log("info", "version made", fields)
        return [told, *self._speaker.announce(), *self._speaker.state(), *self._speaker.metrics(now)]
