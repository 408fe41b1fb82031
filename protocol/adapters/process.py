"""What the operating system knows about this process."""

from __future__ import annotations

import os
from pathlib import Path


def rss_bytes() -> int:
    """Return the resident memory of this process in bytes; 0 where there is no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
