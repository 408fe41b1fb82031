"""What a ``.tflite`` file can be asked to do: its signatures, and what those do with variables.

For files that hold several of them, as those that learn do. ``checking.examine`` has to have passed a file before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from models.errors import TfliteError
from models.tflite.reading import Bytes, Source, Table
from models.tflite.schema import TYPES_BY_NUMBER
from models.tflite.variables import CUSTOM, Access, accesses, operators_of

ANY = -1
"""A size that is left open."""

_OTHER_TYPES = {5: "string", 13: "resource", 14: "variant"}


@dataclass(frozen=True, slots=True)
class End:
    """What a signature takes or gives under one name."""

    name: str
    shape: tuple[int, ...]
    """``ANY`` for sizes that are left open."""
    type: str
    """As NumPy names it, or ``string``."""

    def __str__(self) -> str:
        sizes = ", ".join("any" if size == ANY else str(size) for size in self.shape)
        return f"{ascii(self.name[:60])[1:-1]}: {self.type} ({sizes})"


@dataclass(frozen=True, slots=True)
class Signature:
    """One thing that the file can be asked to do. Ends are in the order of their names."""

    inputs: tuple[End, ...]
    outputs: tuple[End, ...]
    variables: Access


def signatures_of(data: Bytes) -> dict[str, Signature]:
    """Return the signatures by their keys; raise ``TfliteError`` for a file that contradicts itself."""
    root = Source(data).root()
    does = accesses(root)
    graphs = [[_tensor(found) for found in table.tables(0)] for table in root.tables(2)]
    found: dict[str, Signature] = {}
    for table in root.tables(7):
        place = int(table.number(4, "uint32"))
        if (key := table.text(2)) in found:
            raise TfliteError(f"it has two signatures {key[:60]!r}")
        inputs, outputs = (_ends(table.tables(slot), graphs[place]) for slot in (0, 1))
        for what, ends in (("inputs", inputs), ("outputs", outputs)):
            if twice := [one.name for one, other in pairwise(ends) if one.name == other.name]:
                raise TfliteError(f"signature {key[:60]!r} has two {what} {twice[0][:60]!r}")
        found[key] = Signature(inputs, outputs, does[place])
    return found


def custom_operators(data: Bytes) -> tuple[str, ...]:
    """Return the names of the operators that are none of TFLite's own. Any bytes may be given: ``TfliteError``."""
    root = Source(data).root()
    pairs = zip(operators_of(root), root.tables(1), strict=True)
    return tuple(sorted({table.text(1) or "without a name" for code, table in pairs if code == CUSTOM}))


def _tensor(table: Table) -> End:
    shape = table.numbers(7, "int32") if table.place(7, 4) else table.numbers(0, "int32")
    if any(size < ANY for size in shape):
        raise TfliteError(f"a tensor has the shape {[int(size) for size in shape][:8]}")
    number = table.number(1, "int8")
    known = TYPES_BY_NUMBER.get(number)
    kind = _OTHER_TYPES.get(number, f"type {number}") if known is None else known.name
    return End(table.text(3), tuple(int(size) for size in shape), kind)


def _ends(entries: Sequence[Table], tensors: Sequence[End]) -> tuple[End, ...]:
    found = []
    for entry in entries:
        tensor = tensors[entry.number(1, "uint32")]
        found.append(End(entry.text(0), tensor.shape, tensor.type))
    return tuple(sorted(found, key=lambda end: end.name))
