"""Private parameters: laid over a version before it is trained, measured or predicted with, and kept afterwards.

Imports NumPy: only the trainer's thread, and who predicts, import this module.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from device_agent.adapters.belongings import Belongings, OwnedFile
from device_agent.adapters.vector_file import VectorFileError
from device_agent.owned import AFTER, BEFORE, Owned, of_state
from models import Personal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import TypeAlias

    from numpy.typing import NDArray

    from models import Model, Split
    from protocol.messages import Manifest

    Vector: TypeAlias = NDArray[np.float32]

PRIVATE, LOCAL, TUNED = "private", "local", "tuned"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Start:
    """Where a training begins."""

    personal: Personal
    split: Split
    parameters: Vector
    """The version, with the device's own parameters in it."""
    local: Vector | None
    """The model of nothing but the device's own data, if it is to compare with and there is one already."""
    digest: str
    """Of what is the device's own, and of how it is trained; empty where nothing is."""
    turn: int
    state: dict[str, Vector] = field(default_factory=dict)
    why_cold: str = ""
    """Why what was kept could not be used; empty when it could, or there was nothing."""

    def untuned(self, version: Vector) -> Vector:
        """Return a version with the device's own parameters in it, and without fine-tuning: for comparisons."""
        return self.split.overlaid(version, self.state[PRIVATE]) if PRIVATE in self.state else version


class Personalizer:
    """Knows what is this device's alone."""

    def __init__(self, belongings: Belongings) -> None:
        self._belongings = belongings

    def begin(self, manifest: Manifest, model: Model, parameters: Vector, name: tuple[str, int] | None = None) -> Start:
        """Return where a training begins whose update will have this name; None: what is predicted with.

        A device without anything of its own begins with what the version brings: the values of version 0, everywhere
        the same. Raises ``PlanError`` when the manifest declares what does not fit its model.
        """
        personal = Personal.from_data(manifest.personal)
        split = personal.split(model)
        turn = self._belongings.turn
        if not personal.keeps:
            return Start(personal=personal, split=split, parameters=parameters, local=None, digest="", turn=turn)
        state, why_cold = self._state(manifest, split, name)
        tuned = personal.fine_tune_epochs > 0 and TUNED in state
        private = state.setdefault(PRIVATE, split.private_of(parameters))
        return Start(
            personal=personal,
            split=split,
            parameters=state[TUNED] if tuned else split.overlaid(parameters, private),
            local=state.get(LOCAL) if personal.compare_local else None,
            digest=_digest(personal, private),
            turn=turn,
            state=state,
            why_cold=why_cold,
        )

    def keep(self, start: Start, manifest: Manifest, name: tuple[str, int], made: Mapping[str, Vector]) -> str:
        """Write down what came of the training; return why that could not be, or nothing.

        ``made`` are the newer vectors; ``local`` stays as it was when there is none.
        """
        if not start.digest:
            return ""
        after = {**start.state, **made}
        pairs = {BEFORE + key: vector for key, vector in start.state.items()}
        pairs |= {AFTER + key: vector for key, vector in after.items()}
        head = Owned(
            federation=manifest.federation,
            layout=start.split.whole.digest,
            private=start.split.private.digest,
            incarnation=name[0],
            sequence=name[1],
            tuned=manifest.parameters if TUNED in made else "",
            arrays={key: vector.size for key, vector in pairs.items()},
        )
        return self._belongings.write(start.turn, head, [_bytes(vector) for vector in pairs.values()])

    def _state(self, manifest: Manifest, split: Split, name: tuple[str, int] | None) -> tuple[dict[str, Vector], str]:
        try:
            return _kept(self._belongings.read(), manifest, split, name), ""
        except VectorFileError as exc:
            self._belongings.put_aside()
            return {}, str(exc)


def personal_parameters(state_dir: Path, manifest: Manifest, model: Model, global_parameters: Vector) -> Vector:
    """Return the version's parameters with those of this device in it: what it predicts with.

    Only reads; safe from any thread and process. With fine-tuning, what that made of this very version.

    Where there is nothing of its own yet, or nothing usable, the version's are returned as they are. Raises
    ``PlanError`` when the manifest declares what does not fit its model.
    """
    personal = Personal.from_data(manifest.personal)
    split = personal.split(model)
    if not personal.private and not personal.fine_tune_epochs:
        return global_parameters
    try:
        state = _kept(OwnedFile(state_dir).read(), manifest, split, None)
    except VectorFileError:
        return global_parameters
    if personal.fine_tune_epochs and TUNED in state:
        return state[TUNED]
    return split.overlaid(global_parameters, state[PRIVATE]) if PRIVATE in state else global_parameters


def _kept(
    found: tuple[Owned, dict[str, bytes]] | None, manifest: Manifest, split: Split, name: tuple[str, int] | None
) -> dict[str, Vector]:
    """Return the vectors that hold now; raise ``VectorFileError`` when they are not of this model."""
    if found is None:
        return {}
    head, vectors = found
    if reason := head.why_not(manifest.federation, split.whole.digest, split.private.digest):
        raise VectorFileError(reason)
    state = {key: np.frombuffer(data, np.float32) for key, data in of_state(vectors, head.holds(name)).items()}
    sizes = {PRIVATE: split.private.size, LOCAL: split.whole.size, TUNED: split.whole.size}
    if any(vector.size != sizes.get(key) for key, vector in state.items()):
        raise VectorFileError("it is damaged")
    if name is not None or head.tuned != manifest.parameters:
        state.pop(TUNED, None)  # of another version, and no training begins with it
    return state


def _bytes(vector: Vector) -> memoryview:
    return np.ascontiguousarray(vector).data if vector.size else memoryview(b"")


def _digest(personal: Personal, private: Vector) -> str:
    how = msgspec.json.encode([personal.private, personal.private_epochs])
    return hashlib.sha256(how + private.tobytes()).hexdigest()
