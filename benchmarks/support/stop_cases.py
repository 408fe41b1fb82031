"""Cases in which a training is told to stop: a model, a plan, and the samples of a device, made on disk."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.wire import LARGE
from device_agent.sensing.adapters.sample_store import Batch, SampleStore
from device_agent.sensing.rows import Row
from device_agent.sensing.sources import SamplesSettings

Tables = Mapping[str, Mapping[str, Any]]

MCMAHAN: Mapping[str, Any] = {
    "kind": "image_cnn", "input_shape": [28, 28, 1], "filters": [32, 64], "kernel": 5, "hidden": [512], "outputs": 10,
}  # fmt: skip
CHANNELS = ("ax", "ay", "az")
_FEATURES: Mapping[str, Any] = {
    "channels": list(CHANNELS), "max_gap_s": 1.0, "window": 128, "rate_hz": 50.0, "standardize": "device",
    "compute": ["mean", "deviation", "minimum", "maximum", "rms", "slope", "median", "fft:0-5Hz", "fft:5-10Hz",
                "fft_peak"],
}  # fmt: skip
_WINDOWED: Mapping[str, Any] = {"kind": "mlp", "inputs": 30, "hidden": [32], "outputs": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is trained, on what."""

    name: str
    model: Mapping[str, Any]
    make: Callable[[Path], Tables]
    """Makes the samples in a folder, and returns what ``agent.toml`` says of them."""
    plan: Mapping[str, Any] = field(default_factory=lambda: {"epochs": 1, "batch_size": 32, "max_steps": 20})
    features: Mapping[str, Any] = field(default_factory=dict)


def _npz(megabytes: int, *, packed: bool = False, width: int = 561) -> Callable[[Path], Tables]:
    def make(folder: Path) -> Tables:
        rows = megabytes * 1_000_000 // ((8 if packed else 4) * width)
        rng = np.random.default_rng(0)
        x = rng.standard_normal((rows, width), np.float32)
        save = np.savez_compressed if packed else np.savez
        save(folder / "samples.npz", x=x.round(1).astype(np.float64) if packed else x, y=rng.integers(0, 6, rows))
        return {"data": {"path": str(folder / "samples.npz")}}

    return make


def _csv(folder: Path) -> Tables:
    with (folder / "samples.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"f{number}" for number in range(30)), "label"])
        for block in range(40):
            x = np.random.default_rng(block).standard_normal((10_000, 30)).round(4)
            writer.writerows([*row, number % 4] for number, row in enumerate(x.tolist()))
    return {"data": {"path": str(folder / "samples.csv")}}


def _images(count: int) -> Callable[[Path], Tables]:
    def make(folder: Path) -> Tables:
        rng = np.random.default_rng(0)
        np.savez(folder / "samples.npz", x=rng.random((count, 784), np.float32), y=rng.integers(0, 10, count))
        return {"data": {"path": str(folder / "samples.npz")}}

    return make


def _store(rows: int, **samples: int) -> Callable[[Path], Tables]:
    """Fill a sample store with three channels at 50 Hz, with a label that changes every minute."""

    def make(folder: Path) -> Tables:
        state = folder / "device"
        state.mkdir()
        store = SampleStore(state, SamplesSettings(max_age_s=0, **samples))
        for first in range(0, rows, 10_000):
            values = np.random.default_rng(first).standard_normal((10_000, len(CHANNELS))).tolist()
            store.append(Batch(rows=[_row(first + number, row) for number, row in enumerate(values)]), None)
        store.close()
        source = {"kind": "mqtt", "topics": ["nothing"]}
        fields = {name: name for name in CHANNELS}
        tables: dict[str, Mapping[str, Any]] = {"data": {"path": ""}, "samples": {"max_age_s": 0, **samples}}
        return {**tables, "sources.arm": source, "sources.arm.fields": fields}

    return make


def _row(number: int, values: list[float]) -> Row:
    time = 1_780_000_000.0 + number / 50.0
    return Row(source="arm", channels=CHANNELS, values=tuple(values), time=time, label=float(number // 3000 % 4))


CASES = {
    case.name: case
    for case in (
        Case(name="NPZ of 200 MB", model=LARGE, make=_npz(200)),
        Case(name="NPZ of 200 MB in float64, packed", model=LARGE, make=_npz(200, packed=True)),
        Case(name="NPZ of 1 GB", model=LARGE, make=_npz(1000)),
        Case(name="CSV of 90 MB", model={**_WINDOWED}, make=_csv),
        Case(
            name="sample store, 1,000,000 rows as shipped, 100,000 read, stride 8",
            model=_WINDOWED,
            make=_store(1_000_000),
            features={**_FEATURES, "stride": 8},
        ),
        Case(
            name="sample store, 1,000,000 rows read, a window with every other one",
            model=_WINDOWED,
            make=_store(1_000_000, read_rows=1_000_000, max_bytes=2**30),
            features={**_FEATURES, "stride": 2, "label": "majority", "label_share": 0.5},
        ),
        Case(name="CNN of 1.66 M parameters, batch 32", model=MCMAHAN, make=_images(2000)),
        Case(
            name="CNN of 1.66 M parameters, batch 256",
            model=MCMAHAN,
            make=_images(2000),
            plan={"epochs": 1, "batch_size": 256, "max_steps": 6},
        ),
        Case(
            name="CNN of 1.66 M parameters, batch 1024",
            model=MCMAHAN,
            make=_images(4000),
            plan={"epochs": 1, "batch_size": 1024, "max_steps": 3},
        ),
    )
}
