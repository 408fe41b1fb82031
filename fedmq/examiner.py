"""``python -m fedmq.examiner FOLDER``: asks the models of the demo's devices about what these hold out, as they learn.

The demo's devices have examples in files, and no sensor that would make them predict by themselves. So this process
does for each of them what an agent with sensors does: its newest model with its own parameters in it, by a TFLite
runtime where one works and by NumPy otherwise. ``FOLDER/plan.json`` names the devices; what they say is in
``FOLDER/answers.json``, whole at any moment.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from device_agent.adapters.data import load_samples
from device_agent.adapters.model_cache import CacheError, ModelCache, read_model
from device_agent.adapters.personalizing import personal_parameters
from device_agent.adapters.predicting import ServingPredictor
from device_agent.settings import DataSettings
from fedmq.answers import ANSWERS, PLAN, Answered, Answers, Examined, Plan
from models import build
from models.predicting import Origin
from protocol import tensors
from protocol.errors import ProtocolError

if TYPE_CHECKING:
    from models import Dataset

EVERY_S = 0.5
"""Each device is asked about one example so often: a person can follow that, and it takes little of the machine."""

LAST = 50
"""Answers of a device that are counted."""

NICENESS = 10
"""Whoever learns comes first."""


class Examinee:
    """One device, as far as its files tell."""

    def __init__(self, plan: Examined) -> None:
        self._plan = plan
        self._state_dir = Path(plan.state_dir)
        self._cache = ModelCache(self._state_dir)
        self._predictor: ServingPredictor | None = None
        self._heldout: Dataset | None = None
        self._known: tuple[bytes, bytes] | None = None
        self._version = 0
        self._next = 0
        self._right: deque[bool] = deque(maxlen=LAST)

    def ask(self) -> Answered | None:
        """Have the newest model answer the next example; None while there is no model, or nothing is held out."""
        self._go_over()
        if self._predictor is None or self._heldout is None:
            return None
        place = self._next % len(self._heldout)
        self._next += 1
        found = self._predictor.predict(self._heldout.x[place : place + 1])[0]
        said, truth = int(found.argmax()), int(self._heldout.y[place])
        self._right.append(said == truth)
        return Answered(
            version=self._version, said=said, truth=truth, right=sum(self._right), asked=len(self._right), by=self.by
        )

    @property
    def by(self) -> str:
        """What computes."""
        return self._predictor.by if self._predictor else ""

    def _go_over(self) -> None:
        """Take the model that is in the cache now, if it is another."""
        try:
            with self._cache.open() as file:
                manifest, blob = read_model(file)
        except CacheError:
            return
        model = build(manifest.model)
        vector = np.array(tensors.decode(manifest.blob.encoding, blob, model.layout.size), np.float32)
        parameters = personal_parameters(self._state_dir, manifest, model, vector)
        known = (manifest.parameters.encode(), parameters.tobytes())
        if known == self._known:
            return
        if self._predictor is None or self._heldout is None:
            settings = DataSettings(path=self._plan.data, holdout_fraction=self._plan.holdout)
            self._heldout = load_samples(Path(self._plan.data), settings, model).holdout
            self._predictor = ServingPredictor(model)
        origin = Origin(federation=manifest.federation, epoch=manifest.epoch, version=manifest.version)
        self._predictor.update(parameters, origin)
        self._known, self._version = known, manifest.version


def look_at(examinees: dict[str, Examinee]) -> Answers:
    """Ask all of them; who cannot be asked now is asked the next time."""
    found: dict[str, Answered] = {}
    for name, examinee in examinees.items():
        try:
            answer = examinee.ask()
        except (OSError, CacheError, ProtocolError, ValueError) as exc:
            sys.stderr.write(f"{name}: {exc}\n")
            continue
        if answer is not None:
            found[name] = answer
    return Answers(devices=found)


def main(folder: Path) -> int:
    """Ask until somebody asks to stop; return the exit code."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    os.nice(NICENESS)
    plan = msgspec.json.decode((folder / PLAN).read_bytes(), type=Plan)
    examinees = {one.name: Examinee(one) for one in plan.devices}
    fresh = folder / f"{ANSWERS}.new"
    while not stop.wait(EVERY_S):
        found = msgspec.json.encode(look_at(examinees))
        with suppress(OSError):  # a full disk: those before stay, and nobody else is held up
            fresh.write_bytes(found)
            fresh.replace(folder / ANSWERS)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
