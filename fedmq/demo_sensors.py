"""``fedmq demo --sensors``: the watches measure, and each device collects its own examples from a local topic.

Each person's recordings are cut into bouts, which follow each other in a random order, as somebody exercises who is
asked to change now and then; they are played faster than life to topics of the broker. What the devices make of it is
declared by the aggregator: windows of two seconds and their figures, brought to each device's own scale.
"""

from __future__ import annotations

import csv
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from fedmq.demo_data import CLASSES, Samples
from fedmq.demo_signals import RATE_HZ
from fedmq.recording import Row
from fedmq.wrists import PLAN, Plan, Watch
from models import Pipeline, Series, Standardization

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from fedmq.demo_signals import Signal

CHANNELS = ("ax", "ay", "az", "gx", "gy", "gz")
EVERY: Final = 2
"""One in so many measurements is sent: 25 a second are plenty for what an arm does."""
WINDOW_S = 2.0
BOUT_S = 12.0
PAUSE_S = 2.0
"""Between bouts nothing is measured, and no window reaches over it."""
HOLDOUT_BLOCK_S = 10.0
SHARE_OF_TIME = 0.85
MIN_SPEED, MAX_SPEED = 1.0, 12.0
"""Faster, messages would be all that a small machine does."""

_BANDS_HZ = (0.25, 0.75, 1.25, 2.25, 4.25, 8.25, 12.5)
_BAND_NAMES = [f"logfft:{low:g}-{high:g}Hz" for low, high in itertools.pairwise(_BANDS_HZ)]
FEATURES: Final[dict[str, Any]] = {
    "channels": list(CHANNELS),
    "magnitudes": {"a": ["ax", "ay", "az"], "g": ["gx", "gy", "gz"]},
    "rate_hz": RATE_HZ / EVERY,
    "window": int(WINDOW_S * RATE_HZ) // EVERY,
    "stride": RATE_HZ // EVERY,
    "max_gap_s": 0.5,
    "compute": ["mean", "deviation", "minimum", "maximum", "median", "change", *_BAND_NAMES],
    "standardize": "device",
}
"""The table ``[features]`` of the demo's aggregator."""


def worn_by(signals: Iterable[Signal], person: int) -> list[Row]:
    """Return what a person's watch measures in the course of the demo, all exercises in many short bouts."""
    bouts = [bout for signal in signals if signal.person == person for bout in _bouts(signal)]
    order = np.random.default_rng(person).permutation(len(bouts))
    rows: list[Row] = []
    begun_s = 0.0
    for place in order:
        exercise, measured = bouts[place]
        for number, values in enumerate(measured):
            named = {name: round(float(value), 4) for name, value in zip(CHANNELS, values, strict=True)}
            rows.append(Row(at_s=begun_s + number * EVERY / RATE_HZ, values=named, label=str(exercise)))
        begun_s = rows[-1].at_s + PAUSE_S
    return rows


def as_samples(signals: Iterable[Signal], people: Iterable[int], name: str) -> Samples:
    """Return all windows of these people together, each on the scale of the person."""
    pipeline = Pipeline.from_data(FEATURES)
    signals = list(signals)
    parts = [_windows(pipeline, [s for s in signals if s.person == person]) for person in people]
    return Samples(name=name, x=np.concatenate([x for x, _ in parts]), y=np.concatenate([y for _, y in parts]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Worn:
    """The watches: what each device's one measures, and how fast that is played."""

    rows: dict[str, list[Row]]
    """By device."""
    speed: float
    root: str
    """Of the topics."""

    def topics(self, device: str) -> tuple[str, str]:
        """Return where a device's watch says what it measures, and where somebody says what is going on."""
        return f"{self.root}/{device}/motion", f"{self.root}/{device}/exercise"

    def tables(self, device: str, broker: dict[str, Any], holdout: float) -> dict[str, Any]:
        """Return the tables of ``agent.toml`` that say where the device's examples come from."""
        topic, label_topic = self.topics(device)
        return {
            "data": {
                "holdout_fraction": holdout,
                "holdout_block_s": HOLDOUT_BLOCK_S,
                "watch_s": 1.0,
                "min_examples": 20,
            },
            "samples": {"commit_s": 1.0},
            "sources.watch": {
                "kind": "mqtt",
                "topics": [topic],
                "fields": {name: name for name in CHANNELS},
                "time": "time",
                "label_topic": label_topic,
                "label": "label",
                "labels": {str(exercise): exercise for exercise in range(CLASSES)},
                "max_rows_per_s": 1000.0,
                "broker": broker,
            },
            "predictions": {"topic": f"{self.root}/{device}/prediction", "broker": broker},
        }

    def write(self, folder: Path, host: str, port: int) -> None:
        """Write what ``fedmq.wrists`` plays."""
        folder.mkdir()
        watches = []
        for device, rows in self.rows.items():
            topic, label_topic = self.topics(device)
            watches.append(Watch(file=f"{device}.csv", topic=topic, label_topic=label_topic))
            _write_rows(folder / f"{device}.csv", rows)
        plan = Plan(host=host, port=port, speed=self.speed, watches=watches)
        (folder / PLAN).write_bytes(msgspec.json.encode(plan))


def worn(signals: Sequence[Signal], people: Sequence[int], seconds: float, root: str) -> Worn:
    """Return the watches of these people, one each, for a demo of so many seconds."""
    rows = {f"watch-{person}": worn_by(signals, person) for person in people}
    longest_s = max(found[-1].at_s for found in rows.values())
    # Played before the demo nears its end, if that is not more than a small machine can do.
    speed = float(np.clip(longest_s / (SHARE_OF_TIME * seconds), MIN_SPEED, MAX_SPEED))
    return Worn(rows=rows, speed=speed, root=root)


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["time", *CHANNELS, "exercise"])
        writer.writerows([f"{row.at_s:.4f}", *row.values.values(), row.label] for row in rows)


def _bouts(signal: Signal) -> list[tuple[int, np.ndarray[Any, np.dtype[np.float64]]]]:
    measured = signal.measured[::EVERY]
    pieces = max(1, round(len(measured) * EVERY / RATE_HZ / BOUT_S))
    return [(signal.exercise, piece) for piece in np.array_split(measured, pieces)]


def _windows(pipeline: Pipeline, signals: Sequence[Signal]) -> tuple[Any, Any]:
    xs, ys = [], []
    for signal in signals:
        measured = signal.measured[::EVERY].astype(np.float32)
        times = np.arange(len(measured)) * EVERY / RATE_HZ
        found = pipeline.windows(Series(times, measured, np.full(len(times), float(signal.exercise)), CHANNELS))
        xs.append(found.x)
        ys.append(found.y.astype(np.int64))
    x = np.concatenate(xs)
    Standardization.of(x).apply(x)
    return x, np.concatenate(ys)
