"""What a ``.tflite`` file can be asked to do: its signatures, and which variables the graphs behind them write.

For files that hold several of them, as those that learn do. ``checking.examine`` has to have passed a file before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from models.errors import TfliteError
from models.tflite.reading import Source, Table
from models.tflite.schema import TYPES_BY_NUMBER

ANY = -1
"""A size that is left open."""

_CUSTOM, _IF, _WHILE, _CALL_ONCE, _VAR_HANDLE, _ASSIGN_VARIABLE = 32, 118, 119, 129, 142, 144
"""``BuiltinOperator``."""

_OPTIONS = {_IF: 92, _WHILE: 93, _CALL_ONCE: 103, _VAR_HANDLE: 111}
"""``BuiltinOptions`` of each."""

_CALLED = {_IF: (0, 1), _WHILE: (0, 1), _CALL_ONCE: (0,)}
"""Which of the options are numbers of other graphs."""

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
    assigned: frozenset[str]
    """Variables that it gives values to, the first values (``CALL_ONCE``) left out."""


@dataclass(frozen=True, slots=True)
class _Graph:
    tensors: tuple[End, ...]
    assigned: frozenset[str]
    calls: tuple[int, ...]


def signatures_of(data: bytes) -> dict[str, Signature]:
    """Return the signatures by their keys; raise ``TfliteError`` for a file that contradicts itself."""
    root = Source(data).root()
    codes = _codes(root)
    subgraphs = root.tables(2)
    graphs = [_graph(table, codes, len(subgraphs)) for table in subgraphs]
    found: dict[str, Signature] = {}
    for table in root.tables(7):
        place = int(table.number(4, "uint32"))
        if (key := table.text(2)) in found:
            raise TfliteError(f"it has two signatures {key[:60]!r}")
        inputs, outputs = (_ends(table.tables(slot), graphs[place]) for slot in (0, 1))
        for what, ends in (("inputs", inputs), ("outputs", outputs)):
            if twice := [one.name for one, other in pairwise(ends) if one.name == other.name]:
                raise TfliteError(f"signature {key[:60]!r} has two {what} {twice[0][:60]!r}")
        found[key] = Signature(inputs, outputs, _assigned(graphs, place))
    return found


def custom_operators(data: bytes) -> tuple[str, ...]:
    """Return the names of the operators that are none of TFLite's own."""
    root = Source(data).root()
    pairs = zip(_codes(root), root.tables(1), strict=True)
    return tuple(sorted({table.text(1) or "without a name" for code, table in pairs if code == _CUSTOM}))


def _codes(root: Table) -> list[int]:
    # Numbers above 127 do not fit into the old field, and old files do not have the new one.
    return [int(max(table.number(0, "int8"), table.number(3, "int32"))) for table in root.tables(1)]


def _graph(table: Table, codes: Sequence[int], graphs: int) -> _Graph:
    handles: dict[int, str] = {}
    assigned: set[str] = set()
    calls: list[int] = []
    for node in table.tables(3):
        code = codes[node.number(0, "uint32")]
        options = node.table(4) if node.number(3, "uint8") == _OPTIONS.get(code) else None
        if code == _VAR_HANDLE:
            # The runtime takes both as a name, so both are read.
            named = "" if options is None else "/".join(filter(None, (options.text(0), options.text(1))))
            handles |= dict.fromkeys(_numbers(node, 2), named)
        elif code == _ASSIGN_VARIABLE:
            assigned |= {handles.get(tensor, "") for tensor in _numbers(node, 1)[:1]}
        elif options is not None and code in _CALLED:
            called = [int(options.number(slot, "int32")) for slot in _CALLED[code]]
            if not all(0 <= graph < graphs for graph in called):
                raise TfliteError(f"damaged .tflite file: an operator calls the graphs {called}, and it has {graphs}")
            calls += called if code != _CALL_ONCE else []
    return _Graph(tuple(_tensor(found) for found in table.tables(0)), frozenset(assigned), tuple(calls))


def _numbers(node: Table, slot: int) -> list[int]:
    return [int(number) for number in node.numbers(slot, "int32")]


def _tensor(table: Table) -> End:
    shape = table.numbers(7, "int32") if table.place(7, 4) else table.numbers(0, "int32")
    if any(size < ANY for size in shape):
        raise TfliteError(f"a tensor has the shape {[int(size) for size in shape][:8]}")
    number = table.number(1, "int8")
    known = TYPES_BY_NUMBER.get(number)
    kind = _OTHER_TYPES.get(number, f"type {number}") if known is None else known.name
    return End(table.text(3), tuple(int(size) for size in shape), kind)


def _ends(entries: Sequence[Table], graph: _Graph) -> tuple[End, ...]:
    found = []
    for entry in entries:
        tensor = graph.tensors[entry.number(1, "uint32")]
        found.append(End(entry.text(0), tensor.shape, tensor.type))
    return tuple(sorted(found, key=lambda end: end.name))


def _assigned(graphs: Sequence[_Graph], place: int) -> frozenset[str]:
    """Return what a graph assigns, and what those that it calls do."""
    seen, waiting, found = {place}, [place], set[str]()
    while waiting:
        graph = graphs[waiting.pop()]
        found |= graph.assigned
        fresh = set(graph.calls) - seen
        seen |= fresh
        waiting += fresh
    return frozenset(found)
