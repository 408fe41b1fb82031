"""The demo's folder: configurations, data and logs of every process, and the commands that start them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import numpy as np

from fedmq.answers import PLAN, Examined, Plan
from fedmq.demo_plan import HOLDOUT, agent_toml, aggregator_toml
from fedmq.demo_sensors import FEATURES
from fedmq.processes import Child

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fedmq.demo_data import Samples
    from fedmq.demo_plan import DevicePlan
    from fedmq.demo_sensors import Worn
    from fedmq.demo_task import Dealt, Task


class FolderError(RuntimeError):
    """The folder cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """Knows where everything is; ``folder`` is absolute."""

    folder: Path
    federation: str
    secure: ClassVar[bool] = False
    """Whether identities come from a keystore."""

    def aggregator_state(self) -> Path:
        """Where the aggregator keeps its database."""
        return self.folder / "aggregator"

    def device_state(self, name: str) -> Path:
        """Where a device keeps its database."""
        return self.folder / name

    def write(
        self,
        task: Task,
        plans: Sequence[DevicePlan],
        dealt: Dealt,
        host: str,
        port: int,
        *,
        worn: Worn | None = None,
    ) -> None:
        """Write configurations and data of the whole fleet; with watches that are worn, the watches have the data."""
        folder, secure = str(self.folder), self.secure
        where: dict[str, Any] = {"federation": self.federation, "folder": folder, "host": host, "port": port}
        _save(self.evaluation, dealt.unseen, labelled=task.labelled)
        features = FEATURES if worn else None
        self.put_aggregator(aggregator_toml(task, **where, devices=len(plans), secure=secure, features=features))
        if worn is not None:
            worn.write(self.sensors, host, port)
        for plan, samples in zip(plans, dealt.fleet, strict=True):
            sources = worn.tables(plan.name, {"host": host, "port": port}, HOLDOUT) if worn else None
            if not sources:
                _save(self.folder / f"{plan.name}.npz", samples, labelled=task.labelled)
            text = agent_toml(plan, task, **where, samples=len(samples.y), secure=secure, sources=sources)
            self.put_agent(plan.name, text)

    def put_aggregator(self, text: str) -> None:
        """Write the aggregator's configuration."""
        self.aggregator_configuration.write_text(text, encoding="utf-8")

    def put_agent(self, name: str, text: str) -> None:
        """Write a device's configuration."""
        self.agent_configuration(name).write_text(text, encoding="utf-8")

    @property
    def evaluation(self) -> Path:
        """Where the aggregator's examples are."""
        return self.folder / "evaluation.npz"

    @property
    def aggregator_configuration(self) -> Path:
        """Where the aggregator's configuration is."""
        return self.folder / "aggregator.toml"

    def agent_configuration(self, name: str) -> Path:
        """Where a device's configuration is."""
        return self.folder / f"{name}.toml"

    @property
    def sensors(self) -> Path:
        """Where the watches' recordings are, if they are worn."""
        return self.folder / "sensors"

    def wrists(self) -> Child:
        """Return the process that plays all watches, not yet started."""
        return Child("sensors", [sys.executable, "-m", "fedmq.wrists", str(self.sensors)], self.folder / "sensors.log")

    def examiner(self, names: Sequence[str]) -> Child:
        """Return the process that asks these devices' models what they make of what the devices hold out."""
        place = self.examined
        place.mkdir(exist_ok=True)
        plan = Plan(
            devices=[
                Examined(
                    name=name,
                    state_dir=str(self.device_state(name)),
                    data=str(self.folder / f"{name}.npz"),
                    holdout=HOLDOUT,
                )
                for name in names
            ]
        )
        (place / PLAN).write_bytes(msgspec.json.encode(plan))
        return Child("examiner", [sys.executable, "-m", "fedmq.examiner", str(place)], self.folder / "examiner.log")

    @property
    def examined(self) -> Path:
        """Where that process says what it was told."""
        return self.folder / "examined"

    def aggregator(self) -> Child:
        """Return the aggregator's process, not yet started."""
        return self._child("aggregator", "aggregator", self.aggregator_configuration)

    def agent(self, name: str) -> Child:
        """Return a device's process, not yet started."""
        return self._child(name, "device_agent", self.agent_configuration(name))

    def _child(self, name: str, module: str, configuration: Path) -> Child:
        command = [sys.executable, "-m", module, "run", "--config", str(configuration)]
        return Child(name, command, self.folder / f"{name}.log")


def _save(path: Path, samples: Samples, *, labelled: bool) -> None:
    if labelled:
        np.savez(path, x=samples.x, y=samples.y)
    else:
        np.savez(path, x=samples.x)


def prepare_folder(folder: Path) -> Path:
    """Return the absolute path of an empty folder, made when missing; raise ``FolderError`` when it is not empty."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise FolderError(f"{folder} is not empty; --keep needs a folder of its own, new or empty")
    except OSError as exc:
        raise FolderError(f"{folder} cannot be used: {exc.strerror or exc}") from exc
    return folder.resolve()
