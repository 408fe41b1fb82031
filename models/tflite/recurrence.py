"""A recurrent layer as basic operators, step by step: no runtime needs to know of loops or of the layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from models.errors import TfliteError
from models.parameters import FloatArray
from models.tflite.graph import Drawing
from models.tflite.schema import Operator

MAX_UNROLLED_STEPS = 1024
"""Each step is some fourteen operators, 3 KB of a file: beyond this the file is mostly that."""


def unroll(drawing: Drawing, name: str, parts: Mapping[str, FloatArray], x: int, shape: tuple[int, ...]) -> list[int]:
    """Return the states after each step of a gated recurrent unit, formulas as in ``models.layers.Gru``.

    What depends on the inputs alone is one product for all steps. The first state is zero and leaves terms out.
    """
    steps, channels = shape
    if steps > MAX_UNROLLED_STEPS:
        raise TfliteError(f"{name} has {steps} steps; at most {MAX_UNROLLED_STEPS} can be written step by step")
    return _Unit(drawing, name, parts).run(x, steps, channels)


class _Unit:
    def __init__(self, drawing: Drawing, name: str, parts: Mapping[str, FloatArray]) -> None:
        self._drawing = drawing
        self._name = name
        units = len(parts["recurrent_bias"])
        self._units = units
        self._weight = drawing.constant(f"{name}.weight", parts["weight"])
        self._bias = drawing.constant(f"{name}.bias", parts["bias"])
        self._to_gates = drawing.constant(f"{name}.recurrent_gates", parts["recurrent"][: 2 * units])
        self._no_bias = drawing.constant(f"{name}.no_bias", np.zeros(2 * units, np.float32))
        self._to_candidate = drawing.constant(f"{name}.recurrent_candidate", parts["recurrent"][2 * units :])
        self._recurrent_bias = drawing.constant(f"{name}.recurrent_bias", parts["recurrent_bias"])
        # The same values once more: as a bias it is stored in 32 bits, as a factor of the first step in 8.
        self._first_before = drawing.constant(f"{name}.first", parts["recurrent_bias"])

    def run(self, x: int, steps: int, channels: int) -> list[int]:
        drawing, width = self._drawing, 3 * self._units
        rows = drawing.reshape(f"{self._name}.rows", x, (channels,))
        projected = drawing.dense(f"{self._name}.projected", rows, self._weight, self._bias)
        series = drawing.reshape(f"{self._name}.inputs", projected, (steps * width,))
        states: list[int] = []
        for step in range(steps):
            begin = step * width
            middle = begin + 2 * self._units
            gates = drawing.slice(f"{self._name}.{step}.to_gates", series, 1, begin, middle)
            candidate = drawing.slice(f"{self._name}.{step}.to_candidate", series, 1, middle, begin + width)
            states.append(self._step(step, gates, candidate, states[-1] if states else None))
        return states

    def _step(self, step: int, to_gates: int, to_candidate: int, state: int | None) -> int:
        reset, update = self._gates(step, to_gates, state)
        before = self._first_before
        if state is not None:
            before = self._drawing.dense(self._called(step, "before"), state, self._to_candidate, self._recurrent_bias)
            self._like("before", before)
        kept = self._combine(step, "kept", Operator.MUL, reset, before)
        total = self._combine(step, "total", Operator.ADD, to_candidate, kept)
        candidate = self._drawing.apply(self._called(step, "candidate"), Operator.TANH, total)
        if state is None:
            new = self._combine(step, "new", Operator.MUL, update, candidate)
            return self._combine(step, "state", Operator.SUB, candidate, new)
        change = self._combine(step, "change", Operator.SUB, state, candidate)
        old = self._combine(step, "old", Operator.MUL, update, change)
        return self._combine(step, "state", Operator.ADD, candidate, old)

    def _gates(self, step: int, to_gates: int, state: int | None) -> tuple[int, int]:
        drawing, total = self._drawing, to_gates
        if state is not None:
            recurrent = drawing.dense(self._called(step, "recurrent"), state, self._to_gates, self._no_bias)
            self._like("recurrent", recurrent)
            total = self._combine(step, "gates_total", Operator.ADD, to_gates, recurrent)
        gates = drawing.apply(self._called(step, "gates"), Operator.LOGISTIC, total)
        reset = drawing.slice(self._called(step, "reset"), gates, 1, 0, self._units)
        return reset, drawing.slice(self._called(step, "update"), gates, 1, self._units, 2 * self._units)

    def _combine(self, step: int, role: str, operator: Operator, x: int, y: int) -> int:
        return self._like(role, self._drawing.combine(self._called(step, role), operator, x, y))

    def _like(self, role: str, tensor: int) -> int:
        return self._drawing.liken(f"{self._name}.{role}", tensor)

    def _called(self, step: int, role: str) -> str:
        return f"{self._name}.{step}.{role}"
