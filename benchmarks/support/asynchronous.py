"""A federation in one process, under a clock of its own: real models, codec, buffer, staleness, steps; no messages."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.buffer import Buffer, Contribution
from aggregator.configuration import AggregationTable
from aggregator.server_optimizer import server_optimizer
from aggregator.staleness import staleness_weight
from aggregator.stepping import initial_state, step
from models import Dataset, Model, TrainingPlan, local_train
from protocol import tensors

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """Devices that pull the current version when they are free, train it, and report when they are done."""

    model: Model
    plan: TrainingPlan
    devices: Sequence[Dataset]
    slowness: Sequence[float]
    """Of each device: the time that it takes for an example."""
    goal: int
    """So many updates make a version."""
    codec: str = "int8"
    aggregation: AggregationTable

    def run(self, start: Vector, versions: int, seed: int, look: Callable[[int, Vector], None]) -> float:
        """Go on until so many versions are made, each shown to ``look``; return the mean staleness of the updates."""
        optimizer, weight_of = server_optimizer(self.aggregation), staleness_weight(self.aggregation)
        size = self.model.layout.size
        state, buffer, version = initial_state(start.copy(), optimizer), Buffer(size), 0
        rng = np.random.default_rng(seed)
        history = {0: start}
        waiting: list[int] = []
        running = [(self._duration(device, rng), device, 0) for device in range(len(self.devices))]
        heapq.heapify(running)
        lags: list[int] = []
        while version < versions:
            now, device, base = heapq.heappop(running)
            lag = version - base
            if lag <= self.aggregation.max_staleness:
                delta = self._delta(device, base, history[base], seed)
                contribution = self._contribution(device, base, lag, weight_of(lag))
                buffer.add(contribution, delta)
                lags.append(lag)
            waiting.append(device)  # it has given its share to the open version
            if len(buffer) >= self.goal:
                state, buffer, version = (
                    step(buffer, state, optimizer, self.aggregation).server,
                    Buffer(size),
                    version + 1,
                )
                history[version] = state.master
                look(version, state.master)
                for free in waiting:
                    heapq.heappush(running, (now + self._duration(free, rng), free, version))
                waiting = []
                oldest = min(base for _, _, base in running)
                history = {number: vector for number, vector in history.items() if number >= oldest}
        return float(np.mean(lags))

    def _delta(self, device: int, base: int, parameters: Vector, seed: int) -> Vector:
        rng = np.random.default_rng([seed, device, base])
        trained = local_train(self.model, parameters, self.devices[device], self.plan, rng).parameters
        sent = tensors.encode(self.codec, trained - parameters, rng)
        return tensors.decode(self.codec, sent, len(parameters))

    def _contribution(self, device: int, base: int, lag: int, weight: float) -> Contribution:
        examples = len(self.devices[device])
        return Contribution(
            device_id=str(device),
            incarnation="0" * 16,
            sequence=base + 1,
            base_version=base,
            staleness=lag,
            num_examples=examples,
            num_steps=1,
            weight=examples * weight,
            update_bytes=0,
            metrics={},
        )

    def _duration(self, device: int, rng: np.random.Generator) -> float:
        # Heavy tails: a board that is busy takes several times as long.
        return self.slowness[device] * len(self.devices[device]) * float(rng.lognormal(0.0, 0.5))
