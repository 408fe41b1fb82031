"""How a run is shown: as a live table in a terminal, as plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from rich.live import Live

from fedmq.table import fleet_table, plain_line

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from rich.console import Console

    from fedmq.fleet import FleetView
    from fedmq.table import Caption

PLAIN_EVERY_S = 5.0
REFRESH_PER_S = 4.0


class Display(Protocol):
    """Shows a fleet again and again; a context manager around the time in which it does."""

    def say(self, text: str) -> None:
        """Tell something that happened."""

    def show(self, view: FleetView, caption: Caption, elapsed_s: float, now: float) -> None:
        """Show the fleet as it is ``now``, by the clock of the view."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last picture standing."""


class LiveDisplay:
    """A table that is drawn over and over in the same place."""

    def __init__(self, console: Console) -> None:
        self.console = console
        # Not rich's own refresh thread: who starts processes should have as few threads as possible.
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")
        self._next = 0.0

    def say(self, text: str) -> None:
        """Print above the table."""
        self.console.print(text, highlight=False, markup=False)

    def show(self, view: FleetView, caption: Caption, elapsed_s: float, now: float) -> None:  # noqa: ARG002 - see Display
        """Draw the table, at most ``REFRESH_PER_S`` times a second."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 1.0 / REFRESH_PER_S
        width, height = self.console.size
        self._live.update(
            fleet_table(view.summary(), view.rows(now), caption, width=width, height=height), refresh=True
        )

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last table standing."""
        self._live.stop()


class PlainDisplay:
    """A line every few seconds."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._next_s = PLAIN_EVERY_S

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, view: FleetView, caption: Caption, elapsed_s: float, now: float) -> None:  # noqa: ARG002 - see Display
        """Print a line, every ``PLAIN_EVERY_S`` seconds."""
        if elapsed_s >= self._next_s:
            self._next_s = elapsed_s + PLAIN_EVERY_S
            summary = view.summary()
            nothing_yet = summary.version is None and caption.note
            self.say(f"{elapsed_s:4.0f} s   {caption.note}" if nothing_yet else plain_line(summary, elapsed_s))

    def __enter__(self) -> Self:
        """Do nothing."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""


def display_for(console: Console) -> Display:
    """Return the display that suits where the console writes to."""
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)
