"""Standard output whose reader has gone, as in ``... | head -1``: the end of the program, and nobody's fault."""

from __future__ import annotations

import os
import select
import sys
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_T = TypeVar("_T")

EXIT_NO_READER = 141
"""What a shell says of programs that SIGPIPE ends. That signal stays off: a lost connection would raise it, too."""


def quiet_without_reader(main: Callable[_P, _T]) -> Callable[_P, _T]:
    """Have a command end without a word, with ``EXIT_NO_READER``, when nobody reads any more what it says."""

    @wraps(main)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            try:
                return main(*args, **kwargs)
            finally:
                sys.stdout.flush()  # here, and not at the end of the interpreter, which would complain
        except BrokenPipeError:
            if not _reader_is_gone():
                raise
            _discard()
            raise SystemExit(EXIT_NO_READER) from None

    return run


def _reader_is_gone() -> bool:
    try:
        watch = select.poll()
        watch.register(sys.stdout.fileno(), 0)  # errors are told unasked
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in watch.poll(0))
    except (OSError, ValueError):
        return False


def _discard() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
