"""When to train: which version, how often, and what to wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from device_agent import turns
from device_agent.commands import Answer, Command, Evaluate, StopTask, Train
from device_agent.lifecycle import WORK, Work, WorkStep, advance
from protocol.backoff import full_jitter
from protocol.sampling import is_asked, participates

if TYPE_CHECKING:
    import random

    from device_agent.records import Trained
    from protocol.messages import Manifest
    from protocol.surveys import Survey

FAILURE_FIRST_S = 5.0
FAILURE_MAX_S = 600.0
"""A training that fails (unreadable samples, full disk) is tried again, ever more rarely."""

SETTLE_S = 5.0
"""After a connection is made the current manifest comes in milliseconds: training on an older model waits this long."""


class Desk:
    """The trainer's desk: the model that is held, the one task under way, and what is to be done next."""

    def __init__(
        self, device_id: str, held: Manifest | None, rng: random.Random, *, candidate: Manifest | None = None
    ) -> None:
        self.held = held
        self.candidate = candidate
        """What lies on the disk to be compared with it."""
        self.work = Work.IDLE
        self.task = 0
        self.manifest: Manifest | None = None
        """What the task under way works on."""
        self.rows: int | None = None
        """Rows of the file of samples when that task began, if they were counted."""
        self.evaluation_wanted = False
        self.answered: list[str] = []
        """Surveys that are done with."""
        self.equipped = False
        """Whether a task has ended in this process: what trainings need in memory (NumPy) is there."""
        self.reason = ""
        """Why the last attempt failed; empty when it did not."""
        self._device_id = device_id
        self._rng = rng
        self._rest_until: float | None = None
        self._again_until: float | None = None
        self._rejected: Trained | None = None
        self._settle_until: float | None = None
        self._failures = 0
        self._set_aside = False

    @property
    def settled(self) -> bool:
        """Whether there is nothing better to wait for than what is held."""
        return self._settle_until is None

    @property
    def interrupted(self) -> bool:
        """Whether the last task was set aside."""
        return self._set_aside

    def expect_news(self, now: float) -> None:
        """Wait a little for the current manifest before training on what is held."""
        self._settle_until = now + SETTLE_S

    def settle(self) -> None:
        """Wait no longer: the manifest came, or cannot come."""
        self._settle_until = None

    def hold(self, manifest: Manifest | None) -> None:
        """Take this model as the one to train; what failed with another one may work with it."""
        if manifest is not None and manifest != self.manifest:
            self.forgive()
        if manifest is not None and self._rejected is not None and turns.is_newer(manifest, self._rejected):
            self._again_until = None
        self.held = manifest

    def rest(self, until: float) -> None:
        """Start no training before this moment."""
        if self._rest_until is None or until > self._rest_until:
            self._rest_until = until

    def again(self, rejected: Trained, until: float) -> None:
        """Do not train this version again before this moment, as it was announced: what was made of it was rejected."""
        self._rejected, self._again_until = rejected, until

    def forgive(self) -> None:
        """Try again at once: what failed may work now (other samples, another model)."""
        if self._failures:
            self._failures = 0
            self._rest_until = None
        self.reason = ""

    def failed(self, reason: str, now: float) -> None:
        """Note a failure, and rest before the next attempt."""
        self.reason = reason
        self.rest(now + 1.0 + full_jitter(self._rng, self._failures, FAILURE_FIRST_S, FAILURE_MAX_S))
        self._failures += 1

    def succeeded(self) -> None:
        """Forget earlier failures."""
        self._failures = 0
        self.reason = ""

    def ended(self, task: int) -> bool:
        """Take in that a task ended; return whether its result, if it has one, is wanted."""
        self.equipped = True
        if task != self.task or self.work is Work.IDLE:
            return False
        wanted = self.work is not Work.STOPPING or self._set_aside
        self.work = advance(WORK, self.work, WorkStep.ENDED)
        return wanted

    def stop(self) -> list[Command]:
        """Stop the task under way and do not want its result."""
        self.evaluation_wanted = False
        self._set_aside = False
        if self.work in (Work.IDLE, Work.STOPPING):
            return []
        self.work = advance(WORK, self.work, WorkStep.STOP)
        return [StopTask()]

    def come_to_an_end(self) -> list[Command]:
        """Stop whatever is under way: the process ends. A training goes on with the next one."""
        self.evaluation_wanted = False
        return self.stop() if self.work is Work.EVALUATING else self.set_aside()

    def set_aside(self) -> list[Command]:
        """Stop the training under way, to go on later; a result that comes nevertheless is welcome."""
        if self.work is not Work.TRAINING:
            return []
        self._set_aside = True
        self.work = advance(WORK, self.work, WorkStep.STOP)
        return [StopTask(keep=True)]

    def wants_to_train(self, now: float, *, made: Trained | None, may_train: bool) -> bool:
        """Return whether a training is under way, or would begin now if the board could spare it."""
        if self.work is not Work.IDLE:
            return self.work is Work.TRAINING
        if self.held is None or not may_train:
            return False
        if self._survey(self.held, now) is not None:
            return True
        return self._is_turn(self.held, made, now)

    def _rested(self, now: float) -> bool:
        return not any(until is not None and now < until for until in (self._settle_until, self._rest_until))

    def _is_turn(self, manifest: Manifest, made: Trained | None, now: float) -> bool:
        waits = self._again_until is not None and now < self._again_until
        return not waits and self._wanted(manifest, made) and self._rested(now)

    def _survey(self, manifest: Manifest, now: float | None) -> Survey | None:
        """Return the survey that is to be answered now, or (``now`` None) at any time, if there is one."""
        if now is not None and not self._rested(now) and (self._failures or self._settle_until is not None):
            return None  # the rest between trainings is none between answers
        asked = (s for s in manifest.surveys if s.id not in self.answered and self._can_answer(s, manifest))
        return next((survey for survey in asked if is_asked(self._device_id, survey.id, survey.fraction)), None)

    def _can_answer(self, survey: Survey, manifest: Manifest) -> bool:
        if survey.kind != "comparison":
            return True
        tried, found = manifest.candidate, self.candidate
        if tried is None or found is None or survey.id != tried.survey:
            return False
        return (found.epoch, found.parameters) == (manifest.epoch, tried.parameters)

    def due(self, now: float, *, made: Trained | None, may_train: bool, name: tuple[str, int]) -> list[Command]:
        """Start what is to be done now; ``made`` says what was made of the held version already.

        ``name`` is incarnation and sequence of the next update.
        """
        if self._settle_until is not None and now >= self._settle_until:
            self._settle_until = None
        if self.work is not Work.IDLE or self.held is None:
            return []
        if self.evaluation_wanted:
            self.evaluation_wanted = False
            self._begin(self.held, WorkStep.EVALUATE)
            return [Evaluate(task=self.task, manifest=self.held)]
        if not may_train:
            return []
        if (survey := self._survey(self.held, now)) is not None:
            self._begin(self.held, WorkStep.EVALUATE)
            manifest, (incarnation, sequence) = self.held, name
            return [
                Answer(
                    task=self.task,
                    manifest=manifest,
                    survey=survey,
                    incarnation=incarnation,
                    sequence=sequence,
                    candidate=self.candidate if survey.kind == "comparison" else None,
                )
            ]
        if not self._is_turn(self.held, made, now):
            return []
        self._rest_until = self._again_until = None
        self._begin(self.held, WorkStep.TRAIN)
        count = made.count if made else 0
        return [Train(task=self.task, manifest=self.held, contribution=count, incarnation=name[0], sequence=name[1])]

    def deadline(self, *, made: Trained | None, may_train: bool) -> float | None:
        """Return when ``due`` has something to do."""
        if self._settle_until is not None:
            return self._settle_until
        if self.work is not Work.IDLE or self.held is None or not may_train:
            return None
        if self._survey(self.held, None) is not None:
            return self._rest_until
        waits = [until for until in (self._rest_until, self._again_until) if until is not None]
        return max(waits, default=None) if self._wanted(self.held, made) else None

    def _wanted(self, manifest: Manifest, made: Trained | None) -> bool:
        part = manifest.participation
        return (
            manifest.trains
            and (made is None or turns.is_open(manifest, made))
            and participates(self._device_id, manifest.epoch, manifest.version, part.sampling_fraction)
        )

    def _begin(self, manifest: Manifest, step: WorkStep) -> None:
        self.work = advance(WORK, self.work, step)
        self.task += 1
        self._set_aside = False
        self.manifest = manifest
