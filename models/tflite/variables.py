"""Which variables the graphs of a ``.tflite`` file read and write, and which of them it gives first values.

``checking.examine`` has to have passed a file before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from models.errors import TfliteError
from models.tflite.reading import Bytes, Source, Table

CUSTOM = 32
"""``BuiltinOperator``, as are those below."""

_IF, _WHILE, _CALL_ONCE, _VAR_HANDLE, _READ_VARIABLE, _ASSIGN_VARIABLE = 118, 119, 129, 142, 143, 144

_OPTIONS = {_IF: 92, _WHILE: 93, _CALL_ONCE: 103, _VAR_HANDLE: 111}
"""``BuiltinOptions`` of each."""

_CALLED = {_IF: (0, 1), _WHILE: (0, 1), _CALL_ONCE: (0,)}
"""Which of the options are numbers of other graphs."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a graph does with variables, by itself and by the graphs that it calls. Names; empty where it is unknown."""

    assigned: frozenset[str] = frozenset()
    """Are given values, the first values (``CALL_ONCE``) left out."""
    read: frozenset[str] = frozenset()
    """Are read, and not because the same graph has assigned them just before."""
    begun: frozenset[str] = frozenset()
    """Are given first values."""


@dataclass(frozen=True, slots=True)
class _Graph:
    own: Access
    calls: tuple[int, ...]
    once: tuple[int, ...]


def operators_of(root: Table) -> list[int]:
    """Return the numbers of the operators that the file lists."""
    # Numbers above 127 do not fit into the old field, and old files do not have the new one.
    return [int(max(table.number(0, "int8"), table.number(3, "int32"))) for table in root.tables(1)]


def accesses(root: Table) -> list[Access]:
    """Return what each graph does; raise ``TfliteError`` for a file that contradicts itself."""
    codes, tables = operators_of(root), root.tables(2)
    graphs = [_graph(table, codes, len(tables)) for table in tables]
    return [_access(graphs, place) for place in range(len(graphs))]


def main_access(data: Bytes) -> Access:
    """Return what the first graph does."""
    return accesses(Source(data).root())[0]


def _graph(table: Table, codes: Sequence[int], graphs: int) -> _Graph:
    handles: dict[int, str] = {}
    assigned: set[str] = set()
    read: set[str] = set()
    calls: dict[bool, list[int]] = {True: [], False: []}
    for node in table.tables(3):
        code = codes[node.number(0, "uint32")]
        options = node.table(4) if node.number(3, "uint8") == _OPTIONS.get(code) else None
        if code == _VAR_HANDLE:
            # The runtime takes both as a name, so both are read.
            named = "" if options is None else "/".join(filter(None, (options.text(0), options.text(1))))
            handles |= dict.fromkeys(_numbers(node, 2), named)
        elif code == _ASSIGN_VARIABLE:
            assigned |= {handles.get(tensor, "") for tensor in _numbers(node, 1)[:1]}
        elif code == _READ_VARIABLE:
            read |= {handles.get(tensor, "") for tensor in _numbers(node, 1)[:1]} - assigned
        elif options is not None and code in _CALLED:
            called = [int(options.number(slot, "int32")) for slot in _CALLED[code]]
            if not all(0 <= graph < graphs for graph in called):
                raise TfliteError(f"damaged .tflite file: an operator calls the graphs {called}, and it has {graphs}")
            calls[code == _CALL_ONCE] += called
    return _Graph(Access(frozenset(assigned), frozenset(read)), tuple(calls[False]), tuple(calls[True]))


def _numbers(node: Table, slot: int) -> list[int]:
    return [int(number) for number in node.numbers(slot, "int32")]


def _access(graphs: Sequence[_Graph], place: int) -> Access:
    reached = [graphs[one] for one in _reached((place,), lambda one: graphs[one].calls)]
    beginnings = _reached((one for graph in reached for one in graph.once), lambda one: graphs[one].calls)
    return Access(
        assigned=frozenset().union(*(graph.own.assigned for graph in reached)),
        read=frozenset().union(*(graph.own.read for graph in reached)),
        begun=frozenset().union(*(graphs[one].own.assigned for one in beginnings)),
    )


def _reached(begin: Iterable[int], leads_to: Callable[[int], Iterable[int]]) -> set[int]:
    """Return all places to which there is a way: a list, for a file may have its graphs call each other in circles."""
    waiting = list(begin)
    seen: set[int] = set()
    while waiting:
        place = waiting.pop()
        if place not in seen:
            seen.add(place)
            waiting += leads_to(place)
    return seen
