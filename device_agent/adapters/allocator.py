"""What the C library's allocator is told before the training begins."""

from __future__ import annotations

_M_MMAP_THRESHOLD = -3
"""mallopt's number for it (malloc.h)."""
LARGE_BYTES = 65536


def give_back_large_blocks() -> None:
    """Have blocks of 64 KB and more returned to the system when they are freed; only where the C library is glibc.

    Left alone, glibc raises its bound with every such block that is freed, up to 32 MB, and keeps the later ones in its
    heap: after the first version each vector of the model stays there as a hole, and a board pays for it all day.
    Call it late, in front of NumPy: that imports ``ctypes`` anyway, and an idle device goes without.
    """
    try:
        import ctypes  # noqa: PLC0415 - see above

        mallopt = ctypes.CDLL(None).mallopt
    except (ImportError, OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
