"""What the command line does: through the running aggregator where there is one, on the store where there is none."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Any

from aggregator.adapters.control import (
    CanaryRequest,
    ControlFailed,
    NotRunning,
    QuarantineRequest,
    RollbackRequest,
    StatusRequest,
    ask,
)
from aggregator.adapters.opening import open_store
from aggregator.adapters.preparing import Prepared
from aggregator.adapters.registry import StoreStatus, open_registry
from aggregator.commands import Reply, StoreCommand
from aggregator.core import AggregatorCore
from aggregator.events import CanaryAction, CanaryRequested, OperatorEvent, QuarantineRequested, RollbackRequested

OFFLINE = "offline"
"""Stands for the id of a request that nobody but ourselves waits for."""


def status(state_dir: Path) -> tuple[StoreStatus, dict[str, Any] | None, str]:
    """Return what the store says, the running aggregator's figures (None without one), and why they are missing."""
    with open_registry(state_dir) as registry:
        stored = registry.status()
    try:
        return stored, ask(state_dir, StatusRequest()), ""
    except NotRunning:
        return stored, None, "not running"
    except ControlFailed as exc:
        return stored, None, str(exc)


def roll_back(prepared: Prepared, version: int) -> dict[str, Any]:
    """Make a new version with the parameters of an older one; return what was done.

    Raise ``ControlFailed`` when that cannot be, with the reason; ``NotKept``, ``StoreInUse``, ``StoreError``.
    """
    try:
        return ask(prepared.state_dir, RollbackRequest(version=version))
    except NotRunning:
        return _roll_back_offline(prepared, version)


def _roll_back_offline(prepared: Prepared, version: int) -> dict[str, Any]:
    with open_registry(prepared.state_dir) as registry:
        parameters = registry.parameters(version)
    return _offline(prepared, RollbackRequested(request_id=OFFLINE, target=version, parameters=parameters))


def quarantine(prepared: Prepared, device_id: str, reason: str) -> dict[str, Any]:
    """Put a device into quarantine, or (``reason`` empty) release it; return what was done.

    Raise ``ControlFailed`` when that cannot be, with the reason; ``StoreInUse``, ``StoreError``.
    """
    try:
        return ask(prepared.state_dir, QuarantineRequest(device=device_id, reason=reason))
    except NotRunning:
        return _offline(prepared, QuarantineRequested(request_id=OFFLINE, device_id=device_id, reason=reason))


def decide(prepared: Prepared, action: CanaryAction) -> dict[str, Any]:
    """Publish or withdraw the candidate; return what was done.

    Raise ``ControlFailed`` when there is none, or that cannot be; ``StoreInUse``, ``StoreError``.
    """
    try:
        return ask(prepared.state_dir, CanaryRequest(action=action))
    except NotRunning:
        return _offline(prepared, CanaryRequested(request_id=OFFLINE, action=action))


def _offline(prepared: Prepared, event: OperatorEvent) -> dict[str, Any]:
    """Do on the store what the aggregator would do, were it running."""
    store = open_store(prepared.state_dir, prepared.founding, prepared.settings.registry)
    try:
        core = AggregatorCore(
            prepared.settings,
            prepared.model,
            store.restore(),
            secrets.token_hex(8),
            prepared.evaluate,
            keys=prepared.keys,
            carried=prepared.carried,
        )
        commands = [*core.handle(event, time.monotonic(), time.time()), *core.checkpoint()]
        store.apply([command for command in commands if isinstance(command, StoreCommand)])
    finally:
        store.close()
    reply = next(command for command in commands if isinstance(command, Reply))
    if reply.error:
        raise ControlFailed(reply.error)
    return reply.body
