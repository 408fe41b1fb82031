"""Training in float64, example by example and layer by layer: slow, plain, and written apart from the product."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Layers = list[tuple[Array, Array]]


def unpack(spec: dict[str, Any], vector: NDArray[Any]) -> Layers:
    widths = [spec["inputs"], *spec.get("hidden", []), spec["outputs"]]
    layers: Layers = []
    position = 0
    for i in range(len(widths) - 1):
        rows, columns = widths[i], widths[i + 1]
        weight = np.array(vector[position : position + rows * columns], dtype=np.float64).reshape(rows, columns)
        position += rows * columns
        bias = np.array(vector[position : position + columns], dtype=np.float64)
        position += columns
        layers.append((weight, bias))
    assert position == len(vector)
    return layers


def pack(layers: Layers) -> Array:
    return np.concatenate([part.ravel() for layer in layers for part in layer])


def example_outputs(spec: dict[str, Any], layers: Layers, example: NDArray[Any]) -> list[Array]:
    values = [example.astype(np.float64)]
    for number, (weight, bias) in enumerate(layers, start=1):
        total = weight.T @ values[-1] + bias
        if number < len(layers):
            total = np.tanh(total) if spec["activation"] == "tanh" else np.where(total > 0.0, total, 0.0)
        values.append(total)
    return values


def example_loss(spec: dict[str, Any], output: Array, wanted: Any) -> tuple[float, Array]:
    if spec["loss"] == "cross_entropy":
        normaliser = np.logaddexp.reduce(output)
        target = np.eye(len(output))[wanted]
        return float(normaliser - output[wanted]), np.exp(output - normaliser) - target
    error = output - np.asarray(wanted, dtype=np.float64)
    if spec["loss"] == "mse":
        return float(np.mean(error**2)), 2.0 * error / len(error)
    delta = spec["huber_delta"]
    small = np.abs(error) <= delta
    loss = np.where(small, 0.5 * error**2, delta * (np.abs(error) - 0.5 * delta))
    return float(np.mean(loss)), np.where(small, error, delta * np.sign(error)) / len(error)


def loss_and_gradient(
    spec: dict[str, Any], vector: NDArray[Any], x: Any, y: Any, weights: Any = None
) -> tuple[float, Array]:
    layers = unpack(spec, vector)
    sums: Layers = [(np.zeros_like(w), np.zeros_like(b)) for w, b in layers]
    total = 0.0
    for example, wanted in zip(x, y, strict=True):
        values = example_outputs(spec, layers, example)
        loss, slope = example_loss(spec, values[-1], wanted)
        weight = 1.0 if weights is None else weights[wanted]
        total += loss * weight
        slope = slope * weight
        for i in reversed(range(len(layers))):
            sums[i] = (sums[i][0] + np.outer(values[i], slope), sums[i][1] + slope)
            if i:
                slope = layers[i][0] @ slope
                slope *= 1.0 - values[i] ** 2 if spec["activation"] == "tanh" else values[i] > 0.0
    penalty = sum(float(np.sum(w**2)) for w, _ in layers) * spec["l2"] / 2.0
    gradient = [(gw / len(x) + spec["l2"] * w, gb / len(x)) for (gw, gb), (w, _) in zip(sums, layers, strict=True)]
    return total / len(x) + penalty, pack(gradient)


def train(spec: dict[str, Any], start: NDArray[Any], x: Any, y: Any, plan: dict[str, Any], *, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    w = np.array(start, dtype=np.float64)
    start = w.copy()
    velocity = np.zeros_like(w)
    first, second, steps = np.zeros_like(w), np.zeros_like(w), 0
    for _ in range(plan["epochs"]):
        order = rng.permutation(len(x))
        while len(order):
            rows, order = order[: plan["batch_size"]], order[plan["batch_size"] :]
            _, g = loss_and_gradient(spec, w, x[rows], y[rows])
            g = g + plan["proximal"] * (w - start)
            length = np.sqrt(np.sum(g**2))
            if plan["clip_norm"] and length > plan["clip_norm"]:
                g = g * plan["clip_norm"] / length
            steps += 1
            if plan["optimizer"] == "sgd":
                velocity = plan["momentum"] * velocity + g
                w = w - plan["learning_rate"] * velocity
            else:
                first = 0.9 * first + 0.1 * g
                second = 0.999 * second + 0.001 * g**2
                unbiased = second / (1 - 0.999**steps)
                w = w - plan["learning_rate"] * (first / (1 - 0.9**steps)) / (np.sqrt(unbiased) + 1e-8)
    return w
