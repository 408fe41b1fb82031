"""Tells the federation that systemd has given up an agent. The failure unit starts it; it ends within seconds."""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import time
from pathlib import Path
from typing import TYPE_CHECKING

from device_agent.adapters.model_cache import CacheError, ModelCache, read_model
from device_agent.adapters.store import LOCK_NAME
from device_agent.double import EXIT_TWICE
from device_agent.last_words import configuration_of, last_words
from device_agent.settings import AgentSettings
from protocol.adapters.configuration import ConfigurationError, load
from protocol.adapters.mqtt import MqttLink
from protocol.link import LinkDown, LinkUp, Published
from protocol.status import encode_status
from protocol.topics import Topics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from protocol.link import LinkEvent

log = logging.getLogger("fedmq.agent")

PATIENCE_S = 20.0
"""For all of it. The broker is there within that, or the journal has to do."""

ANSWERED = "last"


def tell(
    unit: str,
    config: Path | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
    patience_s: float = PATIENCE_S,
) -> int:
    """Publish what happened to this unit; return the exit code: 0 when it was told, or nothing had to be."""
    found = config or configuration_of(unit)
    if found is None:
        return 0  # an aggregator: its will says offline, and the journal has the rest
    try:
        why_not = _told(load(Path(found), AgentSettings), environment, patience_s)
    except ConfigurationError as exc:
        why_not = str(exc)
    if why_not:
        log.warning("the federation was not told unit=%s: %s", unit, why_not)
        return 1
    log.info("the federation was told unit=%s", unit)
    return 0


def _told(settings: AgentSettings, environment: Mapping[str, str], patience_s: float) -> str:
    """Publish; return "" or why not."""
    if environment.get("MONITOR_EXIT_STATUS") == str(EXIT_TWICE):
        return "another agent has this identity, and speaks for it"
    state_dir = Path(settings.device.state_dir)
    if _in_use(state_dir):
        return "an agent runs with this state, and speaks for itself"
    device = settings.device
    topic = Topics(device.federation).device_state(device.id)
    payload = encode_status(last_words(device.id, _version(state_dir), environment))
    events: queue.SimpleQueue[LinkEvent] = queue.SimpleQueue()

    def deliver(event: LinkEvent) -> bool:
        events.put(event)
        return True

    # By the agent's client id: should the broker not have noticed yet that the agent is gone, it closes that connection
    # now and publishes its will before anything of ours.
    link = MqttLink(settings.broker, f"fedmq-{device.federation}-{device.id}", deliver)
    link.start()
    try:
        return _published(link, events, (topic, payload), patience_s)
    finally:
        link.stop()


def _published(
    link: MqttLink, events: queue.SimpleQueue[LinkEvent], message: tuple[str, bytes], patience_s: float
) -> str:
    deadline = time.monotonic() + patience_s
    why_not = f"no connection within {patience_s:g} s"
    while (left_s := deadline - time.monotonic()) > 0:
        try:
            event = events.get(timeout=left_s)
        except queue.Empty:
            break
        match event:
            case LinkUp():
                link.publish(*message, retain=True, token=ANSWERED)
            case LinkDown():
                why_not = event.reason
            case Published(error=""):
                return ""
            case Published():
                why_not = event.error
    return why_not


def _version(state_dir: Path) -> int | None:
    try:
        with ModelCache(state_dir).open() as file:
            return read_model(file)[0].version
    except CacheError:
        return None


def _in_use(state_dir: Path) -> bool:
    """Return whether an agent holds the lock of this state: one that somebody started by hand, say."""
    try:
        with (state_dir / LOCK_NAME).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # no state, no agent
    return False
