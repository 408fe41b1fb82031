"""One stretch of a training: from its beginning, or from a checkpoint, to its end, a stop or its deadline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, TypeAlias

from device_agent.adapters.keeper import Snapshot
from models import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

    from device_agent.adapters.keeper import Keeper
    from device_agent.keeping import Origin
    from models import Training, TrainingPlan

SLOW_STEP_S = 0.05
"""After a step that took longer the training's state is copied, so that the next one can be left behind when the
process has to end. A quicker one is waited for."""

COPY_EVERY_S = 0.5
"""No copy sooner after the last one: copying costs a fraction of a step, and need not be done after each."""

Ending: TypeAlias = Literal["finished", "stopped", "resume", "send"]
"""``resume`` and ``send``: the deadline has passed."""


class Sitting:
    """Runs a ``Training``, and keeps it on disk where that is due."""

    def __init__(
        self,
        training: Training,
        plan: TrainingPlan,
        origin: Origin,
        keeper: Keeper,
        *,
        planned: int,
        elapsed_s: float = 0.0,
    ) -> None:
        """Begin where ``training`` stands; ``elapsed_s`` are the stretches before."""
        self._training, self._plan, self._origin, self._keeper = training, plan, origin, keeper
        self._before_s = elapsed_s
        self._first_step = training.num_steps
        self._begun_at = self._saved_at = self._step_began = self._copied_at = time.monotonic()
        self.planned = planned
        self.save_every_s = 0.0
        """Seconds between checkpoints without an interruption; 0: none."""
        self._goes_through = False
        self.trouble = ""
        """Why the last checkpoint could not be written."""

    @property
    def elapsed_s(self) -> float:
        """Time of this training so far, all its stretches."""
        return self._before_s + time.monotonic() - self._begun_at

    @property
    def share(self) -> float:
        """How much of the plan is done, 0 to 1."""
        return min(1.0, self._training.num_steps / self.planned)

    @property
    def num_steps(self) -> int:
        """Steps done, in all stretches."""
        return self._training.num_steps

    def run(self, should_stop: Callable[[], bool], leave: Callable[[], bool]) -> Ending:
        """Train until one of the endings.

        ``should_stop`` may rest before it answers; ``leave`` says the same at once, within steps.
        """
        ending: Ending = "stopped"

        def pause() -> bool:
            nonlocal ending
            step_s = time.monotonic() - self._step_began
            if should_stop():
                return True
            now = time.monotonic()
            if (due := self._due(now)) is not None:
                ending = due
                return True
            self._between(now, step_s)
            self._step_began = time.monotonic()
            return False

        try:
            return "finished" if self._training.run(pause, leave) else ending
        finally:
            self._keeper.offer(None)

    def keep(self) -> bool:
        """Write down where the training stands; return whether it is on disk. ``trouble`` says why not."""
        try:
            self.trouble = self._keeper.keep(self._snapshot(), urgent=True)
        except CheckpointError as exc:
            self.trouble = str(exc)
        return not self.trouble

    def _due(self, now: float) -> Ending | None:
        stretch_s = now - self._begun_at
        due = self._plan.due(self._before_s + stretch_s, stretch_s)
        if due == "send":
            return due if self.num_steps else None
        if due is None or self._goes_through or self.num_steps == self._first_step:
            return None  # at least a step in each stretch, or it would never come to its end
        # Nor would it if it were set aside and lost: what cannot be kept is better carried through.
        self._goes_through = not self.keep()
        return None if self._goes_through else due

    def _between(self, now: float, step_s: float) -> None:
        slow = step_s > SLOW_STEP_S and now - self._copied_at >= COPY_EVERY_S and self.num_steps > 0
        wanted = self.save_every_s > 0 and now - self._saved_at >= self.save_every_s
        if not slow and not wanted:
            return
        snapshot = self._snapshot()
        if slow:
            self._copied_at = now
            self._keeper.offer(snapshot)
        if wanted:
            self._saved_at = now
            self.trouble = self._keeper.keep(snapshot, urgent=False)

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            origin=self._origin,
            planned=self.planned,
            elapsed_s=self.elapsed_s,
            checkpoint=self._training.checkpoint(),
        )
