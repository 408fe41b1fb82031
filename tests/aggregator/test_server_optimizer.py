from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from aggregator.buffer import Buffer
from aggregator.configuration import AggregationTable, EvaluationTable
from aggregator.records import ServerState
from aggregator.server_optimizer import Adam, Momentum, Plain, ServerOptimizer, server_optimizer
from aggregator.stepping import initial_state, objection, step
from tests.aggregator.test_buffer import contribution

RNG = np.random.default_rng(7)
DIRECTIONS = RNG.normal(size=(6, 5))


def steps_of(optimizer: ServerOptimizer, scale: float = 1.0) -> list[NDArray[np.float64]]:
    state = optimizer.initial(5)
    moves = []
    for direction in DIRECTIONS:
        before = direction.copy(), [vector.copy() for vector in state]
        move, new = optimizer.step(direction, state, scale)
        np.testing.assert_array_equal(direction, before[0])
        for vector, kept in zip(state, before[1], strict=True):
            np.testing.assert_array_equal(vector, kept, "a withheld version needs the old state as it was")
        moves.append(move)
        state = new
    return moves


def test_plain_is_the_mean_itself() -> None:
    np.testing.assert_array_equal(steps_of(Plain()), DIRECTIONS)
    np.testing.assert_allclose(steps_of(Plain(0.3)), 0.3 * DIRECTIONS, rtol=1e-15)


def test_momentum_follows_its_recurrence() -> None:
    expected = [
        [0.5 * sum(0.9 ** (t - s) * DIRECTIONS[s][i] for s in range(t + 1)) for i in range(5)] for t in range(6)
    ]

    np.testing.assert_allclose(steps_of(Momentum(0.5, 0.9)), expected, rtol=1e-12)


def test_adam_follows_the_paper_number_by_number() -> None:
    lr, b1, b2, eps = 0.1, 0.9, 0.99, 1e-3
    expected = np.zeros((6, 5))
    for i in range(5):
        m = v = 0.0
        for t in range(6):
            g = float(DIRECTIONS[t][i])
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * g**2
            expected[t][i] = lr * m / (v**0.5 + eps)

    np.testing.assert_allclose(steps_of(Adam(lr, b1, b2, eps)), expected, rtol=1e-12)


@pytest.mark.parametrize("optimizer", [Plain(0.3), Momentum(0.3, 0.9), Adam(0.1, 0.9, 0.99, 1e-3)])
def test_a_scale_scales_the_step_and_leaves_the_state(optimizer: ServerOptimizer) -> None:
    np.testing.assert_allclose(steps_of(optimizer, 0.25), 0.25 * np.array(steps_of(optimizer)), rtol=1e-12)


def test_settings_choose_the_optimizer() -> None:
    assert server_optimizer(AggregationTable(server_learning_rate=0.5)) == Plain(0.5)
    momentum = AggregationTable(server_optimizer="momentum", server_learning_rate=0.5, server_momentum=0.8)
    assert server_optimizer(momentum) == Momentum(0.5, 0.8)
    adam = AggregationTable(server_optimizer="adam", server_beta2=0.95, server_epsilon=1e-2)
    assert server_optimizer(adam) == Adam(1.0, 0.9, 0.95, 1e-2)


def filled(weights: list[float], value: float = 1.0, size: int = 5) -> Buffer:
    buffer = Buffer(size)
    for weight in weights:
        buffer.add(contribution("d", 10, weight), np.full(size, value, np.float32))
    return buffer


def server(optimizer: ServerOptimizer, size: int = 5) -> ServerState:
    return initial_state(np.zeros(size, np.float32), optimizer)


def test_damping_shortens_the_step_of_old_updates() -> None:
    plain = Plain()

    undamped = step(filled([10.0, 5.0]), server(plain), plain, AggregationTable())
    damped = step(filled([10.0, 5.0]), server(plain), plain, AggregationTable(damping=True))

    np.testing.assert_array_equal(undamped.server.master, np.ones(5, np.float32))
    np.testing.assert_allclose(damped.server.master, np.full(5, 0.75), rtol=1e-7)
    assert damped.norm == pytest.approx(0.75 * 5**0.5)


def test_the_state_of_another_optimizer_is_not_taken_over() -> None:
    old = ServerState(master=np.ones(5, np.float32), optimizer="momentum", vectors=(np.full(5, 100.0),))
    adam = Adam(0.1, 0.9, 0.99, 1e-3)

    made = step(filled([10.0]), old, adam, AggregationTable())

    assert made.server.optimizer == "adam"
    expected = 1.0 + adam.step(np.ones(5), adam.initial(5), 1.0)[0]
    np.testing.assert_allclose(made.server.master, expected, rtol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("optimizer", [Plain(1e300), Momentum(1e39, 0.9), Plain(1e39)])
def test_an_overflow_is_named_and_no_warning_is_shown(optimizer: ServerOptimizer) -> None:
    made = step(filled([10.0], value=1e30), server(optimizer), optimizer, AggregationTable())

    assert objection(made, {}, {}, EvaluationTable()) == "its parameters are not finite"


def test_the_step_norm_is_bounded() -> None:
    plain = Plain()
    made = step(filled([10.0], size=4), server(plain, 4), plain, AggregationTable())

    assert made.norm == 2.0
    assert not objection(made, {}, {}, EvaluationTable(max_step_norm=2.0))
    assert "norm 2" in objection(made, {}, {}, EvaluationTable(max_step_norm=1.9))


@pytest.mark.parametrize(
    ("new", "old", "allowed"),
    [
        ({"accuracy": 0.85}, {"accuracy": 0.9}, True),
        ({"accuracy": 0.75}, {"accuracy": 0.9}, False),
        ({"accuracy": float("nan")}, {"accuracy": 0.9}, False),
        ({"accuracy": 0.1}, {}, True),
        ({"loss": 2.9}, {"loss": 1.0}, True),
        ({"loss": 3.1}, {"loss": 1.0}, False),
        ({"loss": float("nan")}, {"loss": 1.0}, False),
        ({"loss": float("inf")}, {"loss": 1.0}, False),
        ({"loss": 1.0}, {"loss": float("nan")}, True),
        ({"accuracy": 0.95, "loss": 9.0}, {"accuracy": 0.9, "loss": 1.0}, False),
    ],
)
def test_the_gate_compares_with_the_current_version(
    new: dict[str, float], old: dict[str, float], *, allowed: bool
) -> None:
    plain = Plain()
    made = step(filled([10.0]), server(plain), plain, AggregationTable())

    found = objection(made, new, old, EvaluationTable(max_accuracy_drop=0.1, max_loss_ratio=3.0))

    assert (found == "") is allowed


def test_a_gate_without_bounds_lets_everything_finite_pass() -> None:
    plain = Plain()
    made = step(filled([10.0]), server(plain), plain, AggregationTable())

    assert not objection(made, {"accuracy": 0.0, "loss": 99.0}, {"accuracy": 1.0, "loss": 0.1}, EvaluationTable())
