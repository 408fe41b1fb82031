"""Feeds every target with every bomb, under limits of the kernel's: ``python -m tests.fuzz.bombing``."""

from __future__ import annotations

import resource
from pathlib import Path

from tests.fuzz.mutations import bombs
from tests.fuzz.targets import TARGETS, try_out

MORE_MEMORY = 150 * 1024 * 1024
COMPUTING_S = 60


def main() -> None:
    """Print the name of each target that stood it."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (COMPUTING_S, COMPUTING_S))
    for name in TARGETS:
        for bomb in bombs().values():
            try_out(name, bomb)
        print(name, flush=True)  # noqa: T201 - this is its answer


if __name__ == "__main__":
    main()
