"""Tasks that are told to stop while they read or measure: they stop there, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from device_agent.adapters.leaving import ASK_EVERY, TaskLeftError, until
from device_agent.adapters.model_cache import ModelCache
from device_agent.commands import Evaluate
from device_agent.events import EvaluationDone, TaskStopped, TrainingDone
from tests.device_agent.interruptions import Device, Word, same


class Impatient(Word):
    """Lets so many questions whether to stop pass, then says yes."""

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.asked = 0
        self._patience = patience

    def stopped(self) -> bool:
        self.asked += 1
        return self.asked > self._patience


def test_one_asks_before_the_first_item_and_every_so_often() -> None:
    items = iter(range(10 * ASK_EVERY))
    with pytest.raises(TaskLeftError):
        list(until(Impatient(0).stopped, items))
    with pytest.raises(TaskLeftError):
        list(until(Impatient(2).stopped, items))
    assert next(items) == 2 * ASK_EVERY + 2, "the item that was at hand when it said so is gone"
    assert len(list(until(Impatient(10).stopped, items))) == 8 * ASK_EVERY - 3


@pytest.mark.parametrize("kind", ["npz", "csv"])
def test_a_training_can_be_stopped_at_every_question_and_ends_with_the_same_bits(tmp_path: Path, kind: str) -> None:
    wanted = _device(tmp_path / "wanted", kind).train()
    device = _device(tmp_path / "device", kind)
    stops = 0
    for patience in range(10_000):
        device.kept.unlink(missing_ok=True)
        found = _train(device, Impatient(patience))
        if isinstance(found, TrainingDone):
            break
        assert isinstance(found, TaskStopped)
        stops += 1
        if found.kept_share == 1.0:
            # It was stopped while it measured what came of it: that alone is done again.
            assert same(_train(device, Word()), wanted)
            assert device.resumed()[-1] == wanted.num_steps
    assert same(found, wanted)
    # Reading in slices, both measurings layer by layer, and the layers of all steps.
    assert stops > 3 * wanted.num_steps


def test_an_evaluation_can_be_stopped_at_every_question(tmp_path: Path) -> None:
    device = _device(tmp_path, "csv")
    bench, _ = device.process()
    task = Evaluate(task=7, manifest=device.manifest)
    stops = 0
    while isinstance(found := bench.evaluate(task, ModelCache(tmp_path).open(), Impatient(stops)), TaskStopped):
        assert found == TaskStopped(task=7)
        stops += 1
    assert isinstance(found, EvaluationDone)
    assert stops >= 3


def _device(folder: Path, kind: str) -> Device:
    device = Device(folder)
    if kind == "csv":
        with np.load(folder / "samples.npz") as found:
            table = np.column_stack([found["x"].astype(np.float64), found["y"]])
        np.savetxt(folder / "samples.csv", table, delimiter=",", header="a,b,c,d,label", comments="", fmt="%.9g")
        device.read_from(folder / "samples.csv")
    return device


def _train(device: Device, word: Word) -> object:
    bench, _ = device.process()
    return bench.train(device.task(), ModelCache(device.folder).open(), word)
