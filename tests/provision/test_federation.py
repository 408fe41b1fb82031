"""A federation with nothing but what ``fedmq provision`` made, while its keys change one after the other."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest

from device_agent.__main__ import main as agent
from fedmq.processes import QUIET_THREADS, Child
from protocol.toml_block import with_value
from tests.provision.plant import Plant
from tests.support.federation import wait_until


class Works:
    """An aggregator and a device, as processes, in a plant."""

    def __init__(self, plant: Plant, folder: Path, stack: ExitStack) -> None:
        self.plant, self.folder = plant, folder
        self.etc = folder / "etc"
        rng = np.random.default_rng(0)
        np.savez(folder / "samples.npz", x=rng.normal(size=(40, 64)), y=rng.integers(0, 10, 40))
        self.enroll()
        agent_toml = self.etc / "agent.toml"
        text = with_value(agent_toml.read_text(encoding="utf-8"), "device", "state_dir", str(folder / "agent-state"))
        agent_toml.write_text(text.replace("min_interval_s = 10.0", "min_interval_s = 0.2"), encoding="utf-8")
        self.toml = plant.desk.folder / "aggregator" / "aggregator.toml"
        text = with_value(self.toml.read_text(encoding="utf-8"), "aggregator", "state_dir", str(folder / "state"))
        self.toml.write_text(text.replace("goal = 4", "goal = 1"), encoding="utf-8")
        self.aggregator = self._child("aggregator", self.toml, stack)
        self.agent = self._child("device_agent", agent_toml, stack)

    def _child(self, module: str, configuration: Path, stack: ExitStack) -> Child:
        command = ["env", *(f"{name}={value}" for name, value in QUIET_THREADS.items()), sys.executable, "-m", module]
        child = Child(module, [*command, "run", "--config", str(configuration)], self.folder / f"{module}.log")
        stack.callback(child.kill)
        child.start()
        return child

    def enroll(self) -> None:
        bundle = self.plant.desk.folder / "bundles" / "press-01.fedmq"
        data = str(self.folder / "samples.npz")
        assert agent(["enroll", str(bundle), "--to", str(self.etc), "--data", data]) == 0

    def restart(self, child: Child) -> None:
        child.kill()
        child.start()

    def versions(self) -> int:
        path = self.folder / "state" / "aggregator.sqlite"
        if not path.exists():
            return 0
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)) as database:
            # The file is there before its tables are.
            if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'versions'").fetchone():
                return 0
            return int(database.execute("SELECT count(*) FROM versions").fetchone()[0])

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf-8")

    def goes_on(self) -> None:
        """Wait for two more versions: the first may have been on its way before whatever was changed."""
        before = self.versions()
        wait_until(lambda: self.versions() >= before + 2, f"versions; {self.log('device_agent')[-2000:]}")


@pytest.fixture
def works(plant: Plant, tmp_path: Path) -> Iterator[Works]:
    with ExitStack() as stack:
        yield Works(plant, tmp_path, stack)


def test_a_federation_outlives_all_its_keys(works: Works) -> None:
    desk = works.plant.desk
    works.goes_on()
    for kind in ("signing", "sealing"):
        desk("rotate", kind)
        works.restart(works.aggregator)
        works.goes_on()
        desk("rotate", kind, "--end-overlap")
        works.restart(works.aggregator)
        works.goes_on()
    desk("rotate", "broker")
    desk("rotate", "aggregator")
    works.plant.reload()
    works.restart(works.aggregator)
    works.goes_on()
    desk("rotate", "device", "press-01")
    works.enroll()
    works.restart(works.agent)
    works.goes_on()
    desk("rotate", "device", "press-01", "--end-overlap")
    works.plant.reload()
    works.restart(works.agent)
    works.goes_on()
    assert "all is well" in desk("check", "--connect", f"localhost:{works.plant.port}")
    assert "refused" not in works.log("device_agent")
