"""Training and evaluation themselves. Imports NumPy: only the trainer's thread imports this, for its first task."""

from __future__ import annotations

import hashlib
import platform
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import msgspec
import numpy as np

from device_agent import diverging
from device_agent.adapters.data import Samples
from device_agent.adapters.embedding import Embedder
from device_agent.adapters.leaving import TaskLeftError, never
from device_agent.adapters.loading import ENDINGS, Loader, TaskError, ended, plan_of
from device_agent.adapters.measuring import compared, measured
from device_agent.adapters.personalizing import LOCAL, PRIVATE, TUNED, Personalizer, Start
from device_agent.adapters.sitting import Sitting
from device_agent.adapters.supply import Supply
from device_agent.drift import DriftSeen
from device_agent.events import (
    DriftTold,
    EvaluationDone,
    SurveyAnswered,
    TaskFailed,
    TaskStopped,
    TrainingDone,
    TrainingNoted,
    TrainingResumed,
)
from device_agent.keeping import Origin
from models import (
    CheckpointError,
    DataError,
    Model,
    Training,
    TrainingPlan,
    weight_of_part,
)
from models.personal import with_constants
from protocol import tensors
from protocol.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from numpy.typing import NDArray

    from device_agent.adapters.belongings import Belongings
    from device_agent.adapters.drift_file import DriftFile
    from device_agent.adapters.drifting import DriftWatch
    from device_agent.adapters.keeper import Keeper
    from device_agent.commands import Answer, Evaluate, Train
    from device_agent.events import Event
    from device_agent.settings import AgentSettings
    from protocol.messages import Manifest

    Vector: TypeAlias = NDArray[np.float32]

SOFTWARE = f"NumPy {np.__version__} on {platform.machine()}"
"""Its shuffling and sums are those of a training; another version may do them otherwise."""


class Word(Protocol):
    """What the trainer was told meanwhile."""

    def wait_and_stop(self) -> bool:
        """Wait until the next step may start; return whether there is to be none."""

    def stopped(self) -> bool:
        """Return whether the task under way is to stop."""

    def keeps(self) -> bool:
        """Return whether what is stopped is to go on later."""


class Workbench:
    """Does one task after the other; keeps model and samples between them."""

    def __init__(
        self,
        settings: AgentSettings,
        keeper: Keeper,
        belongings: Belongings,
        tell: Callable[[Event], object],
        drift: DriftFile,
    ) -> None:
        """``tell`` is given what happens while a task is under way."""
        self._settings = settings
        self._keeper = keeper
        self._personal = Personalizer(belongings)
        self._tell = tell
        self.sitting: Sitting | None = None
        """The training under way."""
        self._supply = Supply(settings)
        self.embedder = Embedder(settings)
        self._drift_file = drift
        self._drift: DriftWatch | None = None
        self._loader = Loader(Path(settings.device.state_dir), settings.backbone.trial_s)

    def train(self, task: Train, file: BinaryIO, word: Word) -> TrainingDone | TaskStopped | TaskFailed:
        """Train the model in the file as the task says, or go on where that was interrupted.

        Deterministic for the seed, the version and the samples.
        """
        try:
            return self._train(task, file, word)
        except ENDINGS as exc:
            return ended(task.task, exc)
        finally:
            self.sitting = None

    def evaluate(self, task: Evaluate, file: BinaryIO, word: Word) -> EvaluationDone | TaskStopped | TaskFailed:
        """Measure the model in the file on the holdout."""
        try:
            model, parameters = self._loader.read(task.manifest, file, word.stopped)
            holdout = self._samples(task.manifest, model, word).holdout
            if holdout is None:
                raise TaskError("there are no held-out samples to evaluate on", "data")
            start = self._personal.begin(task.manifest, model, parameters)
            return EvaluationDone(task=task.task, metrics=measured(model, start.parameters, holdout, word.stopped))
        except ENDINGS as exc:
            return ended(task.task, exc)

    def answer(
        self, task: Answer, file: BinaryIO, word: Word, candidate: BinaryIO | None = None
    ) -> SurveyAnswered | TaskStopped | TaskFailed:
        """Find out what a survey asks; of a comparison with the candidate in the other file."""
        # Half a megabyte, which who is not asked does without.
        from device_agent.adapters.surveying import comparison_of, content_of  # noqa: PLC0415 - see above

        try:
            model, parameters = self._loader.read(task.manifest, file, word.stopped)
            samples = self._samples(task.manifest, model, word)
            start = self._personal.begin(task.manifest, model, parameters)
            if task.candidate is not None and candidate is not None:
                # As the device would predict with each. What fine-tuning did for one it has not done for the other.
                other = start.untuned(self._loader.candidate(task.candidate, candidate, word.stopped))
                ours = start.untuned(parameters)
                content = comparison_of(task.survey, model, ours, other, samples, word.stopped)
            else:
                content = content_of(task.survey, model, start.parameters, samples, word.stopped)
        except ENDINGS as exc:
            return ended(task.task, exc)
        except (ProtocolError, DataError) as exc:
            return TaskFailed(task=task.task, reason=f"survey {task.survey.id}: {exc}", fault="model")
        return SurveyAnswered(task=task.task, survey=task.survey, content=content)

    def _train(self, task: Train, file: BinaryIO, word: Word) -> TrainingDone | TaskStopped:
        manifest = task.manifest
        model, parameters = self._loader.read(manifest, file, word.stopped)
        name = task.incarnation, task.sequence
        start = self._personal.begin(manifest, model, parameters, name)
        if start.why_cold:
            self._note(task, "private parameters cannot be used, they begin as a new device's", start.why_cold)
        plan = start.personal.plan_of(plan_of(manifest))
        samples = self._samples(manifest, model, word, self._keeper.upto(manifest.epoch, manifest.version))
        before = measured(model, start.parameters, samples.holdout, word.stopped)
        # Before anything new is trained on; what it finds stands, whatever becomes of the training.
        self._watch_drift(task, model, start.parameters, samples, word)
        training, rng, elapsed_s = self._begin(task, model, start, plan)
        planned = plan.steps(len(samples.train))
        sitting = Sitting(
            training, plan, self._origin(task, model, start, plan), self._keeper, planned=planned, elapsed_s=elapsed_s
        )
        sitting.save_every_s = self._settings.training.checkpoint_s
        self.sitting = sitting
        ending = sitting.run(word.wait_and_stop, word.stopped)
        if ending in ("stopped", "resume"):
            rest_s = plan.deadline_s if ending == "resume" else 0.0
            return self._set_aside(task, sitting, keeps=word.keeps(), rest_s=rest_s)
        result = training.result(finished=ending == "finished")
        delta = result.parameters - start.parameters
        if not np.isfinite(delta).all():
            raise TaskError(diverging.NOT_FINITE, "model")
        encoded = _encoded(manifest.participation.codec, start.split.shared_of(delta), rng)
        made = self._own(task, model, start, parameters, result.parameters, word)
        # Stopped within further trainings: what there is is sent without it, or it might never come to its end.
        asked = never if start.personal.further and word.stopped() else word.stopped
        try:
            after = measured(model, result.parameters, samples.holdout, asked)
            others = compared(model, samples.holdout, parameters, start, made, asked)
        except TaskLeftError:  # it is kept whole, and goes on with the measuring
            return self._set_aside(task, sitting, keeps=word.keeps(), rest_s=0.0)
        if reason := self._personal.keep(start, manifest, name, made):
            self._note(task, "private parameters could not be kept, those before stay", reason)
        return TrainingDone(
            task=task.task,
            num_examples=weight_of_part(result.num_examples, result.num_steps, planned),
            num_steps=result.num_steps,
            share_done=sitting.share,
            delta=encoded,
            layout=start.split.shared.digest,
            duration_s=sitting.elapsed_s,
            train_loss=float(result.loss),
            before=before,
            after=after,
            others=others,
        )

    def _watch_drift(self, task: Train, model: Model, parameters: Vector, samples: Samples, word: Word) -> None:
        seen = DriftSeen()
        if self._settings.drift.enabled and samples.holdout is not None:
            if self._drift is None:
                from device_agent.adapters.drifting import DriftWatch  # noqa: PLC0415 - memory, where it is not used

                self._drift = DriftWatch(self._settings, self._drift_file)
            backbone = task.manifest.backbone
            meaning = {"features": task.manifest.features, "backbone": backbone.blob.digest if backbone else ""}
            seen = self._drift.look(model, parameters, samples, meaning, word.stopped)
        if seen != task.drift:
            self._tell(DriftTold(seen=seen))

    def _own(  # noqa: PLR0917 - of what, by what
        self, task: Train, model: Model, start: Start, version: Vector, result: Vector, word: Word
    ) -> dict[str, Vector]:
        """Return what of the training stays here: private parameters, and further models where they are wanted.

        One that is stopped, or diverged, is left out. Each has a stream of chance of its own, so that an update is the
        same with and without them.
        """
        personal, plan = start.personal, plan_of(task.manifest)
        made = {PRIVATE: start.split.private_of(result)}
        if personal.compare_local:
            rng = self._rng(task.manifest, task.contribution, 1)
            begun = start.local if start.local is not None else model.init(rng)
            made |= self._further(LOCAL, model, with_constants(model, begun, start.parameters), plan, rng, word)
        if personal.fine_tune_epochs:
            rng = self._rng(task.manifest, task.contribution, 2)
            begun = start.split.overlaid(version, made[PRIVATE])
            made |= self._further(TUNED, model, begun, replace(plan, epochs=personal.fine_tune_epochs), rng, word)
        return made

    def _further(  # noqa: PLR0917 - a training, and what it is called
        self, name: str, model: Model, begun: Vector, plan: TrainingPlan, rng: np.random.Generator, word: Word
    ) -> dict[str, Vector]:
        training = Training(model, begun, self._supply.held.train, plan, rng)
        finished = training.run(word.wait_and_stop, word.stopped)
        return {name: training.parameters} if finished and np.isfinite(training.parameters).all() else {}

    def _begin(
        self, task: Train, model: Model, start: Start, plan: TrainingPlan
    ) -> tuple[Training, np.random.Generator, float]:
        """Return the training, resumed where something of it is kept, its generator, and its time so far."""

        def new() -> tuple[Training, np.random.Generator]:
            rng = self._rng(task.manifest, task.contribution)
            turns = start.personal.turns_of(start.split)
            return Training(model, start.parameters, self._supply.held.train, plan, rng, turns), rng

        found, reason = self._keeper.find(self._origin(task, model, start, plan))
        training, rng = new()
        if found is not None:
            kept, checkpoint = found
            try:
                training.resume(checkpoint)
            except CheckpointError as exc:
                reason = self._keeper.refuse(str(exc))
                training, rng = new()
            else:
                self._tell(TrainingResumed(task=task.task, num_steps=kept.num_steps, planned=kept.planned))
                return training, rng, kept.elapsed_s
        if reason:
            self._note(task, "a training begins anew", reason)
        return training, rng, 0.0

    def _note(self, task: Train, message: str, reason: str) -> None:
        self._tell(TrainingNoted(task=task.task, message=message, reason=reason))

    def _set_aside(self, task: Train, sitting: Sitting, *, keeps: bool, rest_s: float) -> TaskStopped:
        kept = keeps and sitting.num_steps > 0 and sitting.keep()
        if sitting.trouble:
            self._note(task, "an interrupted training could not be kept", sitting.trouble)
        return TaskStopped(task=task.task, kept_share=sitting.share if kept else None, rest_s=rest_s)

    def _origin(self, task: Train, model: Model, start: Start, plan: TrainingPlan) -> Origin:
        manifest, device = task.manifest, self._settings.device
        return Origin(
            federation=device.federation,
            device=device.id,
            incarnation=task.incarnation,
            epoch=manifest.epoch,
            version=manifest.version,
            contribution=task.contribution,
            parameters=manifest.parameters,
            model=hashlib.sha256(msgspec.json.encode(model.spec, order="deterministic")).hexdigest(),
            plan=plan.to_data(),
            seed=self._settings.training.seed,
            samples=self._supply.digest,
            upto=self._supply.held.upto,
            personal=start.digest,
            backbone=manifest.backbone.blob.digest if manifest.backbone else "",
            software=SOFTWARE + model.software,
        )

    def _samples(self, manifest: Manifest, model: Model, word: Word, upto: int | None = None) -> Samples:
        through = self.embedder.through(manifest.backbone) if manifest.backbone else None
        return self._supply.begin(model, self._loader.pipeline, upto, word.stopped, through)

    def _rng(self, manifest: Manifest, contribution: int, *stream: int) -> np.random.Generator:
        device = zlib.crc32(self._settings.device.id.encode())
        return np.random.default_rng([self._settings.training.seed, device, manifest.version, contribution, *stream])


def _encoded(codec: str, delta: NDArray[np.float32], rng: np.random.Generator) -> bytes:
    try:
        return tensors.encode(codec, delta, rng)
    except (ProtocolError, DataError) as exc:
        raise TaskError(f"codec {codec!r}: {exc}", "model") from exc
