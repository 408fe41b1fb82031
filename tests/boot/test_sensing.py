"""Boards that collect their own examples, under the real units: they learn, predict, wait, sleep and come back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.boot.board import Board
from tests.boot.conftest import Ground
from tests.boot.federation import device_state, versions
from tests.boot.sensors import (
    AGGREGATOR,
    COOL,
    DEVICES,
    HOT,
    STATES,
    audited,
    give_it_sensors,
    play,
    predictions,
    rows,
    set_temperature,
    status,
    stop_playing,
)

FIRST, SECOND = DEVICES
SPEED = 4.0


@pytest.fixture(scope="module")
def sensing_layer(ground: Ground, enrolled_layer: Path) -> Path:
    with ground.board("sensing", enrolled_layer) as board:
        give_it_sensors(board, ground.workshop / "recordings")
        board.power_off()
    return board.upper


@pytest.fixture
def sensing(
    ground: Ground, sensing_layer: Path, enrolled_layer: Path, request: pytest.FixtureRequest
) -> Iterator[Board]:
    """Two agents that wait for their watches, and those begin to measure."""
    with ground.board(request.node.name, sensing_layer, enrolled_layer) as board:
        for unit in DEVICES.values():
            board.wait_active(unit)
        play(board, SPEED)
        yield board


def wait_for_more_versions(board: Board, more: int = 2) -> None:
    reached = versions(board) + more
    board.wait(lambda: versions(board) >= reached, f"version {reached}")


def end(board: Board) -> None:
    """End all, in the order in which a machine goes down, and look into the books."""
    stop_playing(board)
    board.run("systemctl", "stop", *DEVICES.values(), AGGREGATOR)
    assert "faults=()" in audited(board)
    for unit in DEVICES.values():
        told = board.journal("--unit", unit)
        assert "Traceback" not in told
        assert "Operation not permitted" not in told
        assert "Read-only file system" not in told


def test_they_learn_from_their_sensors_predict_and_go_on_after_a_stop_and_a_reboot(sensing: Board) -> None:
    board = sensing
    wait_for_more_versions(board)
    for device in DEVICES:
        assert rows(board, device) > 100
        told = predictions(board, device)
        assert {prediction["device"] for prediction in told} == {device}
        assert all(0 < prediction["confidence"] <= 1 for prediction in told)

    stop_in_the_middle(board, FIRST)
    resumed = status(board, FIRST)["trainings_resumed"]
    board.run("systemctl", "start", DEVICES[FIRST])
    board.wait(lambda: status(board, FIRST).get("trainings_resumed", 0) == resumed + 1, "the training to go on")
    assert "training goes on" in board.journal("--unit", DEVICES[FIRST])
    wait_for_more_versions(board)

    stop_playing(board)
    before = {device: rows(board, device) for device in DEVICES}
    made, sequence = versions(board), status(board, FIRST)["next_sequence"]
    board.power_off()
    board.boot()
    for unit in DEVICES.values():
        board.wait_active(unit)
    for device in DEVICES:
        assert rows(board, device) >= before[device]
    wait_for_more_versions(board)
    assert versions(board) > made
    assert status(board, FIRST)["next_sequence"] >= sequence
    play(board, 1.0)
    for device in DEVICES:
        assert all(told["version"] >= made for told in predictions(board, device))
        board.wait(lambda device=device: rows(board, device) > before[device], "more rows")  # type: ignore[misc]
    end(board)


def test_heat_stops_a_training_and_sleepers_wake(sensing: Board) -> None:
    board = sensing
    wait_for_more_versions(board)
    board.wait(lambda: device_state(board, SECOND).get("state") == "sleeping", f"{SECOND} to sleep")
    slept = versions(board)
    board.wait(lambda: versions(board) >= slept + 2, "versions, for which it must have been awake")

    set_temperature(board, HOT)
    board.wait(lambda: "CPU at 83 C" in str(device_state(board, FIRST).get("reason")), "the state to say why")
    board.wait(lambda: device_state(board, FIRST)["state"] == "idle", "the training to stop")
    known = rows(board, FIRST)
    board.wait(lambda: rows(board, FIRST) > known, "rows, which are collected all the same")
    assert status(board, FIRST)["policy"] == "waits: CPU at 83 C, goes on below 75 C"
    assert predictions(board, FIRST, 1)
    hot = versions(board)

    set_temperature(board, COOL)
    board.wait(lambda: versions(board) > hot, "a version, when it is cool again")
    board.wait(lambda: device_state(board, FIRST).get("reason") == "", "the reason to go")
    end(board)


def stop_in_the_middle(board: Board, device: str) -> None:
    """Stop the agent while it trains; what there is of that must have been kept."""
    board.wait(lambda: 0 < done(board, device) <= 0.5, "a training that is under way")
    board.run("systemctl", "stop", DEVICES[device])
    assert 0 < done(board, device) < 1, board.journal("--unit", DEVICES[device])
    owner = board.run("stat", "-c", "%U", f"{STATES[device]}/samples.sqlite").strip()
    assert owner == "fedmq-agent"


def done(board: Board, device: str) -> float:
    """Return how much of a training is on the disk."""
    kept = status(board, device).get("kept_training")
    return kept["steps"] / kept["steps_planned"] if kept else 0.0
