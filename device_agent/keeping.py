"""What is kept of a training that is not finished: whose it is, whether it may go on, and how much may be written."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from device_agent.settings import MAX_MODEL_BYTES

MAX_CHECKPOINT_BYTES = 3 * MAX_MODEL_BYTES + 64 * 1024
"""Parameters and two vectors of an optimizer, and the head."""

DAY_S = 86400.0


class Origin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a training's bits follow from, beside where it stands. Another origin is another training."""

    federation: str
    device: str
    incarnation: str
    epoch: str
    version: int
    contribution: int
    parameters: str
    """Digest of the version's parameters."""
    model: str
    """Digest of the model's spec."""
    plan: dict[str, Any]
    seed: int
    samples: str
    """Digest of the examples that are trained on."""
    upto: int | None = None
    """Newest row of the sample store among them; None: they come from a file."""
    personal: str = ""
    """Digest of what is the device's own among the parameters that it begins with, and of how they are trained."""
    backbone: str = ""
    """Digest of the frozen network that made examples of samples; empty: there is none."""
    software: str
    """Whose arithmetic and shuffling it is."""


class Kept(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The head of a checkpoint: everything but the vectors."""

    origin: Origin
    num_steps: int
    planned: int
    """Steps of the whole plan."""
    elapsed_s: float
    """Time of training so far, all stretches together."""
    arrays: dict[str, int]
    """Number of float32 of each vector, in the order in which they follow."""
    state: dict[str, Any]
    """See ``models.Checkpoint.to_data``."""

    @property
    def size(self) -> int:
        """Bytes of the vectors."""
        return 4 * sum(self.arrays.values())


def why_not(kept: Origin, wanted: Origin) -> str:  # noqa: PLR0911 - one return for each reason
    """Return why a training of one origin cannot go on as one of another; empty when they are the same."""
    if (kept.federation, kept.device, kept.incarnation) != (wanted.federation, wanted.device, wanted.incarnation):
        return "it is another device's, or of another outbox"
    if (kept.epoch, kept.version, kept.parameters) != (wanted.epoch, wanted.version, wanted.parameters):
        return f"it is of version {kept.version}, and version {wanted.version} is the one to train"
    if kept.contribution != wanted.contribution:
        return "that training is done"
    if (kept.model, kept.plan, kept.seed) != (wanted.model, wanted.plan, wanted.seed):
        return "model, training plan or seed are others now"
    if kept.backbone != wanted.backbone or kept.personal != wanted.personal:
        same = kept.personal == wanted.personal
        return "the backbone is another one now" if same else "the parameters of the device's own are others now"
    if (kept.samples, kept.upto) != (wanted.samples, wanted.upto):
        return "the samples changed"
    return "" if kept == wanted else f"it was made with {kept.software}, and this is {wanted.software}"


class WriteBudget:
    """How much may be written: so many bytes a day on average, and never more than those of one day at once.

    Begins full, with each process. Checkpoints at intervals leave half of it to interruptions.
    """

    def __init__(self, daily_bytes: int) -> None:
        """``daily_bytes`` 0: no limit."""
        self._daily = float(daily_bytes)
        self._left = self._daily
        self._at: float | None = None

    def take(self, size: int, now: float, *, urgent: bool) -> bool:
        """Take so many bytes if they are there, and return whether they were."""
        if not self._daily:
            return True
        passed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        self._left = min(self._daily, self._left + passed * self._daily / DAY_S)
        if self._left - size < (0.0 if urgent else self._daily / 2):
            return False
        self._left -= size
        return True
