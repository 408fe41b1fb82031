"""Reading plain data that came from outside: every key is checked for type and range, and none is left over.

Specs and plans arrive from the network. A ``bool`` is an ``int`` and a NaN is a ``float`` to Python; this gate says no
to both, and its messages are short whatever was sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_SHOWN = 60
_INT64_BITS = 64
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)


class Fields:
    """One mapping, read key by key. Everything wrong with it raises ``error``, which names the key."""

    def __init__(self, data: object, what: str, error: type[ValueError]) -> None:
        self._what = what
        self._error = error
        if not isinstance(data, Mapping):
            raise error(f"{what}: found {describe(data)}, allowed is a table of keys")
        self._data: Mapping[Any, Any] = data
        self._read: list[str] = []

    def choice(self, key: str, allowed: Sequence[str], default: str | None = None) -> str:
        """Return the text at ``key``, one of ``allowed``."""
        found = self._get(key, default)
        if not isinstance(found, str) or found not in allowed:
            raise self.wrong(key, found, "one of " + ", ".join(repr(name) for name in allowed))
        return found

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """Return the integer at ``key``, from ``low`` to ``high``."""
        found = self._get(key, default)
        if not _is_integer(found, low, high):
            raise self.wrong(key, found, f"an integer from {low} to {high}")
        return int(found)

    def integers(
        self, key: str, low: int, high: int, most: int, *, fewest: int = 1, default: Sequence[int] | None = None
    ) -> tuple[int, ...]:
        """Return the list at ``key``: ``fewest`` to ``most`` integers from ``low`` to ``high``."""
        found = self._get(key, default)
        count = f"{fewest} to {most}" if fewest < most else f"{most}"
        allowed = f"a list of {count} integers from {low} to {high}"
        if not isinstance(found, list | tuple) or not fewest <= len(found) <= most:
            raise self.wrong(key, found, allowed)
        for entry in found:
            if not _is_integer(entry, low, high):
                raise self.wrong(key, entry, allowed)
        return tuple(found)

    def texts(
        self, key: str, most: int, longest: int, default: Sequence[str] | None = None, *, fewest: int = 1
    ) -> tuple[str, ...]:
        """Return the list at ``key``: ``fewest`` to ``most`` different texts of 1 to ``longest`` characters."""
        found = self._get(key, default)
        allowed = f"a list of {fewest} to {most} different texts of 1 to {longest} characters"
        if not isinstance(found, list | tuple) or not fewest <= len(found) <= most:
            raise self.wrong(key, found, allowed)
        for place, entry in enumerate(found):
            if not isinstance(entry, str) or not 1 <= len(entry) <= longest or entry in found[:place]:
                raise self.wrong(key, entry, allowed)
        return tuple(found)

    def truth(self, key: str, *, default: bool) -> bool:
        """Return the boolean at ``key``."""
        found = self._data.get(key, default)
        self._read.append(key)
        if not isinstance(found, bool):
            raise self.wrong(key, found, "true or false")
        return found

    def anything(self, key: str) -> object:
        """Return what is at ``key``, unchecked."""
        found: object = self._get(key, None)
        return found

    def has(self, key: str) -> bool:
        """Return whether the key is given."""
        return key in self._data

    def number(self, key: str, low: float, high: float, default: float | None = None, *, above: bool = False) -> float:
        """Return the number at ``key``, from ``low`` (not itself when ``above``) to ``high``."""
        found = self._get(key, default)
        is_number = isinstance(found, int | float) and not isinstance(found, bool)
        if not is_number or not low <= found <= high or (above and found == low):
            raise self.wrong(key, found, f"a number {'above' if above else 'from'} {low:g} {'up ' * above}to {high:g}")
        return float(found)

    def numbers(self, key: str, low: float, high: float, most: int) -> tuple[float, ...]:
        """Return the list at ``key``: at most ``most`` numbers above ``low``, up to ``high``; empty if not given."""
        found = self._get(key, ())
        allowed = f"a list of up to {most} numbers above {low:g} up to {high:g}"
        if not isinstance(found, list | tuple) or len(found) > most:
            raise self.wrong(key, found, allowed)
        for entry in found:
            if not isinstance(entry, int | float) or isinstance(entry, bool) or not low < entry <= high:
                raise self.wrong(key, entry, allowed)
        return tuple(float(entry) for entry in found)

    def text(self, key: str) -> str:
        """Return the text at ``key``."""
        found = self._get(key, None)
        if not isinstance(found, str):
            raise self.wrong(key, found, "a text")
        return found

    def table(self, key: str) -> Mapping[str, Any]:
        """Return the table at ``key``."""
        found = self._get(key, None)
        if not isinstance(found, Mapping):
            raise self.wrong(key, found, "a table")
        return found

    def sizes(self, key: str, low: int, high: int, axes: int, default: int | None = None) -> tuple[int, ...]:
        """Return one integer for each of ``axes``: a list of them, or one that holds for all."""
        found = self._get(key, default)
        if _is_integer(found, low, high):
            return (int(found),) * axes
        if isinstance(found, list | tuple) and len(found) == axes and all(_is_integer(one, low, high) for one in found):
            return tuple(found)
        several = f", or a list of {axes} of them" if axes > 1 else ""
        raise self.wrong(key, found, f"an integer from {low} to {high}{several}")

    def boolean(self, key: str, *, default: bool) -> bool:
        """Return the truth at ``key``."""
        found = self._get(key, default)
        if not isinstance(found, bool):
            raise self.wrong(key, found, "true or false")
        return found

    def name(self, key: str, default: str) -> str:
        """Return the name at ``key``: it becomes part of the names of parameters."""
        found = self._get(key, default)
        if not isinstance(found, str) or not _NAME.fullmatch(found):
            raise self.wrong(key, found, "a name of 1 to 32 characters a-z, 0-9 and _, beginning with a letter")
        return found

    def tables(self, key: str, most: int) -> list[Mapping[Any, Any]]:
        """Return the list at ``key``: 1 to ``most`` tables of keys."""
        found = self._get(key, None)
        if not isinstance(found, list | tuple) or not 1 <= len(found) <= most:
            raise self.wrong(key, found, f"a list of 1 to {most} tables")
        for entry in found:
            if not isinstance(entry, Mapping):
                raise self.wrong(key, entry, "a table in every place of the list")
        return list(found)

    def finish(self) -> None:
        """Refuse the keys that nobody asked for."""
        for key in self._data:
            if key not in self._read:
                allowed = ", ".join(repr(name) for name in self._read)
                raise self._error(f"{self._what}: unknown key {describe(key)}, allowed are {allowed}")

    def wrong(self, key: str, found: object, allowed: str) -> ValueError:
        """Return the error that says what was found at ``key`` and what is allowed there."""
        return self._error(f"{self._what}: {key} is {describe(found)}, allowed is {allowed}")

    def _get(self, key: str, default: object) -> Any:  # noqa: ANN401 - nothing is known of it yet
        self._read.append(key)
        if key in self._data:
            return self._data[key]
        if default is None:
            raise self._error(f"{self._what}: {key} is missing")
        return default


def describe(found: object) -> str:
    """Return a short text for any value: it goes into logs, and may have been made to hurt them."""
    if isinstance(found, str | bytes):
        return repr(found[:_SHOWN]) + ("..." if len(found) > _SHOWN else "")
    if isinstance(found, int) and found.bit_length() > _INT64_BITS:
        return f"an integer of {found.bit_length()} bits"
    if found is None or isinstance(found, bool | int | float):
        return repr(found)
    if isinstance(found, Mapping):
        return f"a table of {len(found)}"
    if isinstance(found, list | tuple):
        return f"a list of {len(found)}"
    return f"a {type(found).__name__}"[:_SHOWN]


def _is_integer(found: object, low: int, high: int) -> bool:
    return isinstance(found, int) and not isinstance(found, bool) and low <= found <= high
