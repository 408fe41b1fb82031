"""What the trainer is given and what it says, and what the board can spare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec.structs import replace

from device_agent.commands import Command, Log, Train
from device_agent.lifecycle import Work

if TYPE_CHECKING:
    from device_agent.downstream import Downstream
    from device_agent.events import (
        DataChanged,
        DriftTold,
        EvaluationDone,
        ReadingsTaken,
        SurveyAnswered,
        TaskFailed,
        TaskStopped,
        TrainingDone,
        TrainingNoted,
        TrainingResumed,
    )
    from device_agent.parts import Parts
    from device_agent.records import Trained
    from device_agent.trying import Trial
    from device_agent.upstream import Upstream


class Working:
    """Stands between desk and core: begins what is due when the policy allows it, and takes in the answers."""

    def __init__(self, parts: Parts, upstream: Upstream, downstream: Downstream, trial: Trial) -> None:
        self._parts = parts
        self._up = upstream
        self._down = downstream
        self._trial = trial
        self._wants_to_train = self._wants_to_send = False

    @property
    def asking(self) -> bool:
        """Whether the sensors are being read, so that the next event says what holds."""
        return self._parts.warden.asking

    @property
    def reason(self) -> str:
        """What holds up whatever is wanted; empty when nothing does."""
        training = self._wants_to_train or self._parts.desk.work is Work.STOPPING
        return self._parts.warden.reason(training=training, sending=self._wants_to_send)

    def due(self, now: float, *, linked: bool) -> list[Command]:
        """Begin what is to be done now, or ask what the board can spare."""
        desk, warden = self._parts.desk, self._parts.warden
        desk.answered = self._parts.ledger.state.answered
        made, ready = self._made(), self._ready(linked=linked)
        report = self._parts.report
        self._wants_to_send = warden.gates_sending and linked and bool(report.entries) and not report.busy
        wanted = self._wants_to_send or desk.wants_to_train(now, made=made, may_train=ready)
        commands = warden.due(now) if wanted else []
        report.held_up = not warden.may_send
        begun = desk.due(now, made=made, may_train=ready and warden.may_train, name=self._parts.next_name)
        if any(isinstance(command, Train) for command in begun):
            desk.rows = warden.examples
            drift = self._parts.ledger.state.drift
            begun = [replace(command, drift=drift) if isinstance(command, Train) else command for command in begun]
        self._wants_to_train = desk.wants_to_train(now, made=made, may_train=ready)
        return commands + begun

    def deadline(self, *, linked: bool) -> float | None:
        """Return when ``due`` has something to do."""
        found: list[float | None] = []
        if self._wants_to_train or self._wants_to_send:
            found.append(self._parts.warden.deadline)
        if not self._wants_to_train or self._parts.desk.work is not Work.IDLE:
            found.append(self._parts.desk.deadline(made=self._made(), may_train=self._ready(linked=linked)))
        return min((moment for moment in found if moment is not None), default=None)

    def readings(self, event: ReadingsTaken, now: float) -> list[Command]:
        """Judge what the sensors say; set a training under way aside when the board cannot spare it any more."""
        running = self._parts.desk.work is Work.TRAINING
        told = self._parts.warden.taken(event.readings, now, running=running, seen=self._seen())
        if told:
            self._parts.announce.news(now)
        return told if self._parts.warden.may_train else [*told, *self._parts.desk.set_aside()]

    def training_done(self, event: TrainingDone, now: float) -> list[Command]:
        """Make an update of it."""
        # What was allowed was this training; the next one may be another matter.
        self._parts.warden.look_again()
        manifest = self._parts.desk.manifest
        if not self._parts.desk.ended(event.task) or manifest is None:
            return []
        return self._up.trained(event, manifest, now)

    def evaluation_done(self, event: EvaluationDone, now: float) -> list[Command]:
        """Remember the figures."""
        if not self._parts.desk.ended(event.task):
            return []
        last = self._parts.ledger.state.last
        measured = replace(last, before=last.after, after=event.metrics)
        self._parts.ledger.remember(measured)
        self._parts.announce.news(now)
        return [self._parts.ledger.save(), Log(level="info", message="evaluated", fields=dict(event.metrics))]

    def survey_answered(self, event: SurveyAnswered, now: float) -> list[Command]:
        """Make a report of it."""
        manifest = self._parts.desk.manifest
        if not self._parts.desk.ended(event.task) or manifest is None:
            return []
        return self._up.answered(event, manifest, now)

    def stopped(self, event: TaskStopped, now: float) -> list[Command]:
        """Take in that a task ended without a result; a training that was set aside goes on when it may."""
        desk = self._parts.desk
        if not desk.ended(event.task):
            return []
        if event.rest_s > 0:
            desk.rest(now + max(event.rest_s, self._parts.settings.training.min_interval_s))
        if not desk.interrupted and not event.rest_s:
            return []
        self._parts.ledger.count("trainings_interrupted")
        self._parts.announce.news(now)
        kept = "nothing" if event.kept_share is None else f"{event.kept_share:.1%}"
        fields: dict[str, object] = {"kept": kept}
        if event.rest_s > 0:
            fields["deadline_s"] = event.rest_s
        return [Log(level="info", message="training set aside", fields=fields)]

    def resumed(self, event: TrainingResumed, now: float) -> list[Command]:
        """Take in that a training goes on where it was interrupted."""
        self._parts.ledger.count("trainings_resumed")
        self._parts.announce.news(now)
        fields = {"step": event.num_steps, "of": event.planned}
        return [Log(level="info", message="training goes on", fields=fields)]

    @staticmethod
    def noted(event: TrainingNoted, _now: float) -> list[Command]:
        """Pass it on."""
        return [Log(level="warning", message=event.message, fields={"reason": event.reason})]

    def drift(self, event: DriftTold, now: float) -> list[Command]:
        """Say in state and figures how new samples do; in the log, when that is another matter than before."""
        before, seen = self._parts.ledger.state.drift, event.seen
        self._parts.ledger.drift(seen)
        if seen != before:
            self._parts.announce.news(now)
        if seen.drifting == before.drifting and seen.alarms == before.alarms:
            return []
        fields = {"error_new": seen.error_new, "error_earlier": seen.error_earlier, "judged": seen.judged}
        over = not seen.drifting
        message = "drift is over" if over else "drift: the model does worse on new samples than on earlier ones"
        return [self._parts.ledger.save(), Log(level="info" if over else "warning", message=message, fields=fields)]

    def failed(self, event: TaskFailed, now: float, *, linked: bool) -> list[Command]:
        """Try again later, and with another copy of the model when it lies there."""
        trained = self._parts.desk.work is not Work.EVALUATING
        if not self._parts.desk.ended(event.task):
            return []
        # Samples that are not there yet, or not good enough, are the device's everyday life.
        level: Literal["warning", "error"] = "warning" if event.fault == "data" else "error"
        told = Log(level=level, message="training failed", fields={"reason": event.reason})
        self._parts.desk.failed(event.reason, now)
        self._parts.announce.news(now)
        kept = self._parts.ledger.trouble(event.reason) if trained else []
        return [told, *kept, *self._after(event, now, linked=linked)]

    def _after(self, event: TaskFailed, now: float, *, linked: bool) -> list[Command]:
        """Return what follows from a failure besides another attempt."""
        held = self._parts.desk.held
        if event.fault == "backbone" and held is not None and self._parts.frozen.serves(held):
            return self._parts.frozen.spoiled(held, now)
        if event.fault == "candidate":
            return self._trial.lost()
        if event.fault != "cache":
            return []
        return [*self._down.drop_model(), *(self._down.start_over(now) if linked else [])]

    def data_changed(self, _event: DataChanged, _now: float) -> list[Command]:
        """Try at once what failed with the samples before, or waited for new ones."""
        self._parts.desk.forgive()
        self._parts.warden.look_again()
        # With sources they always do.
        return [Log(level="debug" if self._parts.settings.sources else "info", message="samples changed")]

    def _made(self) -> Trained | None:
        held = self._parts.desk.held
        return self._parts.ledger.trained_on(held) if held is not None else None

    def _ready(self, *, linked: bool) -> bool:
        """Return whether there is nothing better to wait for."""
        fetching = self._parts.fetch.target is not None and not self._parts.fetch.stalled
        # Offline, training goes on and the outbox bounds it; online, something better is about to come.
        waiting = ((fetching or self._parts.report.put_off) and linked) or self._up.writing
        held = self._parts.desk.held
        return not waiting and self._parts.frozen.serves(held) and self._parts.ledger.permits(held)

    def _seen(self) -> int | None:
        """Return how many rows the last training had; another epoch's model has seen none of them."""
        state, held = self._parts.ledger.state, self._parts.desk.held
        if state.trained is None or held is None or state.trained.epoch != held.epoch:
            return None
        return state.last.rows
