"""Watches whether the model does worse on new examples than on earlier ones. Imports NumPy, as the workbench does.

Everything new is judged before it is trained on, by the version as it came (prequentially, Dawid 1984), against
examples that were held out and never trained on. What is kept is one small file.
"""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from device_agent.adapters.leaving import leave_if, never
from device_agent.drift import (
    MAX_EXAMPLES,
    MAX_JUDGED,
    MAX_REFERENCE_BYTES,
    WRITE_S,
    DriftHead,
    DriftSeen,
)
from models import Dataset
from models.drift import FEWEST, DriftRule, Evidence, errors_of, kinds_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from device_agent.adapters.data import Samples
    from device_agent.adapters.drift_file import DriftFile
    from device_agent.settings import AgentSettings
    from models import Model

    Rows = NDArray[np.float32]

_BLOCK = 16
"""So many examples are asked about between two looks at whether to stop."""

_FORGETTING = 4
"""The earlier examples are drawn as if there had been so many times their number: old ones go, slowly."""


class DriftWatch:
    """Looks at the samples of each training. For the trainer's thread."""

    def __init__(self, settings: AgentSettings, file: DriftFile) -> None:
        self._settings = settings
        self._file = file
        self._turn = file.turn
        self._rule = DriftRule(
            false_alarm_examples=settings.drift.false_alarm_examples,
            margin=settings.drift.margin,
            relearn_examples=settings.drift.relearn_examples,
        )
        self._known: _Known | None = None
        self._write_at = 0.0

    def look(
        self,
        model: Model,
        parameters: Rows,
        samples: Samples,
        meaning: dict[str, Any],
        stopped: Callable[[], bool] = never,
    ) -> DriftSeen:
        """Judge what is new. Of samples of which nothing can be said nothing is: switched off, or nothing held out.

        ``parameters`` are those that the training begins with. What cannot be written is written later; until then a
        restart judges it again. ``meaning``: how rows become examples. ``stopped`` is asked along the way:
        ``TaskLeftError``, and nothing is judged.
        """
        holdout = samples.holdout
        if not self._settings.drift.enabled or holdout is None:
            return DriftSeen()
        if (len(samples.train_ends), len(samples.holdout_ends)) != (len(samples.train), len(holdout)):
            return DriftSeen()  # nobody knows which of them are new
        known = self._recall(_digest(self._settings, model, meaning), model)
        was = known.evidence.drifting
        boundary = known.boundary_in(samples)
        chance = np.random.default_rng([zlib.crc32(self._settings.device.id.encode()), known.evidence.judged])
        fresh = _Fresh(model, samples, holdout, boundary)
        if fresh.newest <= boundary:
            return known.seen()
        over = False
        if len(known.earlier) >= FEWEST:
            sides = _dataset(model, known.earlier, samples), fresh.to_judge()
            errors = [_errors(model, parameters, data, stopped) for data in sides]
            over = self._judge(known, model, sides, errors, chance)
        self._keep_examples(known, fresh.held_out(_FORGETTING * known.most), chance, over=over)
        known.note(samples, fresh.newest)
        now = time.monotonic()
        if was != known.evidence.drifting or now >= self._write_at:
            self._write_at = now + WRITE_S
            self._write(known)
        return known.seen()

    def _judge(
        self,
        known: _Known,
        model: Model,
        sides: Sequence[Dataset],
        errors: Sequence[NDArray[np.float64]],
        chance: np.random.Generator,
    ) -> bool:
        """Return whether drift was over."""
        known.error_earlier, known.error_new = (float(found.mean()) for found in errors)
        earlier, new = (
            list(zip(kinds_of(model, data), found.tolist(), strict=True))
            for data, found in zip(sides, errors, strict=True)
        )
        return self._rule.judge(known.evidence, earlier, new, chance)

    def _keep_examples(self, known: _Known, rows: Rows, chance: np.random.Generator, *, over: bool) -> None:
        """Offer held-out examples: to the earlier ones, or while there is drift, to those since."""
        if known.evidence.drifting or over:
            known.since = np.concatenate([known.since, rows])[-known.most :]
        if known.evidence.drifting:
            return
        if over:
            # The errors are back, of the old and the new alike; or so much was new that it is what is normal.
            given_up = known.evidence.since_alarm >= self._rule.relearn_examples and len(known.since) >= FEWEST
            both = known.since if given_up else np.concatenate([known.earlier, known.since])
            known.earlier = both[chance.permutation(len(both))[: known.most]]
            known.since = known.since[:0]
            return
        for row in rows:
            # Algorithm R (Vitter 1985), with a bound on the past.
            known.offered = min(known.offered + 1, _FORGETTING * known.most)
            if len(known.earlier) < known.most:
                known.earlier = np.concatenate([known.earlier, row[None]])
            elif (place := int(chance.integers(known.offered))) < known.most:
                known.earlier[place] = row

    def _recall(self, of: str, model: Model) -> _Known:
        if self._known is None or self._known.of != of or self._turn != self._file.turn:
            self._turn = self._file.turn
            self._known = self._read(of, model)
        return self._known

    def _read(self, of: str, model: Model) -> _Known:
        width = model.inputs + _targets(model)
        found = self._file.read()
        if found is None or found[0].of != of:
            return _Known(of, width)
        head, vectors = found
        known = _Known(of, width)
        known.earlier, known.since = (
            np.frombuffer(vectors.get(name, b""), "<f4").astype(np.float32).reshape(-1, width).copy()
            for name in ("earlier", "since")
        )
        known.boundary, known.first, known.last, known.offered = head.boundary, head.first, head.last, head.offered
        known.error_new, known.error_earlier = head.error_new, head.error_earlier
        known.evidence = Evidence(**{name: getattr(head, name) for name in asdict(Evidence())})
        return known

    def _write(self, known: _Known) -> None:
        vectors = {"earlier": known.earlier, "since": known.since}
        head = DriftHead(
            of=known.of,
            boundary=known.boundary,
            first=known.first,
            last=known.last,
            offered=known.offered,
            error_new=known.error_new,
            error_earlier=known.error_earlier,
            arrays={name: rows.size for name, rows in vectors.items()},
            **asdict(known.evidence),
        )
        content = [memoryview(rows.astype("<f4").tobytes()) for rows in vectors.values()]
        if not self._file.write(self._turn, head, content):
            self._write_at = 0.0  # a full disk: with the next look


class _Known:
    """What is kept, in memory."""

    def __init__(self, of: str, width: int) -> None:
        self.of = of
        self.most = max(FEWEST, min(MAX_EXAMPLES, MAX_REFERENCE_BYTES // (4 * width)))
        self.earlier: Rows = np.zeros((0, width), np.float32)
        self.since: Rows = np.zeros((0, width), np.float32)
        self.evidence = Evidence()
        self.boundary: float | None = None
        self.first = self.last = ""
        self.offered = 0
        self.error_new: float | None = None
        self.error_earlier: float | None = None

    def boundary_in(self, samples: Samples) -> float:
        """Return behind which place of these samples everything is new."""
        if self.boundary is None:
            return -np.inf
        rows = samples.row_hashes
        place = int(self.boundary) if len(rows) else 0
        # Another file, or one that was cut or written anew: all of it is new, as far as we can tell.
        same = not len(rows) or (place < len(rows) and (_hex(rows[0]), _hex(rows[place])) == (self.first, self.last))
        return self.boundary if same else -np.inf

    def note(self, samples: Samples, newest: float) -> None:
        """Take these samples as looked at."""
        self.boundary = newest
        rows = samples.row_hashes
        if len(rows):
            self.first, self.last = _hex(rows[0]), _hex(rows[int(newest)])

    def seen(self) -> DriftSeen:
        """Return what there is to tell."""
        known = self.evidence
        return DriftSeen(
            drifting=known.drifting,
            judged=known.judged,
            alarms=known.alarms,
            error_new=self.error_new,
            error_earlier=self.error_earlier,
        )


class _Fresh:
    """The examples behind a boundary."""

    def __init__(self, model: Model, samples: Samples, holdout: Dataset, boundary: float) -> None:
        self._model, self._samples, self._holdout, self._boundary = model, samples, holdout, boundary
        newest = [ends.max() for ends in (samples.train_ends, samples.holdout_ends) if len(ends)]
        self.newest = float(max(newest))

    def to_judge(self) -> Dataset:
        """Return the newest in the order of time; of windows that overlap only one, for they are no two examples."""
        held = self._samples
        ends = np.concatenate([held.train_ends, held.holdout_ends])
        new = np.flatnonzero(ends > self._boundary)
        chosen: list[int] = []
        free_from = np.inf
        for index in new[np.argsort(ends[new], kind="stable")][::-1].tolist():  # from the newest back
            if ends[index] < free_from:
                chosen.append(index)
                free_from = ends[index] - held.lasts
            if len(chosen) == MAX_JUDGED:
                break
        picked = np.array(chosen[::-1], np.intp)
        trained = picked < len(held.train_ends)
        x = np.empty((len(picked), self._model.inputs), np.float32)
        y = np.empty((len(picked), *held.train.y.shape[1:]), held.train.y.dtype)
        for side, data, offset in ((trained, held.train, 0), (~trained, self._holdout, len(held.train_ends))):
            x[side], y[side] = data.x[picked[side] - offset], data.y[picked[side] - offset]
        return Dataset(x, y)

    def held_out(self, most: int) -> Rows:
        """Return the newest that are never trained on, at most so many, as rows of features with their target."""
        new = np.flatnonzero(self._samples.holdout_ends > self._boundary)[-most:]
        x, y = self._holdout.x[new], self._holdout.y[new]
        if self._samples.constants is not None:
            self._samples.constants.revert(x)
        if not _targets(self._model):
            return x
        return np.concatenate([x, np.asarray(y, np.float32).reshape(len(x), _targets(self._model))], axis=1)


def _errors(model: Model, parameters: Rows, data: Dataset, stopped: Callable[[], bool]) -> NDArray[np.float64]:
    found = np.empty(len(data))
    # A file that is a model is loaded with each question, and cuts it into pieces itself.
    size = _BLOCK if model.layers else max(1, len(data))
    for first in range(0, len(data), size):
        leave_if(stopped)
        part = slice(first, first + size)
        found[part] = errors_of(model, parameters, data.subset(part))
    return found


def _hex(found: np.uint64) -> str:
    return f"{int(found):016x}"


def _targets(model: Model) -> int:
    """Return how many columns the target of an example takes."""
    return {"classification": 1, "reconstruction": 0}.get(model.task, model.outputs)


def _dataset(model: Model, rows: Rows, samples: Samples) -> Dataset:
    """Return rows as ``_Fresh.held_out`` gave them as examples, standardized as those of today are."""
    x, targets = rows[:, : model.inputs].copy(), rows[:, model.inputs :]
    if samples.constants is not None:
        samples.constants.apply(x)
    return Dataset.for_model(model, x, targets[:, 0] if model.task == "classification" else targets)


def _digest(settings: AgentSettings, model: Model, meaning: dict[str, Any]) -> str:
    about = [settings.device.federation, model.inputs, model.outputs, model.task, meaning, bool(settings.sources)]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
