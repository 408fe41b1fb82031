"""Sensors that measure faster than life, on topics of their devices, for tests of what is predicted of them."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.support.links import Peer

STEP_S = 0.1
"""Between two rows, by the time that they carry."""

MOST_AHEAD = 300
"""Rows that wait between sensor and prediction: far fewer than what any queue on the way would drop."""

_UNHEARD_PAUSE_S, _PAUSE_S = 0.02, 0.005


class FastSensors:
    """One for each device, from ``with`` to its end.

    They never run away from those who predict, however slow they are: what is dropped then would be our own fault.
    """

    def __init__(
        self,
        peer: Peer,
        devices: Sequence[str],
        measure: Callable[[str, float], Mapping[str, Any]],
        predicted: Callable[[str], float | None],
    ) -> None:
        """``measure``: a device's row of a moment. ``predicted``: the end of its window predicted last, if any was."""
        self._peer, self._measure, self._predicted = peer, measure, predicted
        self._rows = dict.fromkeys(devices, 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        # Two days ago: however long this takes, no row is from the future.
        self.begun = time.time() - 2 * 86400.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._pause_s()):
            for device in self._rows:
                self._say(device)

    def _pause_s(self) -> float:
        # Whether anybody listens yet cannot be seen.
        unheard = any(self._predicted(device) is None for device in self._rows)
        return _UNHEARD_PAUSE_S if unheard else _PAUSE_S

    def _say(self, device: str) -> None:
        predicted, rows = self._predicted(device), self._rows[device]
        if predicted is not None and rows - (predicted - self.begun) / STEP_S > MOST_AHEAD:
            return
        moment = self.begun + rows * STEP_S
        row = {"time": moment, **self._measure(device, moment)}
        if self._peer.link.publish(f"{device}/motion", json.dumps(row).encode()):
            self._rows[device] += 1
