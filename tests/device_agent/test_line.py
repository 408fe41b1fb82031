"""The line that people see in ``systemctl status``."""

from __future__ import annotations

import pytest

from device_agent.composing import line_of
from device_agent.lifecycle import Link
from protocol.status import DeviceState

STATE = DeviceState(device_id="a", state="training", boot="0" * 16, version=12)


@pytest.mark.parametrize(
    ("state", "waiting", "link", "expected"),
    [
        (STATE, 2, Link.UP, "version 12, training; 2 updates waiting; connected"),
        (STATE, 1, Link.DOWN, "version 12, training; 1 update waiting; no connection"),
        (
            DeviceState(device_id="a", state="sleeping", boot="0" * 16),
            0,
            Link.CLOSED,
            "no model yet, sleeping; 0 updates waiting; disconnected on purpose",
        ),
        (
            DeviceState(device_id="a", state="idle", boot="0" * 16, version=3, reason="paused by command"),
            0,
            Link.UP,
            "version 3, idle; 0 updates waiting; connected; paused by command",
        ),
    ],
)
def test_the_line_says_what_matters(state: DeviceState, waiting: int, link: Link, expected: str) -> None:
    assert line_of(state, waiting, link) == expected


def test_the_line_says_why_there_is_no_connection() -> None:
    assert line_of(STATE, 0, Link.DOWN, "the clock says 1970").endswith("no connection (the clock says 1970)")
    assert line_of(STATE, 0, Link.UP, "the clock says 1970").endswith("connected")
