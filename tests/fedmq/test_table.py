from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from device_agent.diverging import NOT_FINITE
from fedmq.answers import Answered, Answers
from fedmq.chart import bar, columns, resample
from fedmq.fleet import FleetView
from fedmq.table import Caption, fleet_table, plain_line, waiting_text
from fedmq.units import bytes_text, count_text, percent_text, seconds_text
from protocol.status import AggregatorMetrics, AggregatorState, DeviceMetrics, DeviceState

STATES = ("idle", "fetching", "training", "reporting", "sleeping", "stopped", "lost")
CAPTION = Caption(
    broker="mosquitto at 127.0.0.1:41875", note="watch-2 was killed", reference=0.67, reference_name="alone"
)


PERSONAL: dict[str, Any] = {
    "holdout_accuracy_global": 0.911,
    "holdout_accuracy_personal": 0.981,
    "holdout_accuracy_local": 1.0,
}


def busy_view(devices: int = 7, **figures: Any) -> FleetView:
    view = FleetView("demo")
    view.observe(AggregatorState(federation="demo", epoch="e" * 16, instance="x", status="online", version=1234), 0.0)
    for version in range(0, 1235, 10):
        metrics = AggregatorMetrics(
            version=version, accuracy=min(0.8, version / 500), updates_accepted=12345, updates_per_s=123.4,
            updates_buffered=3, buffer_goal=4,
        )  # fmt: skip
        view.observe(metrics, 0.0)
    for number in range(devices):
        name = f"watch-{number + 1}"
        state = DeviceState(device_id=name, state=STATES[number % 7], version=1234 - number)  # type: ignore[arg-type]
        view.observe(state, 0.0, device_id=name)
        metrics_of_device = DeviceMetrics(
            trainings=9, updates_accepted=1234, updates_stale=12, update_bytes=3678, bytes_sent=12_345_678,
            training_s=12.3, num_examples=12_345, holdout_accuracy=0.934, holdout_loss=0.123, **figures,
        )  # fmt: skip
        view.observe(metrics_of_device, 0.0, device_id=name)
    return view


def drawn(view: FleetView, width: int, height: int = 40, caption: Caption = CAPTION) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    console.print(fleet_table(view.summary(), view.rows(1.0), caption, width=width, height=height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_a_device_whose_training_diverges_is_not_called_idle(width: int) -> None:
    view = busy_view(1)
    view.observe(DeviceState(device_id="watch-1", state="idle", reason=NOT_FINITE), 1.0, device_id="watch-1")
    text = drawn(view, width)
    assert "✗ diverging" in text
    assert "idle" not in text
    assert "watch-1: training diverges: lower [training] learning_rate or set clip" in text


@pytest.mark.parametrize("figures", [{}, PERSONAL])
@pytest.mark.parametrize("width", [80, 88, 92, 98, 100, 104, 110, 120, 126, 130, 140, 200])
def test_nothing_is_cut_off_at_any_width(width: int, figures: dict[str, Any]) -> None:
    text = drawn(busy_view(**figures), width)

    assert "…" not in text
    assert all(cell_len(line) <= width for line in text.splitlines())
    assert "watch-7" in text
    assert "80.0 %" in text
    assert "alone 67.0 %" in text
    assert "watch-2 was killed" in text
    for state in STATES:
        assert state in text


def answered(said: int, truth: int, by: str = "ai-edge-litert 2.3.0") -> Answered:
    return Answered(version=7, said=said, truth=truth, right=40, asked=50, by=by)


@pytest.mark.parametrize("width", [80, 90, 98, 100, 104, 110, 120, 126, 130, 140, 200])
def test_predictions_fit_at_any_width(width: int) -> None:
    said = {f"watch-{number}": answered(3, 3 + number % 2) for number in range(1, 8)}
    caption = replace(CAPTION, answers=Answers(devices=said))
    text = drawn(busy_view(**PERSONAL), width, caption=caption)
    assert "…" not in text
    assert all(cell_len(line) <= width for line in text.splitlines())
    assert "predicted by ai-edge-litert 2.3.0, on held-out data: 280 of the last 350 right" in text
    assert ("predicts" in text) == ("3 ✘ is 4" in text) == ("3 ✔" in text) == (width >= 90)


def test_who_is_off_predicts_nothing() -> None:
    said = {"watch-6": answered(2, 2), "watch-1": answered(5, 5, by="numpy")}
    text = drawn(busy_view(**PERSONAL), 100, caption=replace(CAPTION, answers=Answers(devices=said)))
    assert "5 ✔" in text
    assert "2 ✔" not in text, "watch-6 is stopped"
    assert "predicted by ai-edge-litert 2.3.0 and numpy" in text
    assert "predict" not in drawn(busy_view(), 100, caption=replace(CAPTION, answers=Answers(devices={})))


def test_where_devices_have_models_of_their_own_three_are_compared() -> None:
    assert "own data" in drawn(busy_view(), 80)
    text = drawn(busy_view(**PERSONAL), 80)

    assert "own data" not in text
    assert all(title in text for title in ("global", "personal", "alone"))
    assert all(share in text for share in ("91.1 %", "98.1 %", "100.0 %"))


def test_where_nothing_is_classified_losses_are_drawn_from_the_highest() -> None:
    view = FleetView("demo")
    for version, loss in enumerate((0.8, 0.4, 0.2)):
        view.observe(AggregatorMetrics(version=version, loss=loss), 0.0)
    view.observe(DeviceMetrics(trainings=1, num_examples=9, holdout_loss=0.25), 0.0, device_id="watch-1")

    text = drawn(view, 80, caption=Caption(broker="b"))

    assert "loss     0.2  first 0.8" in text
    assert "own loss" in text
    assert "0.25" in text
    chart = [line for line in text.splitlines() if "█" in line]
    assert [line.count("█") for line in chart] == [1, 1, 2, 3]
    assert "loss 0.2" in plain_line(view.summary(), 1.0)


def test_wide_terminals_show_more() -> None:
    assert "refused" not in drawn(busy_view(), 80)
    assert "refused" in drawn(busy_view(), 100)
    assert "12.3 MB" in drawn(busy_view(), 140)


def test_a_fleet_taller_than_the_terminal_is_summed_up() -> None:
    text = drawn(busy_view(100), 100, height=24)

    assert len(text.splitlines()) <= 24
    assert "more" in text.splitlines()[-1]


def test_nothing_there_says_what_is_waited_for() -> None:
    view = FleetView("plant-3")
    assert "waiting for federation 'plant-3'" in drawn(view, 80, caption=Caption(broker="b:1"))

    view.observe(DeviceState(device_id="a", state="idle"), 0.0, device_id="a")
    assert "waiting for the aggregator" in waiting_text(view.summary())

    view.observe(AggregatorState(federation="plant-3", epoch="e" * 16, instance="x", status="offline"), 0.0)
    assert "offline" in waiting_text(view.summary())


def test_the_title_says_how_a_federation_is_guarded() -> None:
    security = "mutual TLS 1.3, signed models, sealed updates"

    assert security in drawn(busy_view(), 80, caption=Caption(broker="b:1", security=security)).splitlines()[0]


def test_text_from_the_network_is_no_markup() -> None:
    view = FleetView("demo")
    view.observe(DeviceState(device_id="a", state="idle"), 0.0, device_id="[red]a[/red]")

    assert "[red]a[/red]" in drawn(view, 100)


def test_a_pipe_gets_a_line() -> None:
    line = plain_line(busy_view().summary(), 12.0)

    assert "\n" not in line
    assert "version 1,230" in line or "version 1,234" in line
    assert "accuracy 80.0 %" in line


def test_a_chart_rises_and_shows_the_reference() -> None:
    lines = [line.plain for line in columns([0.0, 0.25, 0.5, 1.0], 6, 4, reference=0.6)]

    assert lines == ["   █  ", "╌╌╌█╌╌", "  ██  ", " ███  "]


def test_long_series_keep_their_ends() -> None:
    assert resample(list(range(100)), 5) == [0, 25, 50, 74, 99]
    assert resample([1.0, 2.0], 5) == [1.0, 2.0]
    assert resample([1.0, 2.0], 1) == [2.0]


def test_bars_are_as_wide_as_asked() -> None:
    assert [len(bar(share, 10).plain) for share in (-1.0, 0.0, 0.55, 1.0, 2.0)] == [10] * 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (count_text(None), "-"),
        (count_text(1234567), "1,234,567"),
        (percent_text(0.8049), "80.5 %"),
        (seconds_text(0.44), "0.4 s"),
        (seconds_text(119.0), "119 s"),
        (seconds_text(7200.0), "2 h"),
        (seconds_text(86400.0 * 3), "3 d"),
        (bytes_text(999), "999 B"),
        (bytes_text(3678), "3.7 kB"),
        (bytes_text(123_456_789), "123 MB"),
        (bytes_text(5_000_000_000_000), "5000 GB"),
    ],
)
def test_numbers_are_readable(text: str, expected: str) -> None:
    assert text == expected


def test_what_devices_say_is_wrong_is_shown_once_and_steers_no_terminal() -> None:
    view = busy_view(7)
    for name, reason in (
        ("watch-1", "manifest refused: \x1b[2Jforged"),
        ("watch-2", "disk full"),
        ("watch-3", "disk full"),
    ):
        view.observe(DeviceState(device_id=name, state="idle", reason=reason), 0.0, device_id=name)
    view.observe(
        DeviceState(device_id="watch-6", state="stopped", reason="stopped by SIGTERM"), 0.0, device_id="watch-6"
    )

    text = drawn(view, 100)

    assert "  watch-1: manifest refused: ?[2Jforged" in text
    assert "  watch-2 and 1 more: disk full" in text
    assert text.count("disk full") == 1
    assert "\x1b" not in text
    assert "SIGTERM" not in text


def test_a_board_that_waits_by_its_policy_is_no_fault() -> None:
    view = busy_view()
    for number, reason in enumerate(
        ("waits: on battery", "waits: too hot; sensors: press: silent", "waits: on battery", "cannot be read")
    ):
        view.observe(
            DeviceState(device_id=f"watch-{number}", state="idle", reason=reason), 0.0, device_id=f"watch-{number}"
        )
    console = Console(file=io.StringIO(), width=100, height=40, force_terminal=True, color_system="standard")
    console.print(fleet_table(view.summary(), view.rows(0.0), CAPTION, width=100, height=40))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().rstrip().splitlines()[-3:]
    assert "too hot; sensors: press: silent" in lines[0]
    assert "cannot be read" in lines[1]
    assert "and 1 more: waits: on battery" in lines[2]
    assert ["\x1b[33m" in line for line in lines] == [True, True, False]


def test_reasons_of_a_large_fleet_leave_room_for_its_devices() -> None:
    view = busy_view(30)
    for number in range(30):
        reason = f"reason {number} " + "x" * 400
        view.observe(
            DeviceState(device_id=f"watch-{number + 1}", state="idle", reason=reason),
            0.0,
            device_id=f"watch-{number + 1}",
        )

    lines = drawn(view, 80, height=24).splitlines()

    assert len(lines) <= 24
    assert sum(": reason" in line for line in lines) == 3
    assert all(cell_len(line) <= 80 for line in lines)
