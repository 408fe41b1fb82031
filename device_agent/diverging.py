"""Whether a training led nowhere: for the device's state, which people and the monitor read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from protocol.status import DIVERGES

if TYPE_CHECKING:
    from collections.abc import Mapping

FACTOR = 10.0
"""A training that ends with so many times the loss it began with made nothing better."""

LEAST_LOSS = 0.1
"""Below, a factor is noise; losses of features and labels of a size near 1 begin above."""

MEND = "lower [training] learning_rate or set clip_norm, and see that features and labels have a size near 1"
"""First, as what comes behind it may be cut off in a terminal."""
NOT_FINITE = f"{DIVERGES}{MEND} (parameters are not finite any more)"
EXPLODES = f"{DIVERGES}{MEND} (the loss on held-out examples is more than {FACTOR:g} times what it was)"
"""Without a figure: where updates are sealed, losses are not for everybody on the broker."""


def verdict(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Return what to say of a training with these finite metrics before and after it; empty when nothing is wrong.

    The update is sent even so: whether it is taken is for the aggregator to say.
    """
    if "loss" not in before:
        return ""
    return "" if after.get("loss", math.inf) <= FACTOR * max(before["loss"], LEAST_LOSS) else EXPLODES
