"""Runs plug-ins: each in a thread of its own, started again when it ends, whatever it does."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from device_agent.sensing.intake import Intake
from device_agent.sensing.paths import look_up, parse_path
from device_agent.sensing.plugins import GROUP
from device_agent.sensing.rows import Moment, Row
from device_agent.sensing.values import Sent
from protocol.backoff import full_jitter
from protocol.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from device_agent.sensing.labelling import LabelBoard
    from device_agent.sensing.sources import PluginSource

log = logging.getLogger("fedmq.sensing")

AGAIN_MIN_S = 1.0
AGAIN_FIRST_S = 5.0
AGAIN_MAX_S = 600.0
LOOK_EVERY_S = 600.0
"""Whether a thread is alive; it says so itself when it ends."""

STEADY_S = 600.0
"""Who ran for so long had an accident, and is not made to wait for long."""

_RNG = random.Random()  # noqa: S311 - waits are no secret


class PluginError(Exception):
    """There is no such plug-in; the text says which there are."""


def load_plugin(name: str) -> Callable[[dict[str, Any]], Any]:
    """Return what the entry point names; raise ``PluginError``."""
    found = entry_points(group=GROUP)
    if name not in found.names:
        raise PluginError(f"no plug-in {name!r} is installed; there are: {', '.join(sorted(found.names)) or 'none'}")
    try:
        loaded: Callable[[dict[str, Any]], Any] = found[name].load()
    except Exception as exc:
        raise PluginError(f"the plug-in {name!r} cannot be loaded: {type(exc).__name__}: {exc}") from exc
    return loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What a plug-in's thread needs of those around it."""

    now: Callable[[], Moment]
    offer: Callable[[Intake, Callable[[Moment], Row | None]], bool]
    """Calls what it is given under the lock of all intakes, and takes the row that this leads to."""
    ended: Callable[[], None]
    """Has the sensing thread look at us."""


class PluginThread:
    """One ``plugin`` source. ``supervise`` is called by the sensing thread, the rest happens in the plug-in's own."""

    def __init__(self, name: str, table: PluginSource, board: LabelBoard, host: Host) -> None:
        self.name = name
        self.intake = Intake(name, table, board, host.now().monotonic_s)
        self.next_at = 0.0
        self._table = table
        self._paths = [parse_path(place) for place in table.fields.values()]
        self._host = host
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._ending = False
        self._failures = 0
        self._started_at = 0.0

    def supervise(self, now: float) -> None:
        """Start the thread, or start it again when its time has come."""
        if self._thread is not None and self._thread.is_alive():
            self.next_at = now + (AGAIN_MIN_S if self._ending else LOOK_EVERY_S)
            return
        if self._thread is not None:
            self._thread = None
            if now - self._started_at >= STEADY_S:
                self._failures = 0
            self.next_at = now + AGAIN_MIN_S + full_jitter(_RNG, self._failures, AGAIN_FIRST_S, AGAIN_MAX_S)
            self._failures += 1
            return
        self._started_at = now
        self._ending = False
        self.next_at = now + LOOK_EVERY_S
        self._thread = threading.Thread(target=self._run, name=f"source-{self.name}"[:15], daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask the plug-in to end. It is not waited for: one that does not listen must not keep the process."""
        self._stop.set()

    def _run(self) -> None:
        try:
            plugin = load_plugin(self._table.plugin)(dict(self._table.options))
            self.intake.trouble = ""
            plugin.run(self._emit, self._stop)
            why = "it has ended by itself"
        except PluginError as exc:
            why = str(exc)
        except BaseException as exc:  # noqa: BLE001 - whatever somebody else's code does, the agent lives on
            why = f"{type(exc).__name__}: {exc}"
        if not self._stop.is_set():
            self.intake.trouble = f"plug-in: {printable(why)}"[:160]
            log.warning("source %s: plug-in: %s; it is started again later", self.name, printable(why)[:400])
            # This thread may still be alive when it is looked at; then it is looked at again.
            self._ending = True
            self.next_at = 0.0
            self._host.ended()

    def _emit(self, values: Mapping[str, Any], *, time: Sent = None, label: Sent = None) -> bool:
        return self._host.offer(self.intake, lambda at: self._row(values, at, time, label))

    def _row(self, values: Sent, at: Moment, time: Sent, label: Sent) -> Row | None:
        intake = self.intake
        if not intake.allows(at.monotonic_s):
            return None
        try:
            document = dict(values)
            raws = [look_up(document, path) for path in self._paths]
            return intake.take(raws, at, time=time, label=label, where="emit")
        except Exception as exc:  # noqa: BLE001 - objects of somebody else's making can do anything when they are looked at
            intake.refuse(f"emit: {type(exc).__name__}", "emit")
            return None
