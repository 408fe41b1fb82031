"""``fedmq monitor``: watches any running federation by its topics alone."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import msgspec

from fedmq.display import display_for
from fedmq.table import Caption, fleet_table, waiting_text
from fedmq.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from fedmq.fleet import FleetView
    from protocol.link import BrokerSettings

POLL_S = 0.25
ANSWER_S = 20.0
"""So long a broker may take to answer before listening begins all the same."""
PLAIN_WIDTH = 100
"""Where there is no terminal, whose width could be asked."""
TALL = 10_000
"""More lines than there are devices: a table that is printed once has room for all."""


class NothingHeardError(RuntimeError):
    """No connection, or a federation that says nothing; the message tells which."""


def watch(broker: BrokerSettings, federation: str, console: Console, interrupted: Callable[[], bool]) -> None:
    """Show the fleet until interrupted."""
    watcher = Watcher(broker, federation)
    started = time.monotonic()
    watcher.start()
    try:
        with display_for(console) as display:
            while not interrupted():
                watcher.poll(POLL_S)
                now = time.monotonic()
                caption = Caption(broker=f"{broker.host}:{broker.port}", note=_note(watcher))
                display.show(watcher.view, caption, now - started, now)
    finally:
        watcher.stop()


def look(broker: BrokerSettings, federation: str, seconds: float) -> tuple[FleetView, float]:
    """Listen for so many seconds; return what was heard, and when that was by the view's clock.

    They begin when the broker has taken the subscriptions, or the first attempt to reach it has failed.
    """
    watcher = Watcher(broker, federation)
    watcher.start()
    deadline = time.monotonic() + ANSWER_S
    try:
        while not (watcher.subscribed or watcher.problem) and time.monotonic() < deadline:
            watcher.poll(POLL_S / 5)
        watcher.poll(seconds)
    finally:
        watcher.stop()
    summary = watcher.view.summary()
    if not watcher.connected:
        raise NothingHeardError(f"no connection to {broker.host}:{broker.port}: {watcher.problem or 'no answer yet'}")
    if summary.online is None and not summary.devices:
        raise NothingHeardError(f"nobody speaks of federation {federation!r} on {broker.host}:{broker.port}")
    return watcher.view, time.monotonic()


def print_once(view: FleetView, now: float, broker: BrokerSettings, console: Console) -> None:
    """Print the table once, with all devices."""
    if not console.is_terminal:
        console.width = PLAIN_WIDTH  # it would take 80 otherwise, and cut off what does not fit
    width = console.width
    caption = Caption(broker=f"{broker.host}:{broker.port}")
    console.print(fleet_table(view.summary(), view.rows(now), caption, width=width, height=TALL), width=width)


def snapshot(view: FleetView, now: float) -> dict[str, Any]:
    """Return everything that is known, for ``--json``."""
    summary = view.summary()
    return {
        "federation": summary.federation,
        "aggregator": {None: "unknown", True: "online", False: "offline"}[summary.online],
        "version": summary.version,
        "accuracy": summary.accuracy,
        "metrics": msgspec.to_builtins(summary.metrics),
        "states": summary.states,
        "devices": [asdict(row) for row in view.rows(now)],
        "devices_unlisted": summary.unlisted,
    }


def _note(watcher: Watcher) -> str:
    if not watcher.connected:
        return f"waiting for the broker: {watcher.problem}" if watcher.problem else "connecting ..."
    return waiting_text(watcher.view.summary())
