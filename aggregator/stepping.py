"""From a full buffer to a candidate for the next version, and whether it may be published."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from aggregator.buffer import Buffer
from aggregator.configuration import AggregationTable, EvaluationTable
from aggregator.records import ServerState
from aggregator.server_optimizer import ServerOptimizer

Spread: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From what updates hold to the whole model: 0 for parameters that devices keep to themselves."""


def _whole(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector


Evaluator: TypeAlias = Callable[[NDArray[np.float32]], dict[str, float]]
"""Metrics of a parameter vector on the aggregator's own data; pure, and empty when there are no data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What the server optimizer made of a buffer."""

    server: ServerState
    norm: float
    """Euclidean norm of the step."""


def initial_state(master: NDArray[np.float32], optimizer: ServerOptimizer) -> ServerState:
    """Return the state that the first step, or the first one with this optimizer, starts from."""
    return ServerState(master=master, optimizer=optimizer.name, vectors=optimizer.initial(master.size))


def step(
    buffer: Buffer, state: ServerState, optimizer: ServerOptimizer, settings: AggregationTable, spread: Spread = _whole
) -> Step:
    """Return the next server state: ``master + optimizer(weighted mean of the deltas)``.

    Parameters for which ``spread`` gives 0 stay as they are, bit for bit, whatever the optimizer.

    With damping the step is scaled by the buffer's mean ``s(tau)``: a buffer of old updates moves the model less.
    """
    if state.optimizer != optimizer.name:
        state = initial_state(state.master, optimizer)
    scale = buffer.mean_staleness_weight() if settings.damping else 1.0
    # An overflow gives an infinity, which the gate names; a warning on the console would tell nobody more.
    with np.errstate(over="ignore", invalid="ignore"):
        move, vectors = optimizer.step(spread(buffer.sum.mean()), state.vectors, scale)
        master = (state.master.astype(np.float64) + move).astype(np.float32)
        norm = float(np.linalg.norm(move))
    return Step(server=ServerState(master=master, optimizer=optimizer.name, vectors=vectors), norm=norm)


def objection(candidate: Step, metrics: dict[str, float], current: dict[str, float], settings: EvaluationTable) -> str:
    """Return why the candidate must not be published; empty when it may."""
    if not np.isfinite(candidate.server.master).all():
        return "its parameters are not finite"
    if settings.max_step_norm and candidate.norm > settings.max_step_norm:
        return f"its step has norm {candidate.norm:.4g}, {settings.max_step_norm:g} is allowed"
    return _worse_accuracy(metrics, current, settings) or _worse_loss(metrics, current, settings)


def _worse_accuracy(metrics: dict[str, float], current: dict[str, float], settings: EvaluationTable) -> str:
    new, old = metrics.get("accuracy"), current.get("accuracy")
    if new is None or old is None or new >= old - settings.max_accuracy_drop:
        return ""
    return f"accuracy falls from {old:.4f} to {new:.4f}, a drop of {settings.max_accuracy_drop:g} is allowed"


def _worse_loss(metrics: dict[str, float], current: dict[str, float], settings: EvaluationTable) -> str:
    new, old = metrics.get("loss"), current.get("loss")
    if not settings.max_loss_ratio or new is None or old is None or new <= old * settings.max_loss_ratio:
        return ""
    if math.isnan(old):
        return ""  # the current version is no yardstick, and nothing would ever be better than it
    return f"loss rises from {old:.4g} to {new:.4g}, a factor of {settings.max_loss_ratio:g} is allowed"
