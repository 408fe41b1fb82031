"""What is told of an agent that systemd has given up."""

from __future__ import annotations

import pytest

from device_agent.last_words import last_words, reason_of


@pytest.mark.parametrize(
    ("result", "status", "told"),
    [
        ("watchdog", "ABRT", "it hung, and the watchdog ended it"),
        ("exit-code", "2", "exit code 2 (wrong configuration, or a store that belongs to something else)"),
        ("exit-code", "99", "exit code 99"),
        ("signal", "KILL", "killed by SIGKILL"),
        ("core-dump", "SIGSEGV", "killed by SIGSEGV"),
        ("oom-kill", "KILL", "the machine or its limit was out of memory"),
        ("start-limit-hit", "1", "it failed too often"),
        ("something-new", "", "something-new"),
        ("", "", "it does not say why"),
        ("x\x1b[2J" * 1000, "", "x\\u001b[2J" * 1000),
    ],
)
def test_the_reason_is_for_people(result: str, status: str, told: str) -> None:
    environment = {"MONITOR_SERVICE_RESULT": result, "MONITOR_EXIT_STATUS": status}
    found = reason_of(environment)
    assert found == f"given up by systemd: {told}"[: len(found)]
    assert len(found) < 200


def test_the_state_is_of_nobody_who_was_started() -> None:
    state = last_words("press-07", 12, {})
    assert (state.state, state.boot, state.version) == ("stopped", "", 12)
