"""Run one case of ``stop_cases`` on a workbench, and measure the stretches in which nobody asks whether to stop.

``python -m benchmarks.support.looks CASE FOLDER``; prints JSON. A process of its own: cases are large.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.support.stop_cases import CASES
from device_agent.adapters.belongings import Belongings
from device_agent.adapters.drift_file import DriftFile
from device_agent.adapters.keeper import Keeper
from device_agent.adapters.model_cache import ModelCache
from device_agent.adapters.workbench import Workbench
from device_agent.commands import Answer, Train
from device_agent.events import SurveyAnswered, TrainingDone
from device_agent.settings import AgentSettings
from models import build
from protocol import tensors
from protocol.chunks import blob_of, digest_of
from protocol.messages import Manifest, Participation
from protocol.settings import settings_from
from protocol.surveys import Survey


class Stopwatch:
    """Says "go on" whenever it is asked, and knows how long it was not asked."""

    def __init__(self) -> None:
        self.begun = self._last = time.perf_counter()
        self.longest_s = 0.0
        self.asked = 0

    def stopped(self) -> bool:
        """Note the time."""
        now = time.perf_counter()
        self.longest_s = max(self.longest_s, now - self._last)
        self._last = now
        self.asked += 1
        return False

    def wait_and_stop(self) -> bool:
        """Note the time."""
        return self.stopped()

    def keeps(self) -> bool:
        """Nothing is stopped."""
        return True


def main() -> None:
    """Train, then answer a survey; print what was found."""
    case, folder = CASES[sys.argv[1]], Path(sys.argv[2])
    tables = case.make(folder)
    state = folder / "device"
    sources = {}
    if "sources.arm" in tables:
        sources["arm"] = {**tables["sources.arm"], "fields": tables["sources.arm.fields"]}
    rest = {name: table for name, table in tables.items() if not name.startswith("sources")}
    device = {"id": "a", "federation": "f", "state_dir": str(state)}
    settings = settings_from({"device": device, "sources": sources, **rest}, AgentSettings, "case")
    state.mkdir(exist_ok=True)
    model = build(case.model)
    rng = np.random.default_rng(0)
    data = tensors.encode("f32", model.init(rng), rng)
    manifest = Manifest(
        federation="f",
        epoch="e" * 16,
        version=0,
        model=dict(model.spec),
        layout=model.layout.digest,
        parameters=digest_of(data),
        blob=blob_of(data, "f32"),
        training=dict(case.plan),
        features=dict(case.features),
        participation=Participation(codec="int8"),
    )
    cache = ModelCache(state)
    cache.replace(manifest, data)
    bench = Workbench(settings, Keeper(settings), Belongings(state), lambda _event: None, DriftFile(state))
    train = Train(task=1, manifest=manifest, contribution=0, incarnation="1" * 16, sequence=1)
    survey = Survey(id="5" * 16, kind="statistics")
    found = []
    for run in (
        lambda watch: bench.train(train, cache.open(), watch),
        lambda watch: bench.answer(
            Answer(task=2, manifest=manifest, survey=survey, incarnation="1" * 16, sequence=2), cache.open(), watch
        ),
    ):
        watch = Stopwatch()
        done = run(watch)
        watch.stopped()
        assert isinstance(done, TrainingDone | SurveyAnswered), done
        found.append({"longest_s": watch.longest_s, "asked": watch.asked, "all_s": time.perf_counter() - watch.begun})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
