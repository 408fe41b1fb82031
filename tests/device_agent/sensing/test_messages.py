"""Messages as the usual senders make them, and garbage."""

from __future__ import annotations

import math
from typing import Any

import pytest

from device_agent.sensing.labelling import LabelBoard
from device_agent.sensing.messages import MAX_PAYLOAD_BYTES, MessageReader
from device_agent.sensing.rows import Moment, Row, Stretch
from device_agent.sensing.sources import MqttSource

AT = Moment(100.0, 1_780_000_000.0)

ZIGBEE = b'{"battery":91,"humidity":45.12,"linkquality":120,"pressure":1013,"temperature":21.43,"voltage":2985}'
ZIGBEE_CONTACT = b'{"battery":100,"contact":false,"linkquality":60,"tamper":null}'
TASMOTA = b'{"Time":"2026-05-28T20:26:40Z","DS18B20-1":{"Id":"0316","Temperature":23.1},"TempUnit":"C"}'
TASMOTA_ENERGY = (
    b'{"Time":"2026-05-28T20:26:40Z","ENERGY":{"Total":3.1,"Power":[12,7],"Factor":0.9,"Voltage":231},"UptimeSec":5}'
)
TASMOTA_DEAD = b'{"Time":"2026-05-28T20:26:40Z","DS18B20-1":{"Id":"0316","Temperature":null}}'
STATESTREAM = b"21.5"
SHELLY = b'{"id":0,"aenergy":{"by_minute":[1.5,2.5,3.5],"minute_ts":1779999999},"apower":51.2,"output":true}'


def reader(board: LabelBoard | None = None, **table: Any) -> MessageReader:
    return MessageReader("press", MqttSource(**table), board or LabelBoard(), AT.monotonic_s)


def one(table: dict[str, Any], payload: bytes, topic: str = "t") -> Row:
    found = reader(**({"topics": ["#"]} | table)).read(topic, payload, AT)
    assert len(found) == 1
    assert isinstance(found[0], Row)
    return found[0]


@pytest.mark.parametrize(
    ("fields", "payload", "values"),
    [
        ({"t": "temperature", "h": "humidity"}, ZIGBEE, (21.43, 45.12)),
        ({"open": "contact", "x": "tamper"}, ZIGBEE_CONTACT, (0.0, math.nan)),
        ({"t": "DS18B20-1.Temperature"}, TASMOTA, (23.1,)),
        ({"a": "ENERGY.Power[0]", "b": "ENERGY.Power[1]", "c": "ENERGY.Power[2]"}, TASMOTA_ENERGY, (12, 7, math.nan)),
        ({"v": "$"}, STATESTREAM, (21.5,)),
        ({"v": "$"}, b"ON", (1.0,)),
        ({"v": "$"}, b" 7 \n", (7.0,)),
        ({"v": "$"}, b'"21.5"', (21.5,)),
        ({"p": "apower", "m": "aenergy.by_minute[1]", "on": "output"}, SHELLY, (51.2, 2.5, 1.0)),
        ({"v": "[1][0]"}, b"[[1,2],[3,4]]", (3.0,)),
    ],
)
def test_payloads_of_each_style(fields: dict[str, str], payload: bytes, values: tuple[float, ...]) -> None:
    row = one({"fields": fields}, payload)
    assert row.values == pytest.approx(values, nan_ok=True)
    assert row.channels == tuple(fields)
    assert (row.time, row.source) == (AT.wall_s, "press")
    assert math.isnan(row.label)
    assert row.arrived is None


def test_the_senders_time_is_taken_where_it_is_named() -> None:
    row = one({"fields": {"t": "DS18B20-1.Temperature"}, "time": "Time"}, TASMOTA)
    assert row.time == 1_780_000_000.0
    assert one({"fields": {"p": "apower"}, "time": "aenergy.minute_ts"}, SHELLY).time == 1_779_999_999.0


def test_while_the_clock_is_not_set_a_row_remembers_when_it_came() -> None:
    made = reader(topics=["#"], fields={"v": "$"})
    (row,) = made.read("t", b"1", Moment(55.0, 12.0, clock_set=False))
    assert isinstance(row, Row)
    assert row.arrived == 55.0


@pytest.mark.parametrize(
    ("table", "payload", "refused"),
    [
        ({}, b"{", {"no JSON": 1}),
        ({}, b'{"temperature":21', {"no JSON": 1}),
        ({}, b"\xff\xfe", {"no JSON": 1}),
        ({}, b"[" * 20_000, {"no JSON": 1}),
        ({}, b"word " * 100, {"no JSON": 1}),
        ({}, b"1" * (MAX_PAYLOAD_BYTES + 1), {"too large": 1}),
        ({}, b"", {"empty": 1}),
        ({}, b"unavailable", {"nothing in it": 1}),
        ({}, b'{"humidity":4}', {"nothing in it": 1}),
        ({}, b'{"temperature":null}', {"nothing in it": 1}),
        ({}, b'{"temperature":"hot"}', {"t: no number": 1}),
        ({}, b'{"temperature":[1]}', {"t: no number": 1}),
        ({}, b'{"temperature":1e300}', {"t: not finite": 1}),
        ({}, b'{"temperature":' + b"9" * 400 + b"}", {"t: not finite": 1}),
        ({"limits": {"t": [-40, 80]}}, b'{"temperature":85000}', {"t: outside its limits": 1}),
        ({"error_values": {"t": [85, -127]}}, b'{"temperature":85}', {"t: error value": 1}),
        ({"time": "Time"}, b'{"temperature":20}', {"no time": 1}),
        ({"time": "Time"}, b'{"temperature":20,"Time":"noon"}', {"a time that is neither ISO 8601 nor a number": 1}),
        ({"time": "Time"}, b'{"temperature":20,"Time":9e11}', {"a time before 2000": 1}),
        (
            {"time": "Time"},
            b'{"temperature":20,"Time":1980000000}',
            {"a time more than an hour ahead of this board's clock": 1},
        ),
    ],
)
def test_what_cannot_be_used_is_counted_by_what_was_wrong(
    table: dict[str, Any], payload: bytes, refused: dict[str, int]
) -> None:
    made = reader(topics=["#"], fields={"t": "temperature"}, **table)
    assert made.read("t", payload, AT) == []
    assert made.intake.refused == refused
    assert made.intake.rows == 0


def test_a_value_outside_its_limits_is_missing_and_the_others_stay() -> None:
    made = reader(topics=["#"], fields={"t": "t", "h": "h"}, limits={"t": [-40, 80]}, scale={"h": 0.1})
    (row,) = made.read("t", b'{"t":300,"h":451}', AT)
    assert isinstance(row, Row)
    assert row.values == pytest.approx((math.nan, 45.1), nan_ok=True)
    assert made.intake.refused == {"t: outside its limits": 1}


def test_a_sensor_that_says_nothing_useful_is_reported_until_it_does() -> None:
    made = reader(topics=["#"], fields={"t": "$"}, limits={"t": [-40, 80]})
    for _ in range(3):
        assert made.intake.faults(AT.monotonic_s) == ()
        made.read("t", b"300", AT)
    assert made.intake.faults(AT.monotonic_s) == ("nothing can be used: t: outside its limits",)
    made.read("t", b"30", AT)
    assert made.intake.faults(AT.monotonic_s) == ()
    assert made.intake.take_news() == ["t: outside its limits: t"]
    assert made.intake.take_news() == []


def test_a_message_that_the_broker_kept_is_no_new_sample_unless_it_is_wanted() -> None:
    made = reader(topics=["#"], fields={"v": "$"})
    assert made.read("t", b"1", AT, retained=True) == []
    assert made.intake.refused == {"kept by the broker": 1}
    assert len(reader(topics=["#"], fields={"v": "$"}, retained="use").read("t", b"1", AT, retained=True)) == 1


def test_only_topics_of_its_own_are_read() -> None:
    made = reader(topics=["zigbee2mqtt/+", "tele/+/SENSOR"], fields={"v": "$"})
    for topic, taken in [
        ("zigbee2mqtt/kitchen", 1),
        ("zigbee2mqtt/kitchen/availability", 0),
        ("tele/plug/SENSOR", 1),
        ("tele/plug/STATE", 0),
        ("zigbee2mqtt", 0),
    ]:
        assert len(made.read(topic, b"1", AT)) == taken


def test_labels_in_the_message() -> None:
    table = {"fields": {"v": "v"}, "label": "state", "labels": {"ok": 0, "worn": 1}}
    assert one(table, b'{"v":1,"state":"worn"}').label == 1.0
    assert math.isnan(one(table, b'{"v":1}').label)
    assert math.isnan(one(table, b'{"v":1,"state":"strange"}').label)


def test_a_label_on_a_topic_holds_until_the_next_also_when_the_broker_kept_it() -> None:
    board = LabelBoard()
    made = reader(board, topics=["vibration"], fields={"v": "$"}, label_topic="press/state", labels={"ok": 0, "bad": 1})

    def label() -> float:
        (row,) = made.read("vibration", b"1", AT)
        assert isinstance(row, Row)
        return row.label

    assert math.isnan(label())
    assert made.read("press/state", b"bad", AT, retained=True) == []
    assert label() == label() == 1.0
    made.read("press/state", b"ok", AT)
    assert label() == 0.0
    made.read("press/state", b"what", AT)  # refused: the one before holds
    assert label() == 0.0
    made.read("press/state", b"", AT)
    assert math.isnan(label())
    made.read("press/state", b"ok", AT)
    made.intake.forget_labels()
    assert math.isnan(label())
    assert made.intake.refused == {"label: unknown label": 1}


def test_a_source_of_labels_alone_labels_the_rows_of_all() -> None:
    board = LabelBoard()
    button = MessageReader("button", MqttSource(label_topic="button", label_scope="all"), board, 0.0)
    made = reader(board, topics=["v"], fields={"v": "$"})
    assert button.read("button", b"true", AT) == []
    (row,) = made.read("v", b"1", AT)
    assert isinstance(row, Row)
    assert row.label == 1.0


def test_a_label_for_a_stretch_of_time() -> None:
    made = reader(
        topics=["v"], fields={"v": "$"}, label_topic="labels", label="what", label_from="from", label_until="until",
        labels={"leak": 3},
    )  # fmt: skip
    found = made.read("labels", b'{"what":"leak","from":1779990000,"until":1779990060}', AT)
    assert found == [Stretch(source="press", start=1_779_990_000.0, until=1_779_990_060.0, label=3.0)]
    (open_end,) = made.read("labels", b'{"what":"leak","from":1779990000}', AT)
    assert isinstance(open_end, Stretch)
    assert open_end.until == AT.wall_s
    for wrong in (b'{"what":"leak","from":5}', b'{"what":"leak","from":1779990000,"until":1779980000}', b"{"):
        assert made.read("labels", wrong, AT) == []


def test_a_frozen_channel_is_missing_until_it_moves_and_silence_is_told() -> None:
    made = reader(topics=["#"], fields={"t": "t", "n": "n"}, freeze_s={"t": 60}, silence_s=30)
    rows = []
    for second in range(0, 100, 20):
        at = Moment(100.0 + second, AT.wall_s + second)
        rows += made.read("x", f'{{"t":5,"n":{second}}}'.encode(), at)
    assert [math.isnan(row.values[0]) for row in rows if isinstance(row, Row)] == [False, False, False, True, True]
    assert made.intake.faults(180.0) == ("frozen: t",)
    assert made.intake.next_change(180.0) == 210.0
    assert made.intake.faults(210.0) == ("silent for more than 30 s", "frozen: t")
    (row,) = made.read("x", b'{"t":5.5,"n":1}', Moment(211.0, AT.wall_s + 111))
    assert isinstance(row, Row)
    assert row.values == (5.5, 1.0)
    assert made.intake.faults(211.0) == ()


def test_a_flood_is_dropped_counted_and_told() -> None:
    made = reader(topics=["#"], fields={"v": "$"}, max_rows_per_s=10)
    taken = sum(len(made.read("t", b"1", Moment(100.0 + k / 1000, AT.wall_s))) for k in range(2000))
    assert 20 <= taken <= 41
    assert made.intake.refused == {"too many rows": 2000 - taken}
    assert made.intake.faults(102.0) == ("too many rows: some are dropped",)
    assert made.intake.faults(163.0) == ()
    assert len(made.intake.take_news()) <= 5


def test_kinds_of_refusals_are_bounded() -> None:
    made = reader(topics=["#"], fields={f"c{k}": f"c{k}" for k in range(100)})
    made.read("t", b"{" + b",".join(f'"c{k}":"x"'.encode() for k in range(100)) + b"}", AT)
    assert len(made.intake.refused) == 33
    assert sum(made.intake.refused.values()) == 100
