"""What is told of an agent that systemd has given up: a state, on behalf of the process that cannot tell it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from protocol.printable import printable
from protocol.status import DeviceState

GIVEN_UP = "given up by systemd: "
"""Begins the reason of such a state, for programs to tell it from a stop that somebody wanted."""

MAX_WORD = 64

_UNIT = re.compile(r"fedmq-agent(?:@([A-Za-z0-9:_.\\-]+))?\.service")

_RESULTS = {
    "watchdog": "it hung, and the watchdog ended it",
    "oom-kill": "the machine or its limit was out of memory",
    "timeout": "it did not become ready, or did not end, in time",
    "protocol": "it ended before it was ready",
    "resources": "systemd could not start it",
    "start-limit-hit": "it failed too often",
}

_EXITS = {
    "1": "failed: disk, store, or another agent uses its state",
    "2": "wrong configuration, or a store that belongs to something else",
    "75": "its store is damaged",
    "78": "another agent has this device's identity",
    "200": "its folders are not to be had",
    "203": "its program cannot be run",
    "217": "its user is not there",
    "243": "its credentials are not to be had",
}
"""Exit statuses: our own, and those of systemd.exec(5) that an operator can mend."""


def configuration_of(unit: str) -> str | None:
    """Return the configuration file that this unit's agent runs with; None for what is no agent's unit."""
    found = _UNIT.fullmatch(unit)
    if found is None or found[1] in (".", ".."):
        return None
    return f"/etc/fedmq/{found[1]}/agent.toml" if found[1] else "/etc/fedmq/agent.toml"


def reason_of(environment: Mapping[str, str]) -> str:
    """Return what happened, from the variables that systemd 251 and newer sets for units of ``OnFailure=``."""
    result = _word(environment, "MONITOR_SERVICE_RESULT")
    status = _word(environment, "MONITOR_EXIT_STATUS")
    if result == "exit-code":
        told = f"exit code {status}"
        return GIVEN_UP + (f"{told} ({_EXITS[status]})" if status in _EXITS else told)
    if result in {"signal", "core-dump"}:
        return f"{GIVEN_UP}killed by SIG{status.removeprefix('SIG')}"
    return GIVEN_UP + _RESULTS.get(result, result or "it does not say why")


def last_words(device_id: str, version: int | None, environment: Mapping[str, str]) -> DeviceState:
    """Return the state to publish. It has no boot id: nobody was started."""
    return DeviceState(device_id=device_id, state="stopped", version=version, reason=reason_of(environment))


def _word(environment: Mapping[str, str], name: str) -> str:
    return printable(environment.get(name, ""))[:MAX_WORD]
