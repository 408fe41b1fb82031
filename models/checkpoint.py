"""A training that was paused between two steps, as plain data and arrays: all that is needed to go on, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.errors import CheckpointError
from models.fields import Fields
from models.parameters import FloatArray

_MOST = 2**62
_GENERATOR = "PCG64"
_STATE_BITS = 128


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """Where a training stands. Model, start, examples and plan are not in it: who resumes brings the same ones."""

    parameters: FloatArray
    optimizer: Mapping[str, FloatArray]
    """The optimizer's vectors by name; its count of steps is ``num_steps``."""
    epoch: int
    """Epochs that are complete."""
    position: int
    """Examples of the present epoch that are behind it."""
    num_steps: int
    seen: int
    loss_sum: float
    shuffle: Mapping[str, Any]
    """The generator's state before it shuffled the present epoch: from it comes the order again."""
    generator: Mapping[str, Any]
    """The generator's state now."""

    @property
    def arrays(self) -> dict[str, FloatArray]:
        """The vectors by name, in the order in which ``from_data`` wants them back."""
        return {"parameters": self.parameters, **self.optimizer}

    @property
    def nbytes(self) -> int:
        """Bytes of all vectors."""
        return sum(array.nbytes for array in self.arrays.values())

    def to_data(self) -> dict[str, Any]:
        """Return everything but the vectors, as JSON can hold it without loss; raise for an unusual generator."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "num_steps": self.num_steps,
            "seen": self.seen,
            "loss_sum": float(self.loss_sum).hex(),  # NaN and infinity too
            "shuffle": _state_to_data(self.shuffle),
            "generator": _state_to_data(self.generator),
        }

    @classmethod
    def from_data(cls, data: object, arrays: Mapping[str, FloatArray]) -> Checkpoint:
        """Return the checkpoint that ``to_data`` and ``arrays`` came from, or raise ``CheckpointError``."""
        if "parameters" not in arrays:
            raise CheckpointError("the parameters are missing")
        try:
            fields = Fields(data, "checkpoint", CheckpointError)
            found = cls(
                parameters=arrays["parameters"],
                optimizer={name: array for name, array in arrays.items() if name != "parameters"},
                epoch=fields.integer("epoch", 0, _MOST),
                position=fields.integer("position", 0, _MOST),
                num_steps=fields.integer("num_steps", 0, _MOST),
                seen=fields.integer("seen", 0, _MOST),
                loss_sum=float.fromhex(fields.text("loss_sum")),
                shuffle=_state_from_data(fields.table("shuffle")),
                generator=_state_from_data(fields.table("generator")),
            )
            fields.finish()
        except CheckpointError:
            raise
        except (ValueError, OverflowError, TypeError, AttributeError, RecursionError) as exc:
            raise CheckpointError(f"a number is not one: {exc}"[:200]) from exc
        return found


def _state_to_data(state: Mapping[str, Any]) -> dict[str, Any]:
    if state.get("bit_generator") != _GENERATOR:
        raise CheckpointError(f"the generator is {state.get('bit_generator')!s:.40}, only {_GENERATOR} can be kept")
    inner = state["state"]
    return {
        "state": f"{inner['state']:x}",  # 128 bits: more than JSON's readers take as a number
        "inc": f"{inner['inc']:x}",
        "has_uint32": int(state["has_uint32"]),
        "uinteger": int(state["uinteger"]),
    }


def _state_from_data(data: Mapping[str, Any]) -> dict[str, Any]:
    fields = Fields(data, "generator", CheckpointError)
    inner = {name: int(fields.text(name), 16) for name in ("state", "inc")}
    found = {
        "bit_generator": _GENERATOR,
        "state": inner,
        "has_uint32": fields.integer("has_uint32", 0, 1),
        "uinteger": fields.integer("uinteger", 0, 2**32 - 1),
    }
    fields.finish()
    if any(not 0 <= number < 2**_STATE_BITS for number in inner.values()):
        raise CheckpointError("the generator's state is out of range")
    return found
