"""What a plug-in is: the contract for those who write one (see docs/plugins.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from device_agent.sensing.values import Sent

GROUP = "fedmq.sources"
"""The group of entry points."""


class Emit(Protocol):
    """How a plug-in hands over what it measured. From any thread; never blocks, never raises."""

    def __call__(self, values: Mapping[str, Any], *, time: Sent = None, label: Sent = None) -> bool:
        """Take one row; return whether it was taken.

        ``values``: what ``fields`` in the configuration finds its channels in. ``time``: ISO 8601, or seconds since
        1970; left out: now. ``label``: a number, or a text that is in ``labels``. False: refused (and counted), or too
        many.
        """
        ...


class Stop(Protocol):
    """When to end; a ``threading.Event`` is one."""

    def is_set(self) -> bool:
        """Return whether ``run`` has to return now."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until then, at most ``timeout`` seconds; return whether it is time to end."""
        ...


class SourcePlugin(Protocol):
    """What the entry point makes when it is called with the table ``options`` of the configuration."""

    def run(self, emit: Emit, stop: Stop) -> None:
        """Measure and ``emit`` until ``stop``. In a thread of its own; an exception is logged, and it is run again."""
        ...
