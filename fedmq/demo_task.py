"""What the demo's fleet can learn (``--task``), as data: the model, its training, who has which examples, what is said.

The watch's task is in ``demo_data``, the digits are in ``demo_digits``; the third asks what is unusual on a watch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedmq import demo_digits
from fedmq.demo_data import (
    CLASSES,
    FEATURES,
    MAX_DEVICES,
    PEOPLE,
    UNSEEN_PEOPLE,
    Samples,
    divide,
    load_recordings,
    people_as_samples,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PENDULUM = 0
"""The study's first exercise: the arm hangs loose and swings. The watches of ``--task anomaly`` never see it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dealt:
    """Who has which examples."""

    fleet: list[Samples]
    unseen: Samples
    """What no device has: by this the federation is judged."""
    odd: Samples | None = None
    """What is to be found among it, where the task is finding what is unusual."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Something to learn."""

    name: str
    model: dict[str, Any]
    training: dict[str, Any]
    devices: int
    """Unless somebody wants another number."""
    max_devices: int
    deal: Callable[[int], Dealt]
    """Raises ``DemoDataError``."""
    question: Callable[[Dealt], list[str]]
    """What a newcomer reads first, in lines of less than 80 columns."""
    judged_by: str
    """Whose examples those are that nobody has, in a heading: "accuracy on ..."."""
    personal: dict[str, Any] = field(default_factory=dict)
    statistics: bool = False
    """Whether the fleet is asked for its scale before it trains."""

    @property
    def labelled(self) -> bool:
        """Whether examples come with what is to be said of them."""
        return bool(self.model["kind"] != "autoencoder")

    @property
    def epochs(self) -> int:
        """So many epochs a device trains in all for an update, with the models that stay with it."""
        both = 2 if self.personal.get("compare_local") else 1
        return int(self.training["epochs"] * both + self.personal.get("fine_tune_epochs", 0))


def _deal_watch(devices: int) -> Dealt:
    recordings = load_recordings()
    return Dealt(fleet=divide(recordings, devices), unseen=people_as_samples(recordings, UNSEEN_PEOPLE, "unseen"))


def _deal_digits(devices: int) -> Dealt:
    fleet, unseen = demo_digits.divide(demo_digits.load_digits(), devices)
    return Dealt(fleet=fleet, unseen=unseen)


def _deal_anomaly(devices: int) -> Dealt:
    recordings = load_recordings()
    usual = [recording for recording in recordings if recording.exercise != PENDULUM]
    odd = [recording for recording in recordings if recording.exercise == PENDULUM]
    return Dealt(
        fleet=divide(usual, devices),
        unseen=people_as_samples(usual, UNSEEN_PEOPLE, "unseen"),
        odd=people_as_samples(odd, UNSEEN_PEOPLE, "odd"),
    )


def _ask_watch(dealt: Dealt) -> list[str]:
    return [
        f"Which shoulder exercise is it? {len(dealt.fleet)} smartwatches learn to tell, each from",
        f"recordings that never leave it, and {len(UNSEEN_PEOPLE)} people of whom none has data measure how",
        "well they do.",
    ]


def _ask_digits(dealt: Dealt) -> list[str]:
    return [
        f"Which digit is it? {len(dealt.fleet)} cameras learn to tell all ten, and each has only ever",
        f"seen three of them, in images that never leave it. {len(dealt.unseen.y)} images that none of",
        "them has measure how well they do. Each also fits what is learned together to",
        "its own digits.",
    ]


def _ask_anomaly(dealt: Dealt) -> list[str]:
    return [
        f"What is unusual? {len(dealt.fleet)} smartwatches learn, without any labels, what six",
        "shoulder exercises look like; no recording leaves its watch. An arm that hangs",
        f"loose and swings is what none of them has ever seen: with {len(UNSEEN_PEOPLE)} people of whom none",
        "has data it should stand out, and their exercises should not.",
    ]


FITTED: dict[str, Any] = {"fine_tune_epochs": 3, "compare_local": True}
"""Every device fits the version to its own data before it predicts, and also learns alone, to compare."""

WATCH = Task(
    name="watch",
    model={"kind": "mlp", "inputs": FEATURES, "hidden": [32], "outputs": CLASSES, "task": "classification"},
    # Found by trying: SGD reaches the same, some fifteen versions later.
    training={"epochs": 2, "batch_size": 16, "optimizer": "adam", "learning_rate": 0.003},
    personal=FITTED,
    devices=len(PEOPLE),
    max_devices=MAX_DEVICES,
    deal=_deal_watch,
    question=_ask_watch,
    judged_by=f"{len(UNSEEN_PEOPLE)} people whom nobody trained on",
)
DIGITS = Task(
    name="digits",
    model={
        "kind": "image_cnn",
        "input_shape": [demo_digits.SIDE, demo_digits.SIDE, 1],
        "outputs": demo_digits.DIGITS,
        "filters": [8, 16],
        "kernel": 3,
        "hidden": [32],
    },
    # Plain SGD: Adam's first steps are as long for a digit that a device has never seen as for those it has.
    training={"epochs": 2, "batch_size": 16, "optimizer": "sgd", "learning_rate": 0.15},
    personal=FITTED,
    devices=demo_digits.DIGITS,
    max_devices=demo_digits.MAX_DEVICES,
    deal=_deal_digits,
    question=_ask_digits,
    judged_by=f"{demo_digits.UNSEEN} images of all ten digits that nobody has",
)
ANOMALY = Task(
    name="anomaly",
    model={"kind": "autoencoder", "inputs": FEATURES, "hidden": [32, 16, 32], "standardize": True},
    training={"epochs": 2, "batch_size": 16, "optimizer": "adam", "learning_rate": 0.002},
    devices=len(PEOPLE),
    max_devices=MAX_DEVICES,
    deal=_deal_anomaly,
    question=_ask_anomaly,
    judged_by=f"{len(UNSEEN_PEOPLE)} people whom nobody trained on",
    statistics=True,
)
TASKS = {task.name: task for task in (WATCH, DIGITS, ANOMALY)}
