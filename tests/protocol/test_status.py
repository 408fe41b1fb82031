"""States and metrics are bounded where they are read: JSON's numbers are not."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from protocol.errors import ProtocolError
from protocol.status import AggregatorMetrics, AggregatorState, DeviceMetrics, DeviceState, decode_status

WHOLE = {"device_id": "press-07", "state": "idle", "federation": "f", "epoch": "e", "instance": "i", "status": "online"}
TYPES = (AggregatorState, AggregatorMetrics, DeviceState, DeviceMetrics)
NUMBERS = [
    (wanted, field.name)
    for wanted in TYPES
    for field in msgspec.structs.fields(wanted)
    if isinstance(field.default, int | float) or "None" in str(field.type)
]


@pytest.mark.parametrize(("wanted", "name"), NUMBERS)
@pytest.mark.parametrize("value", [2**63, 2**64, 10**400, -1, -(2**70)])
def test_no_number_is_read_that_could_not_be_stored(wanted: Any, name: str, value: int) -> None:
    try:
        status = decode_status(json.dumps({**WHOLE, name: value}).encode(), wanted)
    except ProtocolError:
        return
    read = getattr(status, name)
    assert isinstance(read, float), name
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(read)) == read


@pytest.mark.parametrize("name", ["holdout_accuracy", "holdout_accuracy_before"])
def test_accuracies_are_shares(name: str) -> None:
    assert getattr(decode_status(json.dumps({name: 1.0}).encode(), DeviceMetrics), name) == 1.0
    with pytest.raises(ProtocolError):
        decode_status(json.dumps({name: 1.5}).encode(), DeviceMetrics)


def test_counts_by_name_are_bounded() -> None:
    with pytest.raises(ProtocolError):
        decode_status(json.dumps({"refusals": {"replayed": 2**64}}).encode(), DeviceMetrics)
    with pytest.raises(ProtocolError):
        decode_status(json.dumps({"refusals": {str(n): 1 for n in range(300)}}).encode(), DeviceMetrics)
