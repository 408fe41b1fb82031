"""What has to be said before NumPy is imported: how many threads, and what the allocator gives back."""

from __future__ import annotations

import os

_M_MMAP_THRESHOLD = -3
"""mallopt's number for it (malloc.h)."""
LARGE_BYTES = 65536


BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Each BLAS thread costs a buffer of megabytes and, on a board, the cores that the device's own work needs."""


def before_numpy() -> None:
    """Prepare the process for NumPy; whoever imports it first calls this. One BLAS thread, unless told otherwise."""
    for name in BLAS_THREADS:
        os.environ.setdefault(name, "1")
    give_back_large_blocks()


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
