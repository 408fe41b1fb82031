"""The training plan: how a device trains, as plain data in the manifest; and what a part of it weighs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from models.errors import PlanError
from models.fields import Fields

MAX_EPOCHS = 10_000
MAX_BATCH = 2**16
MAX_STEPS = 2**31
MAX_RATE = 1e3
MAX_PROXIMAL = 1e3
MAX_CLIP_NORM = 1e9
MAX_DEADLINE_S = 1e7
MAX_WEIGHT = 1e3
MAX_WEIGHTS = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """How a device trains, as the manifest says. Make one with ``from_data``, which checks it."""

    epochs: int = 1
    batch_size: int = 32
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.0
    """Of ``sgd``; ``adam`` has its own."""
    proximal: float = 0.0
    """FedProx (Li et al. 2020): adds ``proximal / 2 * ||w - w_start|| ** 2`` to the loss, biases included."""
    max_steps: int = 0
    """Stop after so many steps; 0 = no limit."""
    clip_norm: float = 0.0
    """Scale the whole gradient, penalties included, down to this Euclidean norm; 0 = never."""
    deadline_s: float = 0.0
    """Seconds of training after which ``on_deadline`` applies, at the next step; 0 = none."""
    on_deadline: Literal["resume", "send"] = "resume"
    """``resume``: rest as long, then go on. ``send``: send what there is, with a weight by steps done."""
    class_weights: tuple[float, ...] = ()
    """What an example of each class counts in the loss that is trained (see ``models.losses``); empty: all alike.
    What is measured is measured without them."""

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> TrainingPlan:
        """Return the checked plan, or raise ``PlanError``; every key has a default."""
        fields = Fields(data, "training", PlanError)
        plan = cls(
            epochs=fields.integer("epochs", 1, MAX_EPOCHS, 1),
            batch_size=fields.integer("batch_size", 1, MAX_BATCH, 32),
            optimizer=cast("Literal['sgd', 'adam']", fields.choice("optimizer", ("sgd", "adam"), "sgd")),
            learning_rate=fields.number("learning_rate", 0.0, MAX_RATE, 0.1, above=True),
            momentum=fields.number("momentum", 0.0, 0.9999, 0.0),
            proximal=fields.number("proximal", 0.0, MAX_PROXIMAL, 0.0),
            max_steps=fields.integer("max_steps", 0, MAX_STEPS, 0),
            clip_norm=fields.number("clip_norm", 0.0, MAX_CLIP_NORM, 0.0),
            deadline_s=fields.number("deadline_s", 0.0, MAX_DEADLINE_S, 0.0),
            on_deadline=cast("Literal['resume', 'send']", fields.choice("on_deadline", ("resume", "send"), "resume")),
            class_weights=fields.numbers("class_weights", 0.0, MAX_WEIGHT, MAX_WEIGHTS),
        )
        fields.finish()
        if plan.optimizer == "adam" and plan.momentum:
            raise fields.wrong("momentum", plan.momentum, "0 with optimizer 'adam'")
        return plan

    def to_data(self) -> dict[str, Any]:
        """Return the plan as data, from which ``from_data`` makes the same plan again.

        It is complete but for ``class_weights`` where there are none: ends that are older know no such key.
        """
        data = asdict(self)
        weights = data.pop("class_weights")
        return data | ({"class_weights": list(weights)} if weights else {})

    def steps(self, examples: int) -> int:
        """Return how many steps the whole plan takes on so many examples (more than 0)."""
        whole = self.epochs * -(-examples // self.batch_size)
        return min(whole, self.max_steps) if self.max_steps else whole

    def due(self, total_s: float, stretch_s: float) -> Literal["resume", "send"] | None:
        """Return what the deadline asks for now, if anything.

        ``total_s`` is the time of this training, all its stretches together; ``stretch_s`` that since it was begun or
        last resumed. ``send`` counts the first, so that interruptions do not put it off; ``resume`` the second.
        """
        if not self.deadline_s:
            return None
        passed = total_s if self.on_deadline == "send" else stretch_s
        return self.on_deadline if passed >= self.deadline_s else None


def weight_of_part(num_examples: int, steps: int, planned: int) -> int:
    """Return the weight, in examples, of a training that did ``steps`` of ``planned`` steps: in proportion, at least 1.

    A whole training weighs ``num_examples``, as in FedAvg (McMahan et al. 2017).
    """
    if steps >= planned:
        return num_examples
    return max(1, num_examples * steps // planned)
