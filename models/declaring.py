"""Reading a declared pipeline: every key checked, and what the keys say together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from models.errors import FeaturesError
from models.features import feature
from models.fields import Fields, describe
from models.spec import MAX_INPUTS

MAX_CHANNELS = 64
MAX_NAME = 128
MAX_WINDOW = 2**16
MAX_STRIDE = 2**20
MAX_FEATURES = 32
"""Of one channel."""
MAX_SECONDS = 1e7
LEAST_STEP_S = 1e-4
"""Of a grid: beyond what a board samples, and steps since 1970 can be counted exactly."""

_WHAT = "features"
_ROUNDING = 1e-9


def read_pipeline(data: Mapping[str, Any]) -> dict[str, object]:
    """Return the fields of a ``Pipeline``, or raise ``FeaturesError``.

    A key that has no meaning beside the others (``max_hold_s`` without a grid) is unknown there.
    """
    fields = Fields(data, _WHAT, FeaturesError)
    channels = fields.texts("channels", MAX_CHANNELS, MAX_NAME)
    magnitudes = _magnitudes(fields, channels)
    read: dict[str, object] = {"channels": channels, "magnitudes": magnitudes}
    read |= (time := _time(fields))
    read |= _missing(fields)
    raw = fields.anything("compute") == "raw"
    features = {} if raw else _features(fields, (*channels, *magnitudes), time)
    read |= {"raw": raw, "features": features}
    read["correlation"] = not raw and fields.truth("correlation", default=False)
    if read["correlation"] and len(channels) + len(magnitudes) < 2:  # noqa: PLR2004 - a pair
        raise fields.wrong("correlation", found=True, allowed="false with a single channel")
    read |= _target(fields, channels)
    read["standardize"] = fields.choice("standardize", ("none", "device"), "none")
    fields.finish()
    _check_size(int(time["window"]), len(channels) + len(magnitudes))
    return read


def _magnitudes(fields: Fields, channels: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    if not fields.has("magnitudes"):
        return {}
    found = fields.anything("magnitudes")
    allowed = "a table: new name = list of channels"
    if not isinstance(found, Mapping) or not 1 <= len(found) <= MAX_CHANNELS - len(channels):
        raise fields.wrong("magnitudes", found, f"{allowed}; at most {MAX_CHANNELS} channels in all")
    inner = Fields(found, f"{_WHAT}: magnitudes", FeaturesError)
    made = {}
    for name in found:
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME or name in channels:
            raise fields.wrong("magnitudes", name, allowed + ", under a name that no channel has")
        made[name] = inner.texts(name, MAX_CHANNELS, MAX_NAME)
        for part in made[name]:
            if part not in channels:
                raise inner.wrong(name, part, "one of the channels " + ", ".join(map(repr, channels)))
    return made


def _time(fields: Fields) -> dict[str, float]:
    every_s = fields.number("every_s", LEAST_STEP_S, MAX_SECONDS) if fields.has("every_s") else 0.0
    hold_s = fields.number("max_hold_s", every_s, MAX_SECONDS) if every_s else 0.0
    rate_hz = 0.0
    if not every_s and fields.has("rate_hz"):
        rate_hz = fields.number("rate_hz", 0.0, 1.0 / LEAST_STEP_S, above=True)
    gap_s = fields.number("max_gap_s", 0.0, MAX_SECONDS, above=True)
    if every_s and gap_s < hold_s:
        raise fields.wrong("max_gap_s", gap_s, f"at least max_hold_s, {hold_s:g}: nothing is held over a gap")
    window = _extent(fields, "window", every_s, MAX_WINDOW, None)
    stride = _extent(fields, "stride", every_s, MAX_STRIDE, window)
    return {
        "every_s": every_s,
        "max_hold_s": hold_s,
        "rate_hz": rate_hz,
        "max_gap_s": gap_s,
        "window": window,
        "stride": stride,
    }


def _extent(fields: Fields, key: str, every_s: float, most: int, default: int | None) -> int:
    """Return rows or steps, which may be told in seconds where there is a grid."""
    in_seconds = f"{key}_s"
    if not fields.has(in_seconds):
        return fields.integer(key, 1, most, default)
    if not every_s:
        raise fields.wrong(in_seconds, fields.anything(in_seconds), f"{key}, in rows, unless there is a grid (every_s)")
    seconds = fields.number(in_seconds, every_s, every_s * most)
    steps = round(seconds / every_s)
    if not math.isclose(steps * every_s, seconds, rel_tol=_ROUNDING):
        raise fields.wrong(in_seconds, seconds, f"a multiple of every_s, {every_s:g}")
    return steps


def _missing(fields: Fields) -> dict[str, object]:
    fill = fields.choice("fill", ("hold", "interpolate", "value"), "hold")
    return {
        "max_missing": fields.number("max_missing", 0.0, 1.0, 0.2),
        "fill": fill,
        "fill_value": fields.number("fill_value", -1e30, 1e30) if fill == "value" else 0.0,
        "drop_constant": fields.truth("drop_constant", default=False),
    }


def _features(fields: Fields, every: tuple[str, ...], time: Mapping[str, float]) -> dict[str, tuple[str, ...]]:
    found = fields.anything("compute")
    if isinstance(found, Mapping):
        inner = Fields(found, f"{_WHAT}: compute", FeaturesError)
        made = {name: _named(inner, name, time) for name in every if inner.has(name)}
        inner.finish()
        if not made:
            raise fields.wrong("compute", found, "a table that names the features of at least one channel")
        return {name: made.get(name, ()) for name in every}
    if not isinstance(found, list | tuple):
        raise fields.wrong("compute", found, "'raw', a list of features, or a table: channel = list of features")
    names = _named(fields, "compute", time)
    return dict.fromkeys(every, names)


def _named(fields: Fields, key: str, time: Mapping[str, float]) -> tuple[str, ...]:
    names = fields.texts(key, MAX_FEATURES, MAX_NAME)
    width, every_s = int(time["window"]), time["every_s"]
    if width < 2:  # noqa: PLR2004 - a change takes two values
        raise fields.wrong("window", width, "at least 2 rows or steps, unless compute = 'raw'")
    rate = 1.0 / every_s if every_s else time["rate_hz"] or None
    for name in names:
        try:
            feature(name, width, rate)
        except ValueError as exc:
            raise FeaturesError(f"{_WHAT}: {key} has {describe(name)}, allowed is {exc}") from None
    return names


def _target(fields: Fields, channels: tuple[str, ...]) -> dict[str, object]:
    target = fields.choice("target", ("label", "next", "self"), "label")
    label, share, steps, named = "last", 0.5, 0, channels[:0]
    if target == "label":
        label = fields.choice("label", ("last", "majority", "any", "mean"), "last")
        share = fields.number("label_share", 0.0, 1.0, 0.5) if label == "majority" else 0.5
    if target == "next":
        steps = fields.integer("forecast_steps", 1, MAX_WINDOW, 1)
        named = fields.texts("forecast_channels", MAX_CHANNELS, MAX_NAME, channels)
        for name in named:
            if name not in channels:
                raise fields.wrong("forecast_channels", name, "some of the channels " + ", ".join(map(repr, channels)))
    return {
        "target": target,
        "label": label,
        "label_share": share,
        "forecast_steps": steps,
        "forecast_channels": named,
    }


def _check_size(window: int, channels: int) -> None:
    if window * channels > MAX_INPUTS:
        raise FeaturesError(
            f"{_WHAT}: a window of {window} rows of {channels} channels has {window * channels} values, "
            f"allowed is at most {MAX_INPUTS}"
        )
