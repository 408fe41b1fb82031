"""Modules that a board pays for only when somebody uses them.

An import is memory for as long as the process lives. Some that the agent needs import others for a path that the agent
never takes: paho imports ``urllib.request`` for websockets through a proxy, and that brings ``http.client`` and the
``email`` package; ``pathlib`` imports ``urllib.parse`` to make URLs, and that ``ipaddress`` for addresses in brackets;
``dataclasses`` imports ``inspect`` for classes without a docstring; our settings import ``msgspec.inspect`` to put a
mistake into words. Together they are 4 MB of 28.

The standard library can wait with that (``importlib.util.LazyLoader``): the module is there at once, and is filled when
the first attribute of it is asked for, so whatever does need it finds it whole and nothing has to know.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib.machinery import PathFinder
from importlib.util import LazyLoader
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

SELDOM_USED = frozenset({"inspect", "ipaddress", "msgspec.inspect", "urllib.request"})
"""Only what one thread fills: before Python 3.12 a second one could see the module while it is being filled.

``import NAME`` fills a module that waits already, so only the first importer within the block is spared it.
"""

ARCHIVERS = frozenset({"bz2", "lzma", "shutil"})
"""What ``zipfile`` imports, and NumPy's own archives do without: half a megabyte."""


class _LateFinder:
    """Finds the modules named, and has them filled later; knows of no others."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._names:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


@contextmanager
def postponed(names: frozenset[str] = SELDOM_USED) -> Iterator[None]:
    """Have the modules of these names that the block is first to import filled on their first use, also after it."""
    finder = _LateFinder(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
