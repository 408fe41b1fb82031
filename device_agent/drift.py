"""What is kept to tell drift: the file's head, and what the worker is told. No NumPy."""

from __future__ import annotations

from msgspec import Struct

MAX_EXAMPLES = 256
MAX_REFERENCE_BYTES = 64 * 1024
"""Earlier examples that are kept: so many, or as many as fit, and at least ``models.drift.FEWEST``."""

MAX_JUDGED = 256
"""New examples at a time, the newest: a forward pass of so many is little beside a training."""

WRITE_S = 600.0
"""The file is written at most so often; drift that begins or is over is written at once."""

MAX_FILE_BYTES = 64 * 1024 * 1024
"""Where few examples are huge."""


class DriftSeen(Struct, frozen=True, kw_only=True):
    """What the new examples of a device say of its model."""

    drifting: bool = False
    judged: int = 0
    """Examples, ever."""
    alarms: int = 0
    error_new: float | None = None
    """Mean error (cross entropy, or squared error) of the new examples judged last."""
    error_earlier: float | None = None
    """Of earlier examples, by the same model."""


class DriftHead(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The head of the file ``drift``: the vectors are earlier examples, and those since drift began."""

    of: str
    """Digest of what examples mean; those of another model's inputs say nothing."""
    boundary: float | None = None
    """Place of the newest example that was looked at: a time, or the number of a row."""
    first: str = ""
    last: str = ""
    """Of a file: hashes of its first row, and of that at ``boundary``; a file with others is another one."""
    offered: int = 0
    """Held-out examples that were ever offered to be kept."""
    evidence: dict[str, float] = {}
    drifting: bool = False
    kind: str = ""
    judged: int = 0
    alarms: int = 0
    since_alarm: int = 0
    recent: list[float] = []
    recent_of_kind: list[float] = []
    error_new: float | None = None
    error_earlier: float | None = None
    arrays: dict[str, int]
    """Number of float32 of ``earlier`` and ``since``: rows of features with their targets."""
