"""Nothing that comes from outside steers a terminal, or forges a line of a log."""

from __future__ import annotations

import io
import logging

import msgpack
import pytest
from rich.console import Console

from aggregator.adapters.registry import StoreStatus
from aggregator.adapters.tables import status_table
from aggregator.records import Counters, DeviceRecord
from protocol.adapters.logs import JournalFormatter, PlainFormatter
from protocol.errors import ProtocolError
from protocol.packing import decode_up
from protocol.printable import printable

EVIL = "\x1b[2J\x9b31m\x07\nlevel=error forged\r\u202e"


def test_what_steers_is_escaped_and_the_rest_stays() -> None:
    assert printable("Tür 7: 温度 ok") == "Tür 7: 温度 ok"
    assert printable(EVIL) == r"\u001b[2J\u009b31m\u0007\u000alevel=error forged\u000d\u202e"
    assert printable("\U000e0041") == r"\U000e0041"


def test_a_field_of_a_message_that_is_called_like_an_escape_sequence() -> None:
    with pytest.raises(ProtocolError, match=r"unknown field `\\u001b\[2J") as refused:
        decode_up(msgpack.packb({"type": "probe", EVIL: 1}))
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("formatter", [JournalFormatter(), PlainFormatter()])
def test_both_logs(formatter: logging.Formatter) -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "it said %s", (EVIL,), None)
    assert formatter.format(record).isprintable()
    fault = ValueError(EVIL.replace("\n", ""))
    record.exc_info = (ValueError, fault, None)
    assert all(line.isprintable() for line in formatter.format(record).split("\n"))


def test_the_reason_of_a_quarantine_in_the_status() -> None:
    """A device chooses words in it: names of fields that no message has."""
    device = DeviceRecord(device_id="evil", quarantined=f"8 updates refused: `[/bold] [red]{EVIL}`")
    stored = StoreStatus(
        federation="test", epoch="0" * 16, version=0, metrics={}, buffered=0, counters=Counters(), devices=(device,)
    )
    shown = io.StringIO()
    Console(file=shown, force_terminal=True, color_system=None, width=200).print(
        status_table(stored, None, "not running", 20, 0.0)
    )
    assert "[/bold] [red]" in shown.getvalue()
    assert "\x1b[2J" not in shown.getvalue()
    assert "\x9b" not in shown.getvalue()
