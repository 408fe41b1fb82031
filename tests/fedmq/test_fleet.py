from __future__ import annotations

from fedmq.fleet import FleetView
from protocol.status import AggregatorMetrics, AggregatorState, DeviceMetrics, DeviceState


def aggregator_state(version: int = 5, epoch: str = "e" * 16, *, online: bool = True) -> AggregatorState:
    status = "online" if online else "offline"
    return AggregatorState(federation="demo", epoch=epoch, instance="x", status=status, version=version)  # type: ignore[arg-type]


def device_state(name: str, version: int | None = None, state: str = "idle") -> DeviceState:
    return DeviceState(device_id=name, state=state, version=version)  # type: ignore[arg-type]


def test_staleness_is_the_distance_to_the_aggregators_version() -> None:
    view = FleetView("demo")
    view.observe(device_state("a", 2), 0.0, device_id="a")
    assert view.rows(0.0)[0].behind is None

    view.observe(aggregator_state(5), 1.0)

    assert view.rows(1.0)[0].behind == 3


def test_a_retained_state_does_not_mean_that_anybody_was_seen() -> None:
    view = FleetView("demo")
    view.observe(device_state("a"), 10.0, device_id="a", retained=True)
    assert view.rows(11.0)[0].seen_s is None

    view.observe(DeviceMetrics(device_id="a"), 12.0, device_id="a")

    assert view.rows(15.0)[0].seen_s == 3.0


def test_a_will_is_no_sign_of_life() -> None:
    view = FleetView("demo")
    view.observe(device_state("a"), 10.0, device_id="a")
    view.observe(device_state("a", state="lost"), 20.0, device_id="a")

    row = view.rows(30.0)[0]
    assert (row.state, row.seen_s) == ("lost", 20.0)
    assert view.summary().connected == 0


def test_what_was_given_up_counts_as_refused_and_repeats_as_accepted() -> None:
    view = FleetView("demo")
    metrics = DeviceMetrics(
        updates_accepted=5, updates_duplicate=1, updates_stale=2, updates_rejected=3, updates_dropped=4
    )
    view.observe(metrics, 0.0, device_id="a")

    row = view.rows(0.0)[0]
    assert (row.accepted, row.refused) == (6, 9)


def test_the_accuracys_history_has_one_point_for_each_version() -> None:
    view = FleetView("demo")
    for version, accuracy in ((0, 0.1), (1, 0.5), (1, 0.5), (2, 0.6), (4, 0.7)):
        view.observe(AggregatorMetrics(version=version, accuracy=accuracy), 0.0)
    view.observe(AggregatorMetrics(version=5), 0.0)

    assert view.summary().history == ((0, 0.1), (1, 0.5), (2, 0.6), (4, 0.7))


def test_the_rate_is_that_of_the_last_seconds() -> None:
    view = FleetView("demo")
    assert view.summary().updates_per_s is None
    for second in range(31):
        accepted = 100 * second if second < 20 else 2000 + 2 * (second - 20)
        view.observe(AggregatorMetrics(updates_accepted=accepted), float(second))

    assert view.summary().updates_per_s == 2.0


def test_rare_metrics_give_a_rate_too() -> None:
    view = FleetView("demo")
    for minute in range(4):
        view.observe(AggregatorMetrics(updates_accepted=30 * minute), 60.0 * minute)

    assert view.summary().updates_per_s == 0.5


def test_another_epoch_begins_another_history() -> None:
    view = FleetView("demo")
    view.observe(aggregator_state(9), 0.0)
    view.observe(AggregatorMetrics(version=9, accuracy=0.9), 0.0)

    view.observe(aggregator_state(0, epoch="f" * 16), 1.0)

    summary = view.summary()
    assert (summary.version, summary.history, summary.metrics) == (0, (), None)


def test_memory_is_bounded_whoever_publishes() -> None:
    view = FleetView("demo", max_devices=3)
    for number in range(10):
        view.observe(device_state(f"d-{number}"), 0.0, device_id=f"d-{number}")
    for version in range(5000):
        view.observe(AggregatorMetrics(version=version, accuracy=0.5), 0.0)

    summary = view.summary()
    assert (summary.devices, summary.unlisted) == (3, 7)
    assert len(summary.history) <= 500


def test_rows_are_in_the_order_in_which_people_count() -> None:
    view = FleetView("demo")
    for name in ("watch-10", "watch-2b", "watch-2a", "press", "watch-1"):
        view.observe(device_state(name), 0.0, device_id=name)

    assert [row.device_id for row in view.rows(0.0)] == ["press", "watch-1", "watch-2a", "watch-2b", "watch-10"]


def test_who_seals_its_updates_tells_a_monitor_nothing_of_its_data() -> None:
    view = FleetView("demo")
    view.observe(DeviceMetrics(trainings=3), 0.0, device_id="seals")
    view.observe(DeviceMetrics(trainings=3, num_examples=40), 0.0, device_id="tells")
    view.observe(DeviceMetrics(), 0.0, device_id="waits")

    assert {row.device_id: row.sealed for row in view.rows(0.0)} == {"seals": True, "tells": False, "waits": False}
