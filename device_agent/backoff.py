"""Waiting between attempts, so that a fleet that failed together does not try again together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random


def full_jitter(rng: random.Random, failures: int, first_s: float, max_s: float) -> float:
    """Return a wait in seconds, uniform from 0 to ``min(max_s, first_s * 2**failures)``.

    "Full jitter" of Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
    """
    return rng.uniform(0.0, min(max_s, first_s * 2.0 ** min(failures, 60)))
