"""How long an update may be, measured by what others send: the running median of norms, one vote a device.

A fixed bound is either too wide for a trained model, whose steps are short, or too narrow for a fresh one. The median
moves with the training, and nobody who controls fewer than half of the devices can move it (the idea of adaptive
clipping: Andrew et al. 2021, "Differentially Private Learning with Adaptive Clipping"; here without the privacy).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterable

MAX_VOTES = 255
"""Norms of so many devices, those that contributed last: fleets are larger, but a median of more says nothing else."""

MIN_VOTES = 5
"""Fewer do not make a majority that one broken device could not sway."""


class NormMedian:
    """The last norm of each of the devices that contributed last."""

    def __init__(self, norms: Iterable[tuple[str, float]] = ()) -> None:
        """Begin with what is known: (device, norm), those that contributed longest ago first."""
        self._by_device: OrderedDict[str, float] = OrderedDict()
        self._sorted: list[float] = []
        for device_id, norm in norms:
            self.note(device_id, norm)

    def note(self, device_id: str, norm: float) -> None:
        """Take in the norm of an accepted update, as it was before clipping, in the place of the device's last one."""
        old = self._by_device.pop(device_id, None)
        if old is None and len(self._by_device) >= MAX_VOTES:
            _, old = self._by_device.popitem(last=False)
        if old is not None:
            del self._sorted[bisect_left(self._sorted, old)]
        self._by_device[device_id] = norm
        insort(self._sorted, norm)

    @property
    def median(self) -> float | None:
        """The lower median; None while there are too few votes."""
        count = len(self._sorted)
        return self._sorted[(count - 1) // 2] if count >= MIN_VOTES else None

    def factor(self, norm: float, times: float) -> float:
        """Return what a delta of this norm has to be multiplied with so that it is at most ``times`` the median."""
        median = self.median
        if times <= 0.0 or not median or norm <= times * median:
            return 1.0  # also while half of the fleet sends steps of no length: nothing is measured by those
        return times * median / norm
