"""The rules one by one: limits, margins, sensors that are not there; and that nothing flaps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.hours import left_within, span, until_next
from device_agent.policy import RULES, Case, Readings, active, gates_sending, judge
from device_agent.settings import PolicySettings

OFF: dict[str, Any] = {
    "min_battery_percent": 0,
    "max_cpu_c": 0,
    "min_free_memory_bytes": 0,
    "min_free_disk_bytes": 0,
}
MB = 1_000_000


def holds(rule: dict[str, Any], *, before: str = "", running: bool = False, own: bool = False, seen: int | None = None,
          **readings: Any) -> list[str]:  # fmt: skip
    """Return the reasons against a training with this rule alone."""
    case = Case(
        readings=Readings(**readings),
        before={before: "why"} if before else {},  # type: ignore[dict-item]
        running=running,
        own_load=own,
        seen=seen,
    )
    return list(judge(PolicySettings(**(OFF | rule)), case).holds.values())


@pytest.mark.parametrize(
    ("rule", "readings", "reason"),
    [
        ({"max_cpu_c": 80}, {"cpu_c": 79.9}, ""),
        ({"max_cpu_c": 80}, {"cpu_c": 80.0}, "CPU at 80 C, goes on below 75 C"),
        ({"max_cpu_c": 80}, {"cpu_c": 83.25}, "CPU at 83.25 C, goes on below 75 C"),
        ({"max_cpu_c": 80}, {"cpu_c": 75.0, "before": "cpu"}, "CPU at 75 C, goes on below 75 C"),
        ({"max_cpu_c": 80}, {"cpu_c": 74.9, "before": "cpu"}, ""),
        ({"mains_only": True}, {"mains": False}, "runs on battery, goes on with mains"),
        ({"mains_only": True}, {"mains": True}, ""),
        ({"min_battery_percent": 30}, {"battery_percent": 30.0}, ""),
        ({"min_battery_percent": 30}, {"battery_percent": 29.0}, "battery at 29 %, goes on at 35 % or with mains"),
        ({"min_battery_percent": 30}, {"battery_percent": 5.0, "mains": True}, ""),
        ({"min_battery_percent": 30}, {"battery_percent": 5.0, "mains": False},
         "battery at 5 %, goes on at 35 % or with mains"),
        ({"min_battery_percent": 30}, {"battery_percent": 34.0, "before": "battery"},
         "battery at 34 %, goes on at 35 % or with mains"),
        ({"min_battery_percent": 30}, {"battery_percent": 35.0, "before": "battery"}, ""),
        ({"min_battery_percent": 100}, {"battery_percent": 100.0, "before": "battery"}, ""),
        ({"max_load": 0.5}, {"load_per_core": 0.49}, ""),
        ({"max_load": 0.5}, {"load_per_core": 0.5}, "load of 0.5 a core, goes on below 0.4"),
        ({"max_load": 0.5}, {"load_per_core": 0.45, "before": "load"}, "load of 0.45 a core, goes on below 0.4"),
        ({"max_load": 0.5}, {"load_per_core": 0.39, "before": "load"}, ""),
        ({"max_load": 0.5}, {"load_per_core": 0.7, "cores": 4, "own": True}, ""),
        ({"max_load": 0.5}, {"load_per_core": 0.75, "cores": 4, "own": True}, "load of 0.5 a core, goes on below 0.4"),
        ({"max_load": 0.5}, {"load_per_core": 0.2, "cores": 1, "own": True}, ""),
        ({"min_free_memory_bytes": 40 * MB}, {"free_memory_bytes": 40 * MB}, ""),
        ({"min_free_memory_bytes": 40 * MB}, {"free_memory_bytes": 39 * MB},
         "39 MB of memory free, goes on at 50 MB"),
        ({"min_free_memory_bytes": 2000 * MB}, {"free_memory_bytes": 1_234_567_890},
         "1235 MB of memory free, goes on at 2500 MB"),
        ({"min_free_memory_bytes": 40 * MB}, {"free_memory_bytes": 49 * MB, "before": "memory"},
         "49 MB of memory free, goes on at 50 MB"),
        ({"min_free_memory_bytes": 40 * MB}, {"free_memory_bytes": 50 * MB, "before": "memory"}, ""),
        ({"min_free_memory_bytes": 40 * MB}, {"free_memory_bytes": 20 * MB, "running": True}, ""),
        ({"min_free_memory_bytes": 40 * MB}, {"free_memory_bytes": 20 * MB - 1, "running": True},
         "20 MB of memory free, goes on at 50 MB"),
        ({"min_free_disk_bytes": 40 * MB}, {"free_disk_bytes": 40 * MB}, ""),
        ({"min_free_disk_bytes": 40 * MB}, {"free_disk_bytes": 0}, "0 MB of disk free, goes on at 50 MB"),
        ({"min_free_disk_bytes": 40 * MB}, {"free_disk_bytes": 45 * MB, "before": "disk"},
         "45 MB of disk free, goes on at 50 MB"),
        ({"metered_interfaces": ["wwan*"]}, {"interface": "wwan0"}, "on the metered line wwan0"),
        ({"metered_interfaces": ["wwan*"]}, {"interface": "eth0"}, ""),
        ({"metered_interfaces": ["*"]}, {}, ""),
        ({"metered_interfaces": ["wwan*"], "train_on_metered": True}, {"interface": "wwan0"}, ""),
        ({"quiet_hours": ["22:00-06:00"]}, {"clock_s": 22 * 3600 - 1}, ""),
        ({"quiet_hours": ["22:00-06:00"]}, {"clock_s": 22 * 3600}, "quiet hours until 06:00"),
        ({"quiet_hours": ["22:00-06:00"]}, {"clock_s": 0}, "quiet hours until 06:00"),
        ({"quiet_hours": ["22:00-06:00"]}, {"clock_s": 6 * 3600}, ""),
        ({"allowed_hours": ["01:00-02:30", "12:00-13:00"]}, {"clock_s": 3600}, ""),
        ({"allowed_hours": ["01:00-02:30", "12:00-13:00"]}, {"clock_s": 9000},
         "outside the allowed hours, goes on at 12:00"),
        ({"allowed_hours": ["01:00-02:30"]}, {"clock_s": 9000}, "outside the allowed hours, goes on at 01:00"),
        ({"allowed_hours": ["00:00-24:00"]}, {"clock_s": 86399}, ""),
        ({"allowed_hours": ["01:00-02:30"]}, {}, "there are hours to keep, and the clock is not set"),
        ({"quiet_hours": ["01:00-02:30"]}, {}, "there are hours to keep, and the clock is not set"),
        ({"min_new_examples": 100}, {"examples": 500}, ""),
        ({"min_new_examples": 100}, {"examples": 599, "seen": 500}, "99 of 100 new examples"),
        ({"min_new_examples": 100}, {"examples": 600, "seen": 500}, ""),
        ({"min_new_examples": 100}, {"examples": 99, "seen": 500}, "99 of 100 new examples"),
        ({"min_new_examples": 100}, {"examples": 100, "seen": 500}, ""),
        ({"min_new_examples": 100}, {"examples": 500, "seen": 500, "running": True}, ""),
        ({"min_new_examples": 100}, {"seen": 500}, ""),
    ],
)  # fmt: skip
def test_a_rule_at_its_limit(rule: dict[str, Any], readings: dict[str, Any], reason: str) -> None:
    assert holds(rule, **readings) == ([reason] if reason else [])


def test_a_board_without_sensors_is_held_up_by_nothing() -> None:
    every = PolicySettings(
        mains_only=True, max_load=0.1, min_new_examples=1, metered_interfaces=["*"], send_on_metered=False
    )
    verdict = judge(every, Case(readings=Readings(), seen=5))
    assert verdict.holds == {}
    assert verdict.may_send


def test_updates_wait_on_a_metered_line_only_when_told() -> None:
    line = Case(readings=Readings(interface="ppp0"))
    assert judge(PolicySettings(metered_interfaces=["ppp?"]), line).may_send
    assert not judge(PolicySettings(metered_interfaces=["ppp?"], send_on_metered=False), line).may_send
    assert not gates_sending(PolicySettings(send_on_metered=False))


def test_what_is_all_off_is_not_asked() -> None:
    assert active(PolicySettings())
    assert not active(PolicySettings(**OFF))
    assert not active(PolicySettings(**OFF, metered_interfaces=["*"], train_on_metered=True))
    for rule in (
        {"mains_only": True}, {"max_load": 1}, {"allowed_hours": ["01:00-02:00"]}, {"metered_interfaces": ["*"]},
        {"min_new_examples": 1}, {"metered_interfaces": ["*"], "train_on_metered": True, "send_on_metered": False},
    ):  # fmt: skip
        assert active(PolicySettings(**(OFF | rule)))


def test_several_reasons_are_all_told() -> None:
    found = holds({"max_cpu_c": 80, "mains_only": True}, cpu_c=90.0, mains=False)
    assert found == ["runs on battery, goes on with mains", "CPU at 90 C, goes on below 75 C"]


def test_hours_are_waited_for_in_steps_of_a_quarter_at_most() -> None:
    settings = PolicySettings(**OFF, quiet_hours=["22:00-06:00"])
    for clock_s, wait_s in ((6 * 3600 - 60, 60.0), (23 * 3600, 900.0), (12 * 3600, 0.0)):
        assert judge(settings, Case(readings=Readings(clock_s=clock_s))).look_after_s == wait_s


temperatures = st.lists(st.floats(70.0, 90.0), min_size=1, max_size=60)


@given(temperatures)
def test_between_stop_and_start_lies_the_margin(values: list[float]) -> None:
    before: dict[Any, str] = {}
    turned_at: list[tuple[bool, float]] = []
    for value in values:
        now = judge(PolicySettings(**(OFF | {"max_cpu_c": 80})), Case(readings=Readings(cpu_c=value), before=before))
        if bool(now.holds) != bool(before):
            turned_at.append((bool(now.holds), value))
        before = dict(now.holds)
    assert all(value >= 80.0 if stopped else value < 75.0 for stopped, value in turned_at)


readings = st.builds(
    Readings,
    mains=st.none() | st.booleans(),
    battery_percent=st.none() | st.floats(0, 100),
    cpu_c=st.none() | st.floats(-60, 150),
    load_per_core=st.none() | st.floats(0, 1e6),
    cores=st.integers(1, 256),
    free_memory_bytes=st.none() | st.integers(0, 2**44),
    free_disk_bytes=st.none() | st.integers(0, 2**60),
    interface=st.none() | st.sampled_from(["eth0", "wwan0", "[", ""]),
    clock_s=st.none() | st.integers(0, 86_399),
    examples=st.none() | st.integers(0, 10**7),
)
policies = st.builds(
    PolicySettings,
    mains_only=st.booleans(),
    min_battery_percent=st.floats(0, 100),
    max_cpu_c=st.floats(0, 150),
    max_load=st.floats(0, 1000),
    allowed_hours=st.sampled_from([[], ["00:00-24:00"], ["23:59-00:01"]]),
    quiet_hours=st.sampled_from([[], ["12:00-11:59"]]),
    min_new_examples=st.integers(0, 10**7),
    metered_interfaces=st.sampled_from([[], ["*"], ["[w"]]),
    send_on_metered=st.booleans(),
)


@given(policies, readings, st.sets(st.sampled_from(sorted(RULES))), st.booleans(), st.none() | st.integers(0, 10**7))
def test_what_said_no_before_only_makes_it_stricter(
    settings: PolicySettings, found: Readings, before: set[Any], running: bool, seen: int | None
) -> None:
    fresh = judge(settings, Case(readings=found, running=running, seen=seen))
    after = judge(settings, Case(readings=found, running=running, seen=seen, before=dict.fromkeys(before, "why")))
    assert fresh.holds.keys() <= after.holds.keys()
    assert after.holds.keys() <= fresh.holds.keys() | before
    assert all(0 < len(text) < 100 for text in after.holds.values())
    assert 0.0 <= after.look_after_s <= 900.0


times = st.integers(0, 1439).map(lambda minute: f"{minute // 60:02}:{minute % 60:02}")


@given(times, times, st.integers(0, 86_399))
def test_a_span_and_its_complement_share_the_day(start: str, end: str, clock_s: int) -> None:
    if start == end:
        with pytest.raises(ValueError, match="same time"):
            span(f"{start}-{end}")
        return
    inside = left_within([f"{start}-{end}"], clock_s)
    outside = left_within([f"{end}-{start}"], clock_s)
    assert (inside is None) != (outside is None)
    if inside is None:
        assert until_next([f"{start}-{end}"], clock_s) == outside
    else:
        assert inside == until_next([f"{end}-{start}"], clock_s)


def test_a_span_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="00:00-24:00"):
        PolicySettings(quiet_hours=["10:00-10:00"])
