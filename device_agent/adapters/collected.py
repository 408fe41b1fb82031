"""From the sample store to what is trained on, by the federation's pipeline.

Blocks of time are held out. Imports NumPy: only the trainer's thread imports this module.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec import Struct

from device_agent.adapters.data import DataFileError, Samples
from device_agent.adapters.leaving import asking, never, until
from device_agent.sensing.adapters.reading import Extent, SamplesError, read
from models import DataError, Dataset, Pipeline, Standardization
from models.pieces import Between, go_on

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from device_agent.settings import AgentSettings
    from models import Windows
    from models.data import Shaped

CONSTANTS_NAME = "standardization.json"
BLOCK_WINDOWS = 5
"""A block is at least as long as so many windows, where it is known how long those are."""

MOST_BLOCKS = 10_000
"""Of so many there are some on either side."""

ASK_EVERY_WINDOWS = 16
"""Whether to stop: a window may touch ``MOST_BLOCKS``."""

MAX_CONSTANTS_BYTES = 64 * 1024 * 1024


class Constants(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file with the running mean and deviation of this device's inputs."""

    pipeline: str
    """Digest of what the inputs mean: those of another pipeline say nothing of them."""
    store: str
    """Identity of the sample store that they are of."""
    data: dict[str, Any]


def collect(  # noqa: PLR0917 - what is wanted, of which rows
    settings: AgentSettings,
    pipeline: Pipeline,
    model: Shaped,
    extent: Extent,
    upto: int | None,
    stopped: Callable[[], bool] = never,
) -> Samples:
    """Return the examples in the store; raise ``DataFileError``.

    ``upto``: of rows up to this number; None: up to ``extent.newest``. The same extent and number give the same
    examples, as long as no row of them was evicted. ``stopped`` is asked along the way: ``TaskLeftError``.
    """
    last, between = extent.newest if upto is None else upto, asking(stopped)
    _check_channels(settings, pipeline)
    try:
        folder, limit = Path(settings.device.state_dir), settings.samples.read_rows
        series = read(folder, pipeline.channels, upto=last, limit=limit, stopped=stopped)
        if not len(series):
            raise DataFileError(f"samples: no row with {_listed(pipeline.channels)} has come yet")
        windows = pipeline.windows(series, between=between)
    except (SamplesError, DataError) as exc:
        raise DataFileError(f"samples: {exc}") from exc
    constants = None
    if pipeline.standardize == "device":
        constants = constants_for(settings, pipeline, extent.identity, windows, between)
        constants.apply(windows.x, between)
    return replace(_split(settings, model, pipeline, windows, (len(series), last), stopped), constants=constants)


def constants_for(
    settings: AgentSettings, pipeline: Pipeline, store: str, windows: Windows, between: Between = go_on
) -> Standardization:
    """Return this device's constants, those of new windows included, and keep them."""
    path = Path(settings.device.state_dir) / CONSTANTS_NAME
    before = kept_constants(path, pipeline, store)
    found = before.including(windows, between)
    if found is not before:
        _keep(path, Constants(pipeline=pipeline.digest, store=store, data=found.to_data()))
    return found


def kept_constants(path: Path, pipeline: Pipeline, store: str) -> Standardization:
    """Return the constants that are kept; those of nothing when there are none, or none of this pipeline and store."""
    nothing = Standardization.nothing(pipeline.inputs)
    try:
        with path.open("rb") as file:
            kept = msgspec.json.decode(file.read(MAX_CONSTANTS_BYTES), type=Constants)
        if (kept.pipeline, kept.store) != (pipeline.digest, store):
            return nothing
        return Standardization.from_data(kept.data, pipeline.inputs)
    except (OSError, msgspec.DecodeError, DataError, UnicodeDecodeError):
        # They are learnt again from the rows that there are.
        return nothing


def _keep(path: Path, constants: Constants) -> None:
    aside = path.with_name(f"{path.name}.new")
    try:
        with aside.open("wb") as file:
            file.write(msgspec.json.encode(constants))
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)  # noqa: PTH105 - whole or not at all
    except OSError as exc:
        raise DataFileError(f"{path} cannot be written: {exc.strerror or exc}") from exc


def _check_channels(settings: AgentSettings, pipeline: Pipeline) -> None:
    given = [channel for source in settings.sources.values() for channel in source.fields]
    missing = [channel for channel in pipeline.channels if channel not in given]
    if missing:
        raise DataFileError(
            f"samples: the federation wants {_listed(missing)}, which no source of this device gives; they give "
            f"{_listed(sorted(set(given)))}. Name them so in the fields of [sources.NAME]"
        )


def _split(  # noqa: PLR0917 - what is split, for whom, and how
    settings: AgentSettings,
    model: Shaped,
    pipeline: Pipeline,
    windows: Windows,
    read_rows: tuple[int, int],
    stopped: Callable[[], bool],
) -> Samples:
    """Return both sides; ``read_rows``: how many rows there were, and the number of the last."""
    rows, last = read_rows
    # Who repeats its input needs no labels.
    between = asking(stopped)
    usable = windows if model.task == "reconstruction" else windows.labelled(between)
    # Where windows are as long as blocks, hardly one would lie in blocks of one side.
    lasts_s = pipeline.window / pipeline.rate if pipeline.rate else 0.0
    block_s = max(settings.data.holdout_block_s, BLOCK_WINDOWS * lasts_s)
    held_out, trained = sides_of(usable.starts, usable.ends, settings.data.holdout_fraction, block_s, stopped)
    try:
        data = Dataset.for_model(model, usable.x, usable.y, between)
        train = data.parted(trained, between)
        holdout = data.parted(held_out, between) if held_out.any() else None
    except DataError as exc:
        raise DataFileError(f"samples: {exc}") from exc
    if len(train) < settings.data.min_examples:
        raise DataFileError(_too_few(windows, int(held_out.sum()), len(train), settings.data.min_examples, rows))
    return Samples(
        train=train,
        holdout=holdout,
        upto=last,
        train_ends=usable.ends[trained],
        holdout_ends=usable.ends[held_out],
        lasts=float((usable.ends - usable.starts).max(initial=0.0)),
    )


def sides_of(
    starts: NDArray[np.float64],
    ends: NDArray[np.float64],
    fraction: float,
    block_s: float,
    stopped: Callable[[], bool] = never,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which windows are held out, and which are trained on; some are neither.

    Time since 1970 is cut into blocks, and a hash of a block's number says on which side it is. So windows that overlap
    are never on different sides: one that touches blocks of both is left out. It does not depend on what other windows
    there are.
    """
    first = np.floor(starts / block_s).astype(np.int64)
    last = np.floor(ends / block_s).astype(np.int64)
    drawn: dict[int, bool] = {}

    def held_out(block: int) -> bool:
        if block not in drawn:
            digest = hashlib.blake2b(str(block).encode(), digest_size=8).digest()
            drawn[block] = int.from_bytes(digest, "big") < fraction * 2.0**64
        return drawn[block]

    sides = np.empty((len(first), 2), np.bool_)
    spans = zip(first.tolist(), last.tolist(), strict=True)
    for row, (begin, end) in enumerate(until(stopped, spans, ASK_EVERY_WINDOWS)):
        found = {held_out(block) for block in range(begin, min(end, begin + MOST_BLOCKS) + 1)}
        sides[row] = (found == {True}, found == {False})
    return sides[:, 0], sides[:, 1]


def _too_few(windows: Windows, held_out: int, found: int, wanted: int, rows: int) -> str:
    counts = windows.counts
    why = [
        f"{number} {text}"
        for number, text in (
            (counts.unlabelled, "have no label yet"),
            (held_out, "are held out"),
            (counts.gap, "would lie over a gap in time"),
            (counts.missing, "lack too many values"),
            (counts.constant, "do not move"),
            (counts.no_target, "lack what is to be forecast"),
        )
        if number
    ]
    reasons = f"; of the others {', '.join(why)}" if why else ""
    return f"samples: {found} windows to train on in {rows} rows, where min_examples is {wanted}{reasons}"


def _listed(names: list[str] | tuple[str, ...]) -> str:
    shown = ", ".join(map(repr, names[:8]))
    return f"{shown}, ..." if len(names) > 8 else shown or "nothing"  # noqa: PLR2004 - enough to find the mistake
