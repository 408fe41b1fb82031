"""The pure parts: paths, times, values, limits, labels, freezing, pacing."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.sensing.freezing import FreezeWatch
from device_agent.sensing.labelling import EVERYBODY, LabelBoard, label_of
from device_agent.sensing.moments import MomentError, moment_of
from device_agent.sensing.pacing import Pace
from device_agent.sensing.paths import PathError, look_up, parse_path
from device_agent.sensing.values import Gauge, ValueFault, number_of

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC).timestamp()

DOCUMENT = {"a": {"b": [10, {"c": 20}]}, "x.y": 30, "DS18B20-1": {"Temperature": 21.5}, "list": [[1, 2], [3]]}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.b[0]", 10),
        ("$.a.b[1].c", 20),
        ("a.b[1].c", 20),
        ('["x.y"]', 30),
        ("DS18B20-1.Temperature", 21.5),
        ("list[0][1]", 2),
        ("list[1][1]", None),
        ("a.nothing", None),
        ("a.b.c", None),
        ("a[0]", None),
        ("a.b[7]", None),
    ],
)
def test_paths_lead_to_values_or_nowhere(path: str, value: Any) -> None:
    assert look_up(DOCUMENT, parse_path(path)) == value


def test_the_whole_payload_is_a_path() -> None:
    assert look_up(21.5, parse_path("$")) == 21.5
    assert look_up([5], parse_path("$[0]")) == 5


@pytest.mark.parametrize("text", ["", "a.", ".a", "a..b", "a[", "a[x]", "a]b", "$.", "a[0]b", 'a["', "x" * 300])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(PathError):
        parse_path(text)


names = st.text(st.characters(codec="utf-8", exclude_characters='"]'), min_size=1, max_size=20)


@given(st.lists(st.one_of(names, st.integers(0, 999_999)), min_size=1, max_size=6))
def test_any_place_can_be_written_as_a_path(steps: list[str | int]) -> None:
    text = "$" + "".join(f"[{step}]" if isinstance(step, int) else f'["{step}"]' for step in steps)
    if len(text) <= 256:
        assert list(parse_path(text)) == steps


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        (NOW, NOW),
        (int(NOW) * 1000, int(NOW)),
        (str(NOW), NOW),
        ("2026-05-04T03:02:01Z", NOW),
        ("2026-05-04T05:02:01+02:00", NOW),
        ("2026-05-04T03:02:01", NOW),
        ("2026-05-04 03:02:01.500", NOW + 0.5),
    ],
)
def test_times_of_all_kinds(sent: Any, seconds: float) -> None:
    assert moment_of(sent, NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "sent",
    [
        True, None, [], {}, 0, -5, 12345, 1e30, 10**400, float("inf"), float("nan"), "", "yesterday", "nan", "1e999",
        "0001-01-01", "9999-12-31T23:59:59-23:59", NOW + 7200, "2026-99-01",
    ],
)  # fmt: skip
def test_times_that_cannot_be(sent: Any) -> None:
    with pytest.raises(MomentError):
        moment_of(sent, NOW)


def test_without_a_clock_the_future_is_not_known() -> None:
    assert moment_of(NOW + 1e8, None) == NOW + 1e8


@pytest.mark.parametrize(
    ("sent", "number"),
    [(1, 1.0), (2.5, 2.5), (True, 1.0), (False, 0.0), ("ON", 1.0), ("closed", 0.0), (" 21.5 ", 21.5), ("-3e2", -300.0)],
)
def test_numbers_and_words(sent: Any, number: float) -> None:
    assert number_of(sent) == number


@pytest.mark.parametrize("sent", [None, "", "unavailable", "unknown", "None", "NaN", "null"])
def test_what_says_that_there_is_no_value_is_missing(sent: Any) -> None:
    assert math.isnan(number_of(sent))


@pytest.mark.parametrize("sent", [[1], {"a": 1}, "hot", "1_000", "21,5", "inf", 10**400, 1e39, float("inf"), "1" * 100])
def test_what_is_no_number_is_refused(sent: Any) -> None:
    with pytest.raises(ValueFault):
        number_of(sent)


@pytest.mark.parametrize(
    ("raw", "value"),
    [(0, -40.0), (1000, 60.0), (1250, 85.0), (1251, None), (-1, None), (65535, None), (850, None), (849, 44.9)],
)
def test_gauges_know_units_limits_and_error_values(raw: float, value: float | None) -> None:
    gauge = Gauge(scale=0.1, offset=-40.0, low=-40.0, high=85.0, error_values=frozenset({850.0}))
    if value is None:
        with pytest.raises(ValueFault):
            gauge(raw)
    else:
        assert gauge(raw) == pytest.approx(value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20), st.lists))
def test_a_value_is_a_float32_or_missing_or_refused(sent: Any) -> None:
    try:
        found = Gauge(scale=2.0)(number_of(sent))
    except ValueFault:
        return
    assert math.isnan(found) or abs(found) <= 3.5e38


@pytest.mark.parametrize(
    ("sent", "label"),
    [
        ("ok", 0.0),
        ("broken", 1.0),
        (True, 5.0),
        (False, 0.0),
        (7, 8.0),
        (2, 2.0),
        ("3", 3.0),
        (1.5, 1.5),
        (" ok ", 0.0),
    ],
)
def test_labels_by_table_or_as_they_are(sent: Any, label: float) -> None:
    assert label_of(sent, {"ok": 0, "broken": 1, "true": 5, "7": 8}) == label


def test_unknown_labels_are_refused_and_none_is_none() -> None:
    with pytest.raises(ValueFault, match="unknown label"):
        label_of("perhaps", {"ok": 0})
    assert math.isnan(label_of(None, {}))
    assert math.isnan(label_of("", {}))


def test_a_label_holds_until_the_next_and_its_own_goes_before_everybodys() -> None:
    board = LabelBoard()
    assert math.isnan(board.holding("press"))
    board.put("button", EVERYBODY, 1.0)
    assert board.holding("press") == 1.0
    board.put("press", "press", 2.0)
    assert (board.holding("press"), board.holding("room")) == (2.0, 1.0)
    board.put("press", "press", math.nan)
    assert board.holding("press") == 1.0
    board.put("other", EVERYBODY, 3.0)
    assert board.holding("press") == 3.0
    board.forget("other")
    assert board.holding("press") == 1.0


@pytest.mark.parametrize(
    ("values", "frozen"),
    [
        ([(0, 5), (30, 5), (61, 5)], [False, False, True]),
        ([(0, 5), (70, 5)], [False, False]),  # two values prove nothing
        ([(0, 5), (30, 5), (59, 5), (61, 6), (90, 6), (130, 6)], [False, False, False, False, False, True]),
        ([(0, 5), (30, 5), (61, 5), (62, 5.1), (63, 5.1)], [False, False, True, False, False]),
    ],
)
def test_a_sensor_is_frozen_when_it_does_not_move_for_long(
    values: list[tuple[float, float]], frozen: list[bool]
) -> None:
    watch = FreezeWatch(60.0)
    assert [watch.see(value, time) for time, value in values] == frozen


def test_a_flood_is_let_through_at_its_rate() -> None:
    pace = Pace(5.0)
    taken = sum(pace.allows(number / 1000.0) for number in range(10_000))
    assert 10 + 45 <= taken <= 10 + 51
    assert pace.allows(1e6)


@given(st.binary(max_size=60))
def test_labels_and_numbers_take_any_json(payload: bytes) -> None:
    try:
        document = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    for read in (number_of, lambda sent: label_of(sent, {"a": 1})):
        try:
            read(document)
        except ValueFault:
            continue
