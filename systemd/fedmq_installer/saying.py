"""What the operator reads. A terminal that is gone ends nothing."""

from __future__ import annotations

import contextlib
import sys


def say(*lines: str, indent: str = "") -> None:
    """Print the lines."""
    with contextlib.suppress(OSError, ValueError):
        for line in lines:
            sys.stdout.write(f"{indent}{line}\n")
        sys.stdout.flush()


def complain(text: str) -> None:
    """Print why it did not work."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"install: {text}\n")
        sys.stderr.flush()
