"""One thread that trains, so that the worker never waits for it. NumPy is imported there, with the first task."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from device_agent.adapters.allocator import before_numpy
from device_agent.adapters.belongings import Belongings
from device_agent.adapters.drift_file import DriftFile
from device_agent.adapters.keeper import Keeper
from device_agent.commands import Answer, Evaluate, Train
from device_agent.events import SurveyAnswered, TaskFailed, TrainingDone

if TYPE_CHECKING:
    from collections.abc import Callable

    from device_agent.adapters.workbench import Workbench
    from device_agent.events import Event
    from device_agent.settings import AgentSettings

Task: TypeAlias = Train | Evaluate | Answer


class Trainer:
    """Carries out ``Train``, ``Evaluate`` and ``Answer``; the answers are delivered from its thread."""

    def __init__(self, settings: AgentSettings, deliver: Callable[[Event], object]) -> None:
        self._settings = settings
        self._deliver = deliver
        self._jobs: queue.SimpleQueue[tuple[Task, BinaryIO, BinaryIO | None] | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._keeps = False
        self._keeper = Keeper(settings)
        self._belongings = Belongings(Path(settings.device.state_dir))
        self._drift = DriftFile(Path(settings.device.state_dir))
        self._thread: threading.Thread | None = None
        self._bench: Workbench | None = None
        self._next_step_at = 0.0
        # Written by whoever is at work: the worker before it hands a task over, then the trainer's thread.
        self._step_since: float | None = None

    @property
    def alive(self) -> bool:
        """Whether the thread could do a task; it comes with the first one."""
        return self._thread is None or self._thread.is_alive()

    def step_s(self, now: float) -> float:
        """Return for how long it has been at its step (the reading of samples, say, is one too); 0: it has none."""
        since = self._step_since
        return 0.0 if since is None else max(0.0, now - since)

    @property
    def share(self) -> float | None:
        """How much of the training under way is done, 0 to 1; None when there is none."""
        sitting = None if self._bench is None else self._bench.sitting
        return None if sitting is None else sitting.share

    def figures(self) -> dict[str, int]:
        """Return how many embeddings were computed, and how many were found in the cache, since the process began."""
        if self._bench is None:
            return {}
        embedder = self._bench.embedder
        return {"embeddings_computed": embedder.computed, "embeddings_reused": embedder.reused}

    def start(self, task: Task, file: BinaryIO, candidate: BinaryIO | None = None) -> None:
        """Begin a task on the models in these open files, which are closed afterwards. One task at a time."""
        self._stop.clear()
        self._keeps = False
        self._step_since = time.monotonic()
        if self._thread is None:
            # A daemon: a step that hangs (or takes minutes) must not keep the process from ending.
            self._thread = threading.Thread(target=self._run, name="trainer", daemon=True)
            self._thread.start()
        self._jobs.put((task, file, candidate))

    def stop(self, *, keep: bool) -> None:
        """Stop the task under way between two steps or layers; ``keep``: a training goes on there later."""
        self._keeps = keep
        self._stop.set()

    def drop_checkpoint(self) -> None:
        """Forget what is kept of a training."""
        self._keeper.drop()

    def drop_personal(self) -> None:
        """Forget what is this device's alone; what a task under way learns of it is not kept, either."""
        self._belongings.forget()
        self._drift.forget()

    def close(self, timeout_s: float = 1.0) -> None:
        """Stop, and end the thread; one that does not come to an end in time is left behind.

        What a training that is left behind had done before its present step is kept, if ``stop`` said so.
        """
        self._stop.set()
        if self._thread is None:
            return
        self._jobs.put(None)
        self._thread.join(timeout_s)
        if self._keeps and self._thread.is_alive():
            self._keeper.rescue()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._carry_out(*job)
            del job

    def _carry_out(self, task: Task, file: BinaryIO, candidate: BinaryIO | None) -> None:
        # A method of its own: names in the loop would keep the last update in memory until the next task comes.
        with file, candidate or contextlib.nullcontext():
            answer = self._answer(task, file, candidate)
        # First this: with the answer the worker may begin the next task.
        self._step_since = None
        self._deliver(answer)

    def _answer(self, task: Task, file: BinaryIO, candidate: BinaryIO | None) -> Event:
        try:
            bench = self._workbench()
            if isinstance(task, Evaluate):
                return bench.evaluate(task, file, self)
            if isinstance(task, Answer):
                return self._sealed(bench.answer(task, file, self, candidate), task)
            self._next_step_at = 0.0
            return self._sealed(bench.train(task, file, self), task)
        except MemoryError:
            return TaskFailed(task=task.task, reason="not enough memory for the training", fault="internal")
        except Exception as exc:  # noqa: BLE001 - whatever goes wrong here, the agent must live on and say so
            return TaskFailed(task=task.task, reason=f"{type(exc).__name__}: {exc}"[:400], fault="internal")

    def _sealed(self, answer: Event, task: Train | Answer) -> Event:
        if task.manifest.sealing is None:
            return answer
        from device_agent.sealing import sealed, sealed_answer  # noqa: PLC0415 - for federations that seal
        from protocol.sealing import SealingError  # noqa: PLC0415 - see above

        try:
            if isinstance(answer, TrainingDone) and isinstance(task, Train):
                return sealed(answer, task, self._settings.device.id)
            if isinstance(answer, SurveyAnswered) and isinstance(task, Answer):
                return sealed_answer(answer, task, self._settings.device.id)
        except SealingError as exc:
            return TaskFailed(task=task.task, reason=str(exc), fault="model")
        return answer

    def _workbench(self) -> Workbench:
        if self._bench is None:
            before_numpy()
            from device_agent.adapters.workbench import Workbench  # noqa: PLC0415 - 12 MB that idle devices do without

            self._bench = Workbench(self._settings, self._keeper, self._belongings, self._deliver, self._drift)
        return self._bench

    # The workbench asks these, in the trainer's thread

    def stopped(self) -> bool:
        """Return whether the task under way is to stop."""
        return self._stop.is_set()

    def keeps(self) -> bool:
        """Return whether it is to go on later, as one does that nobody asked to stop (its deadline has passed)."""
        return self._keeps or not self._stop.is_set()

    def wait_and_stop(self) -> bool:
        """Wait until the next step may start; return whether there is to be none."""
        interval_s = self._settings.training.step_interval_s
        if interval_s > 0:
            self._step_since = None  # a rest, however long, is no step
            self._stop.wait(max(0.0, self._next_step_at - time.monotonic()))
            self._next_step_at = time.monotonic() + interval_s
        self._step_since = time.monotonic()
        return self._stop.is_set()


class FileWatch:
    """Notices that a file is another one: by modification time, size and inode."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._seen = self._look()

    def changed(self) -> bool:
        """Return whether the file changed since the last call."""
        found = self._look()
        changed, self._seen = found != self._seen, found
        return changed

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
