"""A gated recurrent unit over the steps of a sequence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.layers.base import ONE, BoundLayer, Shape, Tie, lying, start_uniform, start_weights
from models.parameters import Entry, FloatArray

_HALF = np.float32(0.5)
_PARTS = ("weight", "recurrent", "bias", "recurrent_bias")


@dataclass(frozen=True, slots=True)
class Gru:
    """Cho et al. 2014, in the form of PyTorch and of Keras' ``reset_after``. From ``h = 0``, for every step ``x``:

    ``r = sigmoid(W_r x + b_r + U_r h)``, ``z = sigmoid(W_z x + b_z + U_z h)``,
    ``n = tanh(W_n x + b_n + r * (U_n h + c))``, ``h <- (1 - z) * n + z * h``.

    ``weight`` is ``W`` ``(3 units, channels)``, ``recurrent`` is ``U`` ``(3 units, units)``, ``bias`` is ``b``
    ``(3 units,)``, each in the order r, z, n; ``recurrent_bias`` is ``c`` ``(units,)``. (A second bias of r and z
    would be added to the first.)
    """  # noqa: D400 - the formulas follow

    name: str
    input_shape: Shape
    """Steps and channels."""
    units: int
    sequence: bool
    """Whether ``h`` after every step comes out, or only the last."""
    kind = "gru"

    @property
    def output_shape(self) -> Shape:
        """The units, for every step if wanted."""
        return (self.input_shape[0], self.units) if self.sequence else (self.units,)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Names and shapes of the parameters."""
        units, gates = self.units, 3 * self.units
        shapes = {
            "weight": (gates, self.input_shape[1]),
            "recurrent": (gates, units),
            "bias": (gates,),
            "recurrent_bias": (units,),
        }
        return tuple((f"{self.name}.{part}", shape) for part, shape in shapes.items())

    @property
    def decayed(self) -> tuple[str, ...]:
        """Both matrices."""
        return f"{self.name}.weight", f"{self.name}.recurrent"

    @property
    def kept(self) -> int:
        """Input, gates, candidates and states of every step, and the slopes that the way back works with."""
        return self.input_shape[0] * (2 * self.input_shape[1] + 11 * self.units)

    @property
    def work(self) -> int:
        """Both matrices at every step; the functions of the gates cost as much as some ten products each."""
        return self.input_shape[0] * 3 * self.units * (self.input_shape[1] + self.units + 10)

    def to_data(self) -> dict[str, Any]:
        """Return the layer as a table of a spec."""
        data: dict[str, Any] = {"kind": self.kind, "name": self.name, "units": self.units}
        return data | ({"sequence": True} if self.sequence else {})

    def init(self, views: dict[str, FloatArray], rng: np.random.Generator) -> None:
        """Input weights as Glorot and Bengio's, gate by gate; recurrent ones uniform up to ``units ** -0.5``."""
        views[f"{self.name}.bias"][...] = 0.0
        views[f"{self.name}.recurrent_bias"][...] = 0.0
        start_weights(views[f"{self.name}.weight"], "glorot", self.input_shape[1], self.units, rng)
        start_uniform(views[f"{self.name}.recurrent"], 1.0 / math.sqrt(self.units), rng)

    def bind(self, tie: Tie) -> BoundLayer:
        """Return the layer for batches of ``tie.rows``."""
        return _Bound(self, tie)


class _Bound:
    """Inside, steps come first and then rows: what a step needs is next to each other, and one product does all inputs.

    The sigmoid is ``tanh(a / 2) / 2 + 1 / 2``: NumPy's ``tanh`` is vectorized, and nothing overflows.
    """

    def __init__(self, layer: Gru, tie: Tie) -> None:
        steps, channels = layer.input_shape
        units, rows = layer.units, tie.rows
        self._units, self._layer = units, layer
        self._values = {part: tie.values[f"{layer.name}.{part}"] for part in _PARTS}
        self._gradients = {part: tie.gradients[f"{layer.name}.{part}"] for part in _PARTS}
        self._x = np.empty((steps, rows, channels), np.float32)
        self._gates = np.empty((steps, rows, 2 * units), np.float32)
        self._candidates = np.empty((steps, rows, units), np.float32)
        self._before_reset = np.empty((steps, rows, units), np.float32)
        self._states = np.zeros((steps + 1, rows, units), np.float32)
        self._output = np.empty(lying(layer.output_shape, rows), np.float32) if layer.sequence else self._states[-1]
        self._recurrent = (np.empty((units, 2 * units), np.float32), np.empty((units, units), np.float32))
        self._gate_work = np.empty((rows, 2 * units), np.float32)
        self._work = np.empty((rows, units), np.float32)
        self._ones = np.ones(steps * rows, np.float32)
        self._buffers = tie.buffers
        self._shape = lying(layer.input_shape, rows)
        self._downstream = "" if tie.first else tie.buffers.reserve_downstream(math.prod(self._shape))
        for name, floats in {"slopes": 2 * units, "gate slopes": 2 * units, "candidate slopes": units}.items():
            tie.buffers.reserve(f"gru {name}", steps * rows * floats)
        tie.buffers.reserve("gru x", self._x.size)

    def forward(self, x: FloatArray, rng: np.random.Generator | None) -> FloatArray:
        del rng
        self._project(x)
        gate_work, work = self._gate_work, self._work
        to_gates, to_candidate = self._recurrent
        bias, units = self._values["recurrent_bias"], self._units
        state = self._states[0]
        steps = zip(self._gates, self._candidates, self._before_reset, self._states[1:], strict=True)
        for gates, candidate, before_reset, following in steps:
            self._buffers.between()
            np.dot(state, to_gates, out=gate_work)
            np.add(gates, gate_work, out=gates)
            np.tanh(gates, out=gates)
            np.multiply(gates, _HALF, out=gates)
            np.add(gates, _HALF, out=gates)
            np.dot(state, to_candidate, out=before_reset)
            np.add(before_reset, bias, out=before_reset)
            np.multiply(gates[:, :units], before_reset, out=work)
            np.add(candidate, work, out=candidate)
            np.tanh(candidate, out=candidate)
            np.subtract(state, candidate, out=work)
            np.multiply(gates[:, units:], work, out=work)
            np.add(candidate, work, out=following)
            state = following
        if self._layer.sequence:
            np.copyto(self._output, self._states[1:].transpose(2, 0, 1))
        return self._output

    def _project(self, x: FloatArray) -> None:
        """Write the share of the inputs in gates (halved, see above) and candidates, for all steps at once."""
        units = self._units
        np.copyto(self._x, x.transpose(1, 2, 0))
        flat = self._x.reshape(-1, self._x.shape[2])
        weight, bias, recurrent = self._values["weight"], self._values["bias"], self._values["recurrent"]
        gates, candidates = self._gates.reshape(-1, 2 * units), self._candidates.reshape(-1, units)
        np.dot(flat, weight[: 2 * units].T, out=gates)
        np.add(gates, bias[: 2 * units], out=gates)
        np.multiply(gates, _HALF, out=gates)
        np.dot(flat, weight[2 * units :].T, out=candidates)
        np.add(candidates, bias[2 * units :], out=candidates)
        np.multiply(recurrent[: 2 * units].T, _HALF, out=self._recurrent[0])
        np.copyto(self._recurrent[1], recurrent[2 * units :].T)

    def backward(self, upstream: FloatArray) -> FloatArray | None:
        gate_slopes = self._buffers.view("gru gate slopes", self._gates.shape)
        candidate_slopes = self._buffers.view("gru candidate slopes", self._candidates.shape)
        self._go_back(upstream, gate_slopes, candidate_slopes)
        gates, candidates = gate_slopes.reshape(-1, 2 * self._units), candidate_slopes.reshape(-1, self._units)
        self._write_gradients(gates, candidates)
        if not self._downstream:
            return None
        weight, turn = self._values["weight"], 2 * self._units
        x = self._x.reshape(-1, self._x.shape[2])  # has done its duty
        np.dot(gates, weight[:turn], out=x)
        more = np.dot(candidates, weight[turn:], out=self._buffers.view("gru x", x.shape))
        np.add(x, more, out=x)
        downstream = self._buffers.view(self._downstream, self._shape)
        np.copyto(downstream, self._x.transpose(2, 0, 1))
        return downstream

    def _go_back(self, upstream: FloatArray, gate_slopes: FloatArray, candidate_slopes: FloatArray) -> None:
        """Write the loss by what is inside of the sigmoids and of the tanh, from the last step to the first."""
        units = self._units
        by_candidate, by_update = self._slopes(candidate_slopes)
        recurrent = self._values["recurrent"]
        loss, work = self._work, self._gate_work.reshape(2, -1, units)[0]
        each = upstream.transpose(1, 2, 0) if self._layer.sequence else None
        np.copyto(loss, upstream if each is None else each[-1])
        for step in range(len(self._gates) - 1, -1, -1):
            self._buffers.between()
            gates, slopes, candidate = self._gates[step], gate_slopes[step], candidate_slopes[step]
            np.multiply(loss, by_candidate[step], out=candidate)
            np.multiply(loss, by_update[step], out=slopes[:, units:])
            np.multiply(candidate, self._before_reset[step], out=slopes[:, :units])
            through_reset = np.multiply(candidate, gates[:, :units], out=self._candidates[step])
            np.multiply(loss, gates[:, units:], out=loss)
            np.dot(slopes, recurrent[: 2 * units], out=work)
            np.add(loss, work, out=loss)
            np.dot(through_reset, recurrent[2 * units :], out=work)
            np.add(loss, work, out=loss)
            if each is not None and step:
                np.add(loss, each[step - 1], out=loss)

    def _slopes(self, work: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return, for all steps, the loss by the candidate's and the update gate's insides per loss by the state.

        Afterwards ``before_reset`` holds the loss by the reset gate's inside per loss by the candidate's.
        """
        reset, update = self._gates[..., : self._units], self._gates[..., self._units :]
        candidates = self._candidates
        by_candidate, by_update = self._buffers.view("gru slopes", (2, *candidates.shape))
        np.multiply(reset, reset, out=work)
        np.subtract(reset, work, out=work)
        np.multiply(self._before_reset, work, out=self._before_reset)
        np.multiply(update, update, out=work)
        np.subtract(update, work, out=work)
        np.subtract(self._states[:-1], candidates, out=by_update)
        np.multiply(by_update, work, out=by_update)
        np.multiply(candidates, candidates, out=by_candidate)
        np.subtract(ONE, by_candidate, out=by_candidate)
        np.subtract(ONE, update, out=work)
        np.multiply(by_candidate, work, out=by_candidate)
        return by_candidate, by_update

    def _write_gradients(self, gates: FloatArray, candidates: FloatArray) -> None:
        turn = 2 * self._units
        x, states = self._x.reshape(-1, self._x.shape[2]), self._states[:-1].reshape(-1, self._units)
        through_reset = self._candidates.reshape(-1, self._units)
        gradients = self._gradients
        np.dot(gates.T, x, out=gradients["weight"][:turn])
        np.dot(candidates.T, x, out=gradients["weight"][turn:])
        np.dot(gates.T, states, out=gradients["recurrent"][:turn])
        np.dot(through_reset.T, states, out=gradients["recurrent"][turn:])
        np.dot(self._ones, gates, out=gradients["bias"][:turn])
        np.dot(self._ones, candidates, out=gradients["bias"][turn:])
        np.dot(self._ones, through_reset, out=gradients["recurrent_bias"])
