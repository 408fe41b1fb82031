"""All parameters of a model in one flat float32 vector, and the names and shapes of its parts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]

Entry: TypeAlias = tuple[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Layout:
    r"""Names and shapes of the parts of a flat vector, in the order in which they follow each other (C order each).

    Names are ``<group>.<part>``, as in ``dense0.weight``. Two vectors can be added when their layouts have the same
    ``digest``: SHA-256, lower-case hexadecimal, of the ASCII text ``"fedmq layout 1\n"`` and, for every entry, its
    line ``"<name> <dimension>x<dimension>...\n"``.
    """

    entries: tuple[Entry, ...]
    size: int = field(init=False)
    """Number of values in the vector."""
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        names = [name for name, _ in self.entries]
        if len(set(names)) != len(names):
            raise ValueError(f"a name occurs twice in {names}")
        lines = [f"{name} {'x'.join(map(str, shape))}\n" for name, shape in self.entries]
        text = "fedmq layout 1\n" + "".join(lines)
        object.__setattr__(self, "size", sum(math.prod(shape) for _, shape in self.entries))
        object.__setattr__(self, "digest", hashlib.sha256(text.encode("ascii")).hexdigest())

    @property
    def slices(self) -> dict[str, slice]:
        """Where each entry lies in the vector, by name."""
        found: dict[str, slice] = {}
        start = 0
        for name, shape in self.entries:
            stop = start + math.prod(shape)
            found[name] = slice(start, stop)
            start = stop
        return found

    def views(self, vector: FloatArray) -> dict[str, FloatArray]:
        """Return every entry as a view of ``vector``, in its shape: writing to one writes to the other."""
        self.check(vector)
        slices = self.slices
        return {name: vector[slices[name]].reshape(shape) for name, shape in self.entries}

    def check(self, vector: FloatArray) -> None:
        """Raise ``ValueError`` unless ``vector`` is float32, one-dimensional, contiguous and of this size."""
        if vector.dtype != np.float32 or vector.shape != (self.size,) or not vector.flags.c_contiguous:
            raise ValueError(
                f"found {vector.dtype} of shape {vector.shape}, wanted contiguous float32 of ({self.size},)"
            )


def join(parts: Iterable[tuple[Entry, ...]]) -> Layout:
    """Return the layout of parts that follow each other."""
    return Layout(tuple(entry for part in parts for entry in part))
