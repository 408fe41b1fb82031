"""How versions come about: of a full buffer, of statistics, by a rollback; and what is said then."""

from __future__ import annotations

from collections.abc import Sequence

from aggregator.asking import Asking
from aggregator.canary import Canary, Verdict
from aggregator.commands import Command, Log, Reply, SaveAggregation
from aggregator.events import CanaryRequested, RollbackRequested
from aggregator.fleet import Fleet
from aggregator.ledger import Ledger
from aggregator.pace import Pace
from aggregator.speaking import Speaker
from aggregator.standstill import Standstill


class Releases:
    """Makes versions, counts them, and has them announced."""

    def __init__(  # noqa: PLR0917 - parts of one core
        self,
        ledger: Ledger,
        asking: Asking,
        canary: Canary,
        fleet: Fleet,
        pace: Pace,
        speaker: Speaker,
        standstill: Standstill,
    ) -> None:
        self._standstill = standstill
        self._ledger = ledger
        self._canary = canary
        self._asking = asking
        self._fleet = fleet
        self._pace = pace
        self._speaker = speaker

    def due(self, now: float, wall: float) -> list[Command]:
        """Take note of what was asked and is answered; make the version that what came in last leads to, if it does."""
        commands: list[Command] = []
        while self._asking.ready:
            commands += self._answers_are_in(now, wall)
        verdict = self._canary.verdict(now)
        decided = self._decided(verdict, now, wall) if verdict else []
        return [*commands, *decided, *(self._close(now, wall) if self._ledger.goal_reached else [])]

    def wait_in_vain(self, now: float, wall: float) -> list[Command]:
        """Decide on a candidate, or end a buffer, when nobody who is there will add anything to it."""
        if self._canary.waits_in_vain():
            verdict = self._canary.verdict(now, nobody_else=True)
            return self._decided(verdict, now, wall) if verdict else []
        if self._standstill.lacks_the_refused:
            fields = {"updates": len(self._ledger.buffer), "refused": self._standstill.say().refused}
            told = Log("warning", "making a version without those that were refused", fields)
            return [told, *self._close(now, wall)]
        complaint = self._standstill.complaint()
        return [Log("error", complaint)] if complaint else []

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
        given_up: list[Command] = []
        aside = 0
        if self._ledger.candidate is not None:
            aside = self._ledger.candidate.version.num_updates
            given_up = self._withdrawn(f"an operator went back to version {event.target}", wall)
        saved = self._ledger.roll_back(event.target, event.parameters, wall)
        self._fleet.set_aside(len(saved.aggregation.lineage))
        aside += len(saved.aggregation.lineage)
        made = self._ledger.version.version
        body = {"version": made, "rolled_back_to": event.target, "updates_set_aside": aside}
        dropped = self._asking.rolled_back(wall)
        replied = Reply(request_id=event.request_id, body=body)
        return [*given_up, saved, *dropped, *self._version_made(len(saved.aggregation.lineage), now), replied]

    def decide(self, event: CanaryRequested, now: float, wall: float) -> list[Command]:
        """Publish or withdraw the candidate because an operator says so."""
        candidate = self._ledger.candidate
        if candidate is None:
            return [Reply(request_id=event.request_id, error="no candidate is being tried")]
        body = self._canary.body()
        verdict = Verdict(
            outcome="published" if event.action == "publish" else "withdrawn", reason="an operator said so"
        )
        done = self._decided(verdict, now, wall)
        return [
            *done,
            *self.due(now, wall),
            Reply(request_id=event.request_id, body=body | {"outcome": verdict.outcome}),
        ]

    def _close(self, now: float, wall: float) -> list[Command]:
        saved = self._ledger.close(wall)
        if saved.candidate is not None:
            self._pace.version_made(now)
            return self._tried(saved, now, wall)
        if saved.version is None:
            self._fleet.counters.versions_withheld += 1
            self._fleet.mark_counters()
            text = f"withheld version {self._ledger.version.version + 1}: {saved.aggregation.reason}"
            told = Log("error", text, {"updates": len(saved.aggregation.lineage)})
            # Who has trained this version may do so once more, or nobody would ever train again.
            return [saved, told, *self._speaker.announce_anew(wall), *self._speaker.metrics(now)]
        self._pace.version_made(now)
        return [saved, *self._version_made(len(saved.aggregation.lineage), now)]

    def _tried(self, saved: SaveAggregation, now: float, wall: float) -> list[Command]:
        asked = self._canary.begin(now, wall)
        body = self._canary.body()
        told = Log("info", "trying a candidate", {name: body[name] for name in ("candidate", "survey", "updates")})
        return [saved, asked, told, *self._speaker.announce_anew(wall), *self._speaker.metrics(now)]

    def _decided(self, verdict: Verdict, now: float, wall: float) -> list[Command]:
        if verdict.outcome == "withdrawn":
            commands = self._withdrawn(verdict.reason, wall)
            return [*commands, *self._speaker.announce_anew(wall), *self._speaker.metrics(now)]
        figures = self._canary.figures()
        closed = self._canary.end(wall)
        saved = self._ledger.promote(figures, verdict.reason)
        told = Log("info", "candidate published", {"candidate": self._ledger.version.version, "why": verdict.reason})
        return [*closed, saved, told, *self._version_made(self._ledger.version.num_updates, now)]

    def _withdrawn(self, reason: str, wall: float) -> list[Command]:
        """Give the candidate up; its announcement is still to be taken back."""
        figures = self._canary.figures()
        body = self._canary.body()
        closed = self._canary.end(wall)
        saved = self._ledger.withdraw(figures, reason)
        self._fleet.set_aside(body["updates"])
        self._fleet.counters.versions_withdrawn += 1
        fields = {"candidate": body["candidate"], "updates": body["updates"], "why": reason}
        return [*closed, saved, Log("error", "candidate withdrawn", fields)]

    def _answers_are_in(self, now: float, wall: float) -> list[Command]:
        commands, saved = self._asking.finish(wall)
        if saved is None:
            return [*commands, *self._speaker.announce_anew(wall)]
        self._pace.version_made(now)
        return [*commands, *self._version_made(0, now)]

    def _version_made(self, updates: int, now: float) -> list[Command]:
        self._fleet.counters.versions_published += 1
        self._fleet.mark_counters()
        version = self._ledger.version
        fields = {"version": version.version, "updates": updates, **version.metrics}
        told = Log("info", "version made", fields)
        return [told, *self._speaker.announce(), *self._speaker.state(), *self._speaker.metrics(now)]
