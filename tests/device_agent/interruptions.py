"""A workbench that trains a small model, and is told to stop where a test wants it."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from device_agent.adapters.belongings import Belongings
from device_agent.adapters.drift_file import DriftFile
from device_agent.adapters.keeper import Keeper
from device_agent.adapters.model_cache import ModelCache
from device_agent.adapters.workbench import Workbench
from device_agent.commands import Train
from device_agent.events import Event, TaskStopped, TrainingDone, TrainingNoted, TrainingResumed
from device_agent.settings import AgentSettings, DataSettings, DeviceSettings, TrainingSettings
from models import build
from protocol import tensors
from protocol.chunks import blob_of, digest_of
from protocol.messages import Manifest, Participation

SPEC = {"kind": "mlp", "inputs": 4, "hidden": [5], "outputs": 2}
PLAN = {"epochs": 3, "batch_size": 16, "optimizer": "adam", "learning_rate": 0.01}


class Device:
    """One state directory, and as many processes in it as a test needs, one after the other."""

    def __init__(
        self, folder: Path, *, plan: dict[str, Any] | None = None, codec: str = "f32", **training: Any
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.settings = AgentSettings(
            device=DeviceSettings(id="a", federation="f", state_dir=str(folder)),
            data=DataSettings(path=str(folder / "samples.npz"), holdout_fraction=0.3),
            training=TrainingSettings(**training),
        )
        self.told: list[Event] = []
        self.save_samples()
        self.manifest = self._manifest(plan or PLAN, codec)
        self.contribution = 0

    @property
    def kept(self) -> Path:
        return self.folder / "training"

    @property
    def aside(self) -> Path:
        return self.folder / "training.aside"

    def save_samples(self, rows: int = 100) -> None:
        rng = np.random.default_rng(5)
        x = rng.normal(size=(rows, 4)).astype(np.float32)
        np.savez(self.folder / "samples.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
        os.utime(self.folder / "samples.npz", ns=(1, zlib.crc32(x.tobytes())))

    def read_from(self, path: Path) -> None:
        """Take the samples from another file."""
        self.settings = replace(self.settings, data=replace(self.settings.data, path=str(path)))

    def process(self) -> tuple[Workbench, Keeper]:
        """What a new process begins with."""
        keeper = Keeper(self.settings)
        return Workbench(
            self.settings, keeper, Belongings(self.folder), self.told.append, DriftFile(self.folder)
        ), keeper

    def train(self, stop_after: int | None = None, *, keeps: bool = True, on: Workbench | None = None) -> Any:
        """Train in a new process, to the end or until so many steps of this process are done."""
        bench = on or self.process()[0]
        return bench.train(self.task(), ModelCache(self.folder).open(), Word(stop_after, keep=keeps))

    def task(self) -> Train:
        return Train(task=1, manifest=self.manifest, contribution=self.contribution, incarnation="1" * 16, sequence=1)

    def announce(self, **changes: Any) -> None:
        """The same model, with another manifest."""
        cache = ModelCache(self.folder)
        self.manifest = replace(self.manifest, **changes)
        cache.replace(self.manifest, self._data)

    def notes(self) -> list[str]:
        return [f"{event.message}: {event.reason}" for event in self.told if isinstance(event, TrainingNoted)]

    def resumed(self) -> list[int]:
        return [event.num_steps for event in self.told if isinstance(event, TrainingResumed)]

    def _manifest(self, plan: dict[str, Any], codec: str) -> Manifest:
        model = build(SPEC)
        rng = np.random.default_rng(1)
        self._data = tensors.encode("f32", rng.normal(size=model.layout.size).astype(np.float32), rng)
        manifest = Manifest(
            federation="f",
            epoch="e" * 16,
            version=4,
            model=SPEC,
            layout=model.layout.digest,
            parameters=digest_of(self._data),
            blob=blob_of(self._data, "f32"),
            training=plan,
            participation=Participation(codec=codec),
        )
        ModelCache(self.folder).replace(manifest, self._data)
        return manifest


class Word:
    """Lets so many steps pass, for ever when that is None."""

    def __init__(self, steps: int | None = None, *, keep: bool = True) -> None:
        self._left = steps
        self._keep = keep

    def wait_and_stop(self) -> bool:
        if self._left is None:
            return False
        self._left -= 1
        return self._left < 0

    def stopped(self) -> bool:
        return False

    def keeps(self) -> bool:
        return self._keep


def same(found: Any, wanted: Any) -> bool:
    """Whether two trainings led to the same update, bit for bit."""
    assert isinstance(found, TrainingDone)
    assert isinstance(wanted, TrainingDone)
    return (found.delta, found.num_examples, found.num_steps, found.train_loss, found.before, found.after) == (
        wanted.delta,
        wanted.num_examples,
        wanted.num_steps,
        wanted.train_loss,
        wanted.before,
        wanted.after,
    )


def stopped(answer: Any) -> TaskStopped:
    assert isinstance(answer, TaskStopped)
    return answer
