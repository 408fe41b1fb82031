"""The demo's other tasks: what each device has, and the whole as a user runs it, short and at any pace."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from aggregator.measured import Measured
from fedmq import demo_digits, demo_task
from fedmq.__main__ import TaskName, app
from fedmq.aftermath import Aftermath, Threshold
from fedmq.answers import PLAN, Plan
from fedmq.audit import AggregatorBooks, audit
from fedmq.baseline import Baseline, Score, judge, measure
from fedmq.demo_data import Samples
from fedmq.demo_signals import DemoDataError
from fedmq.demo_task import ANOMALY, DIGITS, PENDULUM, TASKS, WATCH, Dealt, Task
from fedmq.outcome import Outcome
from fedmq.panel import WIDTH, as_panel
from fedmq.portable import SHOWN, Answer, Portable, Ported
from models import build

ROOT = Path(__file__).parents[2]
RUNNER = CliRunner()


@cache
def named(name: str) -> Dealt:
    return TASKS[name].deal(TASKS[name].devices)


def dealt(task: Task) -> Dealt:
    return named(task.name)


def test_the_command_line_knows_all_tasks() -> None:
    assert [name.value for name in TaskName] == list(TASKS)


def test_every_model_fits_its_examples() -> None:
    for task in TASKS.values():
        found, model = dealt(task), build(task.model)
        assert len(found.fleet) == task.devices
        assert {samples.x.shape[1] for samples in (*found.fleet, found.unseen)} == {model.inputs}


@pytest.mark.parametrize("devices", [1, 2, 10, 13, demo_digits.MAX_DEVICES])
def test_a_camera_knows_three_digits_and_shares_no_image(devices: int) -> None:
    found = DIGITS.deal(devices)

    assert len({samples.name for samples in found.fleet}) == devices
    rows = [row.tobytes() for samples in (*found.fleet, found.unseen) for row in samples.x]
    whole = {row.tobytes() for row in demo_digits.load_digits().x}
    assert len(rows) == len(set(rows)) <= len(whole)
    for place, samples in enumerate(found.fleet):
        assert set(samples.y.tolist()) == set(demo_digits.kinds_of(place))
        assert len(samples.y) >= 30
    assert set(found.unseen.y.tolist()) == set(range(10))
    assert 0.0 <= found.unseen.x.min() <= found.unseen.x.max() <= 1.0


def test_ten_cameras_have_all_images_but_those_to_judge_by() -> None:
    found = dealt(DIGITS)

    assert sum(len(samples.y) for samples in found.fleet) == demo_digits.IMAGES - demo_digits.UNSEEN


def test_digits_that_are_missing_or_others_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "datasets" / "data" / "digits.csv.gz"
    file.parent.mkdir(parents=True)

    def find_spec(_name: str) -> Any:
        return SimpleNamespace(submodule_search_locations=[str(tmp_path)])

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(DemoDataError, match="cannot read"):
        demo_digits.load_digits()
    file.write_bytes(gzip.compress(b"1,2\n3,4\n"))
    with pytest.raises(DemoDataError, match="not the file of digits"):
        demo_digits.load_digits()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(DemoDataError, match=r"pip install 'fedmq\[demo\]'"):
        demo_digits.load_digits()


def test_nobody_has_seen_what_is_to_stand_out() -> None:
    found = dealt(ANOMALY)

    assert found.odd is not None
    assert set(found.odd.y.tolist()) == {PENDULUM}
    for samples in (*found.fleet, found.unseen):
        assert PENDULUM not in samples.y


def test_lone_cameras_know_three_digits_and_all_data_ten() -> None:
    baseline = measure(DIGITS, dealt(DIGITS))

    assert 0.25 < baseline.alone_mean.right < 0.31
    assert baseline.central.right > 0.95


def test_lone_watches_take_strangers_for_unusual() -> None:
    baseline = measure(ANOMALY, dealt(ANOMALY))

    alone = baseline.alone_mean
    assert alone.false is not None
    assert baseline.central.false is not None
    assert alone.right > 0.9
    assert baseline.central.right > 0.9
    assert baseline.central.false < 0.05
    assert alone.false > 0.2


def test_an_alarm_is_an_error_above_the_threshold() -> None:
    model = build({"kind": "autoencoder", "inputs": 2, "hidden": [1]})
    parameters = np.zeros(model.layout.size, np.float32)  # gives back nothing: an error is a mean square
    usual = Samples(name="usual", x=np.array([[1, 1], [3, 3]], np.float32), y=np.zeros(2, np.int64))
    odd = Samples(name="odd", x=np.array([[2, 2], [5, 5], [6, 6], [7, 7]], np.float32), y=np.zeros(4, np.int64))

    score = judge(model, parameters, Dealt(fleet=[usual], unseen=usual, odd=odd), threshold=5.0)

    assert score == Score(right=0.75, false=0.5)


def test_only_what_devices_are_given_is_labelled() -> None:
    assert [task.labelled for task in TASKS.values()] == [True, True, False]
    assert WATCH.epochs == 2 * 2 + 3
    assert ANOMALY.epochs == 2


@pytest.mark.parametrize(("arguments", "says"), [(["--task", "digits", "--devices", "31"], "suffice for 30")])
def test_what_is_too_much_is_said(arguments: list[str], says: str) -> None:
    result = RUNNER.invoke(app, ["demo", *arguments])

    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())


def run(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "fedmq", "demo", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "INFO: Created" not in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["faults"] == []
    assert found["versions"] > 0
    return found


def test_digits_are_learned_compared_and_exported(tmp_path: Path) -> None:
    found = run("--task", "digits", "--devices", "4", "--seconds", "10", "--keep", str(tmp_path / "kept"))

    assert found["task"] == "digits"
    assert {"own_accuracy_global", "own_accuracy_personal", "own_accuracy_local"} <= set(found)
    assert 0.0 <= found["own_accuracy_personal"]["worst"] <= found["own_accuracy_personal"]["mean"] <= 1.0
    assert found["tflite"].startswith("ai-edge-litert")
    asked = msgspec.json.decode((tmp_path / "kept" / "examined" / PLAN).read_bytes(), type=Plan)
    assert [one.name for one in asked.devices] == [f"camera-{number}" for number in range(1, 5)]
    assert found["tflite_float32"]["difference"] < 1e-5
    assert (tmp_path / "kept" / "final.tflite").stat().st_size == found["tflite_float32"]["bytes"]
    assert (tmp_path / "kept" / "final-int8.tflite").stat().st_size == found["tflite_int8"]["bytes"]


def test_what_is_unusual_is_learned_without_labels(tmp_path: Path) -> None:
    found = run("--task", "anomaly", "--devices", "3", "--seconds", "10", "--keep", str(tmp_path / "kept"))

    with np.load(tmp_path / "kept" / "watch-1.npz") as arrays:
        assert list(arrays) == ["x"]
    assert found["task"] == "anomaly"
    assert found["threshold"] > 0.0
    assert 0.0 <= found["false_alarms"] <= 1.0
    assert 0.0 <= found["detected"] <= 1.0
    assert found["tflite_float32"]["agreement"] == pytest.approx(1.0, abs=0.01)


def outcome(task: Task, after: Aftermath) -> Outcome:
    books = AggregatorBooks(folded=(), counted_accepted=0, counted_folded=0, versions=(0, 1), accuracy=0.9)
    false = None if task.labelled else 0.25
    return Outcome(
        task=task, baseline=Baseline(alone=(Score(0.3, false),), central=Score(0.98, false)), verdict=audit([], books),
        aggregator=books, devices=1, fleet_s=1.0, wall_s=1.0, broker="mosquitto", aftermath=after,
    )  # fmt: skip


def printed(shown: Outcome) -> str:
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    console.print(as_panel(shown))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_panel_compares_the_devices_models() -> None:
    figures = Measured(measure="accuracy", devices=9, mean=0.98, tenth=0.9, worst=0.875, worst_device="camera-30")
    text = printed(outcome(DIGITS, Aftermath(own={"global": figures, "personal": figures, "local": figures})))

    assert "…" not in text
    assert "accuracy of 9 devices on held-out data of their own" in text
    assert "lowest tenth" in text
    assert text.count("87.5 %  camera-30") == 3
    assert "elsewhere, what a device learned alone is right in" in text


def test_the_panel_says_what_ran_the_files() -> None:
    files = [
        Portable(
            weights=weights,
            size_bytes=123_456,
            score=Score(1.0),
            agreement=1.0,
            difference=1e-7,
            answers=(Answer(said=3, truth=3, share=0.984), *[Answer(said=7, truth=9, share=0.5)] * (SHOWN - 1)),
        )
        for weights in ("float32", "int8")
    ]
    by = printed(outcome(DIGITS, Aftermath(ported=Ported(files=tuple(files), by="ai-edge-litert 2.10.10", why_not=""))))
    without = printed(outcome(DIGITS, Aftermath(ported=Ported(files=tuple(files), by="", why_not="pip install x"))))

    assert "predicting by ai-edge-litert 2.10.10" in by
    assert "as NumPy to 1e-07" in by
    assert "of some classes float32 says:   3 ✔ 98 %  7 ✘ is 9" in by
    assert "…" not in by
    assert "as NumPy in 100.0 %" in by
    assert "NumPy has predicted" in without
    assert "pip install x" in without


def test_the_panel_tells_what_counts_as_unusual() -> None:
    threshold = Threshold(value=0.4222, devices=10, examples=1234)
    ported = Ported(
        files=(Portable(weights="int8", size_bytes=123_456, score=Score(1.0, 1.0), agreement=1.0, difference=1e-7),),
        by="ai-edge-litert 2.10.10",
        why_not="",
    )
    text = printed(outcome(ANOMALY, Aftermath(score=Score(0.994, 0.023), threshold=threshold, ported=ported)))
    unknown = printed(outcome(ANOMALY, Aftermath()))

    assert "…" not in text
    assert "false alarms   2.3 %" in text
    assert "an error above 0.422" in text
    assert "100.0 % found, 100.0 % false" in text
    assert "nothing to judge by" in unknown
    assert demo_task.ANOMALY.judged_by in text


def test_what_a_newcomer_reads_first_fits_into_80_columns() -> None:
    for task in TASKS.values():
        lines = task.question(dealt(task))
        assert max(map(len, lines)) < 80
