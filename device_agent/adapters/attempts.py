"""What may take the process down with it is tried only so often: a mark on the disk counts who did not come back."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MOST = 3
"""A power cut or a kill that falls into an attempt is not its fault; three of them in a row are nobody else's."""


class Attempts:
    """How often in a row a process died while it tried the same thing; another thing begins to count anew.

    A mark that cannot be written or read counts as none: then the attempt is made, as it would be without this.
    """

    def __init__(self, path: Path, what: str) -> None:
        """Read the mark; ``what`` is one line that changes when another attempt may end otherwise, as a version."""
        self.path = path
        self._what = what
        self.died = self._read()
        """So many processes."""

    @property
    def exhausted(self) -> bool:
        """Whether it is not worth another one."""
        return self.died >= MOST

    def begin(self) -> None:
        """Count this process among those that died, until ``over``."""
        with contextlib.suppress(OSError):
            self.path.write_text(f"{self.died + 1} {self._what}\n", encoding="utf-8")

    def over(self) -> None:
        """Forget all attempts: this one did not take the process along, however it went."""
        self.died = 0
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _read(self) -> int:
        try:
            count, _, what = self.path.read_text(encoding="utf-8").rstrip("\n").partition(" ")
            return int(count) if what == self._what else 0
        except (OSError, ValueError):
            return 0
