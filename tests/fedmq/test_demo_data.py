from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fedmq import demo_data, demo_signals
from fedmq.baseline import measure
from fedmq.demo_data import (
    CLASSES,
    FEATURES,
    MAX_DEVICES,
    PEOPLE,
    UNSEEN_PEOPLE,
    WINDOW,
    Recording,
    divide,
    features_of,
    load_recordings,
    people_as_samples,
)  # fmt: skip
from fedmq.demo_signals import DemoDataError
from fedmq.demo_task import WATCH

if TYPE_CHECKING:
    from pathlib import Path


@cache
def recordings() -> list[Recording]:
    return load_recordings()


def test_the_study_is_there() -> None:
    assert len(recordings()) == 140
    assert {recording.person for recording in recordings()} == {*PEOPLE, *UNSEEN_PEOPLE}
    assert {recording.exercise for recording in recordings()} == set(range(CLASSES))
    for recording in recordings():
        assert recording.features.shape[1] == FEATURES
        assert recording.features.dtype == np.float32
        assert np.isfinite(recording.features).all()
        assert np.abs(recording.features).max() < 10.0  # a common scale, without anybody's statistics


@pytest.mark.parametrize("devices", [1, 3, 7, 8, 14, 20, MAX_DEVICES])
def test_devices_share_nothing_and_hold_every_exercise(devices: int) -> None:
    fleet = divide(recordings(), devices)

    assert len({samples.name for samples in fleet}) == len(fleet) == devices
    rows = np.concatenate([samples.x for samples in fleet])
    people = PEOPLE[:devices]
    assert len(rows) == sum(len(part.features) for part in recordings() if part.person in people)
    unseen = people_as_samples(recordings(), UNSEEN_PEOPLE, "unseen")
    assert not {row.tobytes() for row in rows} & {row.tobytes() for row in unseen.x}
    for samples in fleet:
        assert set(samples.y.tolist()) == set(range(CLASSES))


@pytest.mark.parametrize("devices", [0, MAX_DEVICES + 1])
def test_too_few_or_too_many_devices_are_refused(devices: int) -> None:
    with pytest.raises(ValueError, match=str(MAX_DEVICES)):
        divide(recordings(), devices)


def test_features_of_a_known_motion() -> None:
    """A swing of 1 g at 1 Hz along x: its statistics, and all of its power in the band around 1 Hz."""
    time_s = np.arange(4 * WINDOW) / demo_signals.RATE_HZ
    signal = np.zeros((len(time_s), 6))
    signal[:, 0] = np.sin(2 * np.pi * time_s)

    by_statistic = features_of(signal).reshape(-1, FEATURES // demo_data.CHANNELS, demo_data.CHANNELS)

    assert by_statistic.shape[0] == 7  # eight seconds, a window each second, the last one whole
    mean, deviation, low, high = by_statistic[0, :4, 0]
    assert mean == pytest.approx(0.0, abs=1e-6)
    assert deviation == pytest.approx(np.sqrt(0.5), rel=1e-5)
    assert (low, high) == (pytest.approx(-1.0, abs=0.01), pytest.approx(1.0, abs=0.01))
    assert int(np.argmax(by_statistic[0, 6:, 0])) == 1  # 0.75 to 1.25 Hz
    assert by_statistic[0, 6:, 1].max() == pytest.approx(0.5 * np.log10(demo_data.FAINT) + 1.0)  # y is at rest


def test_another_file_is_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "seglearn"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "data" / "watch_dataset.npy").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(DemoDataError, match="SHA-256"):
        load_recordings()


def test_a_federation_is_worth_while_on_these_data() -> None:
    """All data together do clearly better on strangers than the mean device alone: there is something to gain."""
    baseline = measure(WATCH, WATCH.deal(7))

    assert 0.55 < baseline.alone_mean.right < 0.72
    assert baseline.central.right > baseline.alone_mean.right + 0.1
