"""Rows of the store become training and holdout, by a pipeline."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agent.adapters.collected import CONSTANTS_NAME, collect, sides_of
from device_agent.adapters.data import DataFileError, Samples
from device_agent.sensing.adapters.reading import extent_of
from device_agent.sensing.adapters.sample_store import FILE_NAME, Batch, SampleStore
from device_agent.sensing.rows import Row, Stretch
from device_agent.sensing.sources import MqttSource, SamplesSettings
from device_agent.settings import AgentSettings, DataSettings, DeviceSettings
from models import Pipeline, build

T0 = 1_780_000_000.0
CLASSES = build({"kind": "softmax", "inputs": 4, "outputs": 2})
FEATURES = {"channels": ["a", "b"], "max_gap_s": 5.0, "window": 8, "stride": 4, "compute": ["mean", "deviation"]}


def settings(folder: Path, samples: dict[str, Any] | None = None, **data: Any) -> AgentSettings:
    return AgentSettings(
        device=DeviceSettings(id="a", federation="f", state_dir=str(folder)),
        data=DataSettings(**({"holdout_fraction": 0.0} | data)),
        sources={"press": MqttSource(topics=["p"], fields={"a": "a", "b": "b"})},
        samples=SamplesSettings(**(samples or {})),
    )


def rows(first: int, count: int, label: float | None = None, source: str = "press") -> list[Row]:
    rng = np.random.default_rng(first)
    return [
        Row(
            source=source,
            channels=("a", "b"),
            values=tuple(rng.normal(size=2).tolist()),
            time=T0 + n,
            label=float(n // 40 % 2) if label is None else label,
        )
        for n in range(first, first + count)
    ]


@pytest.fixture
def store(tmp_path: Path) -> SampleStore:
    return SampleStore(tmp_path, SamplesSettings(max_rows=2000))


def load(
    folder: Path, config: AgentSettings | None = None, upto: int | None = None, model: Any = CLASSES, **features: Any
) -> Samples:
    pipeline = Pipeline.from_data(FEATURES | features)
    return collect(config or settings(folder), pipeline, model, extent_of(folder), upto)


def test_windows_become_examples_with_labels(tmp_path: Path, store: SampleStore) -> None:
    store.append(Batch(rows=rows(0, 400)), None)
    found = load(tmp_path)
    assert found.train.x.shape == (98, 4)
    assert set(found.train.y.tolist()) == {0, 1}
    assert (found.holdout, found.upto) == (None, 400)


def test_the_same_rows_are_the_same_examples_also_when_others_came(tmp_path: Path, store: SampleStore) -> None:
    store.append(Batch(rows=rows(0, 400)), None)
    before = load(tmp_path, settings(tmp_path, holdout_fraction=0.3, holdout_block_s=20))
    store.append(Batch(rows=rows(400, 400)), None)
    after = load(tmp_path, settings(tmp_path, holdout_fraction=0.3, holdout_block_s=20), upto=before.upto)
    assert before.holdout is not None
    assert after.holdout is not None
    np.testing.assert_array_equal(before.train.x, after.train.x)
    np.testing.assert_array_equal(before.holdout.x, after.holdout.x)


def test_eviction_takes_windows_away_and_changes_no_other(tmp_path: Path, store: SampleStore) -> None:
    store.append(Batch(rows=rows(0, 1999)), None)
    before = {row.tobytes() for row in load(tmp_path).train.x}
    store.append(Batch(rows=rows(1999, 500)), None)
    assert store.oldest > 300
    after = {row.tobytes() for row in load(tmp_path, upto=1999).train.x}
    assert after < before
    assert len(after) > 300


def test_no_window_is_on_both_sides_nor_straddles_them() -> None:
    starts = T0 + np.arange(0.0, 40_000.0, 7.0)
    ends = starts + 130.0
    held_out, trained = sides_of(starts, ends, 0.3, 300.0)
    assert not (held_out & trained).any()
    assert 0.1 < held_out.mean() < 0.35
    latest = np.concatenate([ends[held_out][:, None], starts[held_out][:, None]], axis=1)
    for end, start in latest:
        # No window that is trained on shares a moment with one that is held out.
        assert not (trained & (starts <= end) & (ends >= start)).any()
    # Whatever other windows there are.
    again, _ = sides_of(starts[1000:2000], ends[1000:2000], 0.3, 300.0)
    np.testing.assert_array_equal(again, held_out[1000:2000])
    more, _ = sides_of(starts, ends, 0.4, 300.0)
    assert not (held_out & ~more & ~np.roll(more, 1)).all()


def test_long_windows_have_all_their_blocks_looked_at() -> None:
    starts = T0 + np.arange(0.0, 50_000.0, 100.0)
    held_out, trained = sides_of(starts, starts + 900.0, 0.6, 300.0)
    short, _ = sides_of(starts, starts, 0.6, 300.0)
    for row in np.flatnonzero(trained):
        inside = (starts >= starts[row]) & (starts <= starts[row] + 900.0)
        assert not short[inside].any()
    assert held_out.any()
    endless = sides_of(np.array([T0]), np.array([T0 + 1e12]), 0.5, 1.0)
    assert [side.tolist() for side in endless] == [[False], [False]]


@pytest.mark.parametrize(
    ("features", "fault"),
    [
        (
            {"channels": ["a", "c"]},
            "the federation wants 'c', which no source of this device gives; they give 'a', 'b'",
        ),
        ({"window": 800}, "0 windows to train on in 400 rows, where min_examples is 1"),
        ({"label": "majority"}, ""),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, store: SampleStore, features: dict[str, Any], fault: str) -> None:
    store.append(Batch(rows=rows(0, 400)), None)
    if not fault:
        assert len(load(tmp_path, **features).train)
        return
    with pytest.raises(DataFileError, match=fault):
        load(tmp_path, **features)


def test_too_few_labels_are_told_and_when_they_come_it_works(tmp_path: Path, store: SampleStore) -> None:
    store.append(Batch(rows=rows(0, 400, label=math.nan)), None)
    with pytest.raises(
        DataFileError, match="0 windows to train on in 400 rows, where min_examples is 1; of the others"
    ):
        load(tmp_path)
    with pytest.raises(DataFileError, match="98 have no label yet"):
        load(tmp_path)
    before = extent_of(tmp_path)
    store.append(Batch(stretches=[Stretch(source="press", start=T0, until=T0 + 199, label=1.0)]), None)
    assert extent_of(tmp_path) != before
    found = load(tmp_path)
    assert (len(found.train), set(found.train.y.tolist())) == (50, {1})


def test_without_labels_what_repeats_its_input_or_foretells_the_next_still_learns(
    tmp_path: Path, store: SampleStore
) -> None:
    store.append(Batch(rows=rows(0, 400, label=math.nan)), None)
    copies = build({"kind": "linear", "inputs": 4, "outputs": 4})
    assert len(load(tmp_path, model=copies, target="self").train) == 98
    ahead = build({"kind": "linear", "inputs": 4, "outputs": 2})
    assert len(load(tmp_path, model=ahead, target="next").train) > 90


def test_before_anything_came(tmp_path: Path, store: SampleStore) -> None:
    with pytest.raises(DataFileError, match="no row with 'a', 'b' has come yet"):
        load(tmp_path)
    store.close()
    (tmp_path / FILE_NAME).unlink()


def test_labels_that_do_not_fit_the_model_are_named(tmp_path: Path, store: SampleStore) -> None:
    store.append(Batch(rows=rows(0, 400, label=7.0)), None)
    with pytest.raises(DataFileError, match="allowed are whole numbers from 0 to 1"):
        load(tmp_path)


def test_reading_is_bounded(tmp_path: Path, store: SampleStore) -> None:
    store.append(Batch(rows=rows(0, 1000)), None)
    assert len(load(tmp_path, settings(tmp_path, {"read_rows": 100})).train) == 23


def test_constants_run_over_all_windows_and_survive(tmp_path: Path, store: SampleStore) -> None:
    store.append(Batch(rows=rows(0, 400)), None)
    plain = load(tmp_path).train.x
    found = load(tmp_path, standardize="device")
    np.testing.assert_allclose(found.train.x.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(found.train.x.std(axis=0), 1.0, atol=1e-5)
    kept = (tmp_path / CONSTANTS_NAME).read_bytes()
    again = load(tmp_path, standardize="device")
    np.testing.assert_array_equal(again.train.x, found.train.x)
    assert (tmp_path / CONSTANTS_NAME).read_bytes() == kept
    store.append(Batch(rows=rows(400, 400)), None)
    load(tmp_path, standardize="device")
    assert (tmp_path / CONSTANTS_NAME).read_bytes() != kept
    (tmp_path / CONSTANTS_NAME).write_bytes(b"rubbish")
    np.testing.assert_allclose(load(tmp_path, standardize="device", upto=400).train.x, found.train.x, atol=1e-6)
    # Those of another pipeline say nothing of its inputs.
    other = load(tmp_path, standardize="device", upto=400, compute=["maximum", "mean"]).train.x
    np.testing.assert_allclose(other.mean(axis=0), 0.0, atol=1e-5)
    assert plain.shape == found.train.x.shape
