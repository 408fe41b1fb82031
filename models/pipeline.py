"""A pipeline as data: how rows of sensors become examples, the same on every device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from models.data import Shaped
from models.declaring import read_pipeline
from models.errors import FeaturesError
from models.features import Feature, feature
from models.filling import Fill
from models.labelling import LabelRule
from models.parameters import FloatArray
from models.pieces import Between, go_on
from models.series import Series
from models.windows import Windows, windows_of

Target: TypeAlias = Literal["label", "next", "self"]
Standardize: TypeAlias = Literal["none", "device"]

_MEANING = (
    "channels", "magnitudes", "every_s", "rate_hz", "window", "fill", "fill_value", "compute", "correlation", "target",
    "forecast_steps", "forecast_channels", "standardize",
)  # fmt: skip
"""Keys that decide what the inputs and targets of a model mean; the others decide which examples there are."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Which channels, in what windows, become which inputs. Make one with ``from_data``, which checks it.

    Immutable; any number of threads may share it. docs/features.md says what each key means.
    """

    channels: tuple[str, ...]
    magnitudes: dict[str, tuple[str, ...]]
    """Further channels, computed: the root of the sum of squares of the named ones, row by row."""
    every_s: float
    """Step of the grid; 0: windows of rows."""
    max_hold_s: float
    rate_hz: float
    """Rows per second, where there is no grid; 0: nobody said."""
    max_gap_s: float
    window: int
    """Rows or steps."""
    stride: int
    max_missing: float
    fill: Fill
    fill_value: float
    drop_constant: bool
    raw: bool
    """The window itself is the input, row after row."""
    features: dict[str, tuple[str, ...]]
    """Names of the features of each channel, computed ones included; empty with ``raw``."""
    correlation: bool
    target: Target
    label: LabelRule
    label_share: float
    forecast_steps: int
    forecast_channels: tuple[str, ...]
    standardize: Standardize

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Pipeline:
        """Return the checked pipeline, or raise ``FeaturesError``."""
        return cls(**cast("dict[str, Any]", read_pipeline(data)))

    @classmethod
    def for_model(cls, data: Mapping[str, Any], model: Shaped) -> Pipeline | None:
        """Return the pipeline that feeds the model, or raise ``FeaturesError``; None for no data: ready examples."""
        if not data:
            return None
        pipeline = cls.from_data(data)
        if pipeline.inputs != model.inputs:
            raise FeaturesError(f"features: {pipeline.makes}; the model's inputs are {model.inputs}")
        fitting = ("regression", "reconstruction") if pipeline.target == "self" else ("regression",)
        if pipeline.outputs is not None and (model.task not in fitting or model.outputs != pipeline.outputs):
            raise FeaturesError(
                f"features: target {pipeline.target!r} makes {pipeline.outputs} values to learn by a {fitting[-1]}; "
                f"the model is a {model.task} with {model.outputs} outputs"
            )
        return pipeline

    def to_data(self) -> dict[str, Any]:
        """Return the pipeline as data, with every default that applies; ``from_data`` gives the same one again."""
        data: dict[str, Any] = {"channels": list(self.channels)}
        if self.magnitudes:
            data["magnitudes"] = {name: list(parts) for name, parts in self.magnitudes.items()}
        if self.every_s:
            data |= {"every_s": self.every_s, "max_hold_s": self.max_hold_s}
        elif self.rate_hz:
            data["rate_hz"] = self.rate_hz
        data |= {"max_gap_s": self.max_gap_s, "window": self.window, "stride": self.stride}
        data |= {"max_missing": self.max_missing, "fill": self.fill}
        if self.fill == "value":
            data["fill_value"] = self.fill_value
        data |= {"drop_constant": self.drop_constant, "compute": self._compute_as_data()}
        if not self.raw:
            data["correlation"] = self.correlation
        data["target"] = self.target
        if self.target == "label":
            data["label"] = self.label
            if self.label == "majority":
                data["label_share"] = self.label_share
        if self.target == "next":
            data |= {"forecast_steps": self.forecast_steps, "forecast_channels": list(self.forecast_channels)}
        return data | {"standardize": self.standardize}

    def _compute_as_data(self) -> str | list[str] | dict[str, list[str]]:
        if self.raw:
            return "raw"
        lists = {name: list(found) for name, found in self.features.items() if found}
        same = len(set(self.features.values())) == 1
        return next(iter(lists.values())) if same else lists

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the inputs and targets mean, hexadecimal: models of different ones must not be mixed.

        Stride, gaps, label rule and the like are not in it: with another one there are other examples of the same kind.
        """
        data = self.to_data()
        meaning = {key: data[key] for key in _MEANING if key in data}
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What each input is, for people."""
        every = (*self.channels, *self.magnitudes)
        if self.raw:
            return tuple(f"{name} {step}" for step in range(self.window) for name in every)
        single = [f"{name} {found}" for name in every for found in self.features[name]]
        pairs = [f"{a} {b} correlation" for i, a in enumerate(every) for b in every[i + 1 :]]
        return (*single, *(pairs if self.correlation else ()))

    def columns(self, count: int) -> tuple[str, ...]:
        """Return what so many columns of statistics are, for people: inputs, or the channels of a raw window.

        Nothing where it is neither.
        """
        every = (*self.channels, *self.magnitudes)
        if self.raw and count == len(every):
            return every
        return self.names if count == len(self.names) else ()

    @cached_property
    def plan(self) -> list[tuple[Feature, NDArray[np.intp], NDArray[np.intp]]]:
        """Each feature once, with the channels that it is computed of, and the inputs that it gives."""
        every = (*self.channels, *self.magnitudes)
        wanted: dict[str, list[tuple[int, int]]] = {}
        column = 0
        for place, name in enumerate(every):
            for found in self.features.get(name, ()):
                wanted.setdefault(found, []).append((place, column))
                column += 1
        rate = self.rate or None
        return [
            (feature(name, self.window, rate), *np.array(places, np.intp).T.copy()) for name, places in wanted.items()
        ]

    @property
    def rate(self) -> float:
        """Rows or steps per second; 0 where nobody said."""
        return 1.0 / self.every_s if self.every_s else self.rate_hz

    @property
    def single(self) -> int:
        """Inputs that describe one channel; those of pairs come after them."""
        return sum(map(len, self.features.values()))

    @cached_property
    def inputs(self) -> int:
        """Width of an example: what the model's ``inputs`` have to be."""
        return len(self.names)

    @property
    def makes(self) -> str:
        """How the number of inputs comes about, in words."""
        rows, channels = self.input_shape if self.raw else (self.window, len(self.channels) + len(self.magnitudes))
        if self.raw:
            return f"{rows} rows or steps of {channels} channels make {self.inputs} inputs"
        pairs = self.inputs - self.single
        correlated = f" and {pairs} correlations" if pairs else ""
        return f"{self.single} features of {channels} channels{correlated} make {self.inputs} inputs"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """``(window, channels)`` of a raw window, ``(inputs,)`` of features: what a flat example can be reshaped to."""
        return (self.window, len(self.channels) + len(self.magnitudes)) if self.raw else (self.inputs,)

    @property
    def outputs(self) -> int | None:
        """Width of a target that is made of the series itself; None where labels are learned, and the model decides."""
        return {"next": self.forecast_steps * len(self.forecast_channels), "self": self.inputs}.get(self.target)

    @property
    def rows_needed(self) -> int:
        """So many of the newest rows hold the newest window of rows; 0 with a grid, where time counts."""
        return 0 if self.every_s else self.window + self.stride

    @property
    def span_s(self) -> float:
        """With a grid: rows of the newest so many seconds hold the newest window; 0 without one.

        One row more has to be read, so that it is known that there are none between.
        """
        return (self.window + self.stride + 1) * self.every_s + self.max_hold_s if self.every_s else 0.0

    def windows(
        self, series: Series, *, most: int | None = None, until: float = -np.inf, between: Between = go_on
    ) -> Windows:
        """Return the newest windows of the series, at most ``most`` (None: as many as 256 MB of inputs hold).

        The same rows give the same bits, whatever was evicted before them (windows that reach back to what is no
        longer there are left out) or is appended after them. ``until``: with a grid, all rows before this time are
        there, so steps before it need not wait for the next row. Raise ``DataError`` for a series that lacks a channel.
        ``between`` is called between bounded pieces.
        """
        ahead = self.forecast_steps if self.target == "next" else 0
        return windows_of(self, series, most=most, until=until, ahead=ahead, between=between)

    def newest(self, series: Series, *, until: float = -np.inf) -> Windows:
        """Return the newest window alone, or none when that one is dropped; of a forecast, without its target.

        It is looked for in the newest ``rows_needed`` rows or ``span_s`` seconds, so the series may be just that long.
        When a gap in time lies there, there is none.
        """
        if self.every_s and len(series):
            oldest = max(until, float(series.times[-1])) - self.span_s
            series = series.tail(max(0, int(np.searchsorted(series.times, oldest)) - 1))
        elif self.rows_needed:
            series = series.tail(max(0, len(series) - self.rows_needed))
        return windows_of(self, series, most=1, until=until, ahead=0)

    def latest(self, series: Series, *, until: float = -np.inf) -> FloatArray | None:
        """Return the inputs ``(1, inputs)`` of the newest window, as ``windows`` has them; None when there is none."""
        found = self.newest(series, until=until)
        return found.x if len(found) else None
