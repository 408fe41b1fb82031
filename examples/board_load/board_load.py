"""A source of samples: the load of this board, and how much memory is free.

It needs nothing of fedmq: an entry point in the group ``fedmq.sources`` names what is called with the table
``options``, and what that returns has a method ``run(emit, stop)``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class BoardLoad:
    """Made once for each start of the source. What is wrong with the options is best said here."""

    def __init__(self, options: dict[str, Any]) -> None:
        """``options``: what stands in ``[sources.NAME] options = {...}``."""
        self.every_s = float(options.get("every_s", 10.0))
        if self.every_s <= 0:
            raise ValueError(f"every_s is {self.every_s}; it must be above 0")

    def run(self, emit: Any, stop: Any) -> None:  # noqa: ANN401 - fedmq is not needed to write a plug-in
        """Measure until ``stop``. An exception ends this run; the agent says so and starts another one later."""
        while not stop.is_set():
            minute, _, quarter = os.getloadavg()
            # None: there is no such value now. What is missing is missing, and no reason to end.
            emit({"load": {"minute": minute, "quarter": quarter}, "free_bytes": _free_bytes()})
            # Not time.sleep: the agent ends when it is told to, and does not wait for a source that sleeps.
            stop.wait(self.every_s)


def _free_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None
