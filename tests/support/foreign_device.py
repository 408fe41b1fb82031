"""A device as somebody else would write it, from docs/protocol.md alone: paho, msgpack, and the standard library.

Nothing of fedmq is imported here, and NumPy neither: what works in this file works in any language. It learns one
kind of model (softmax regression), keeps nothing on disk, and gives up at the first surprise: an example, no agent.
"""

from __future__ import annotations

import hashlib
import json
import math
import queue
import random
import secrets
import struct
import zlib
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import msgpack
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

PATIENCE_S = 100.0
BLOCK = 256

Vector = list[float]


@dataclass(frozen=True)
class Trained:
    """What a local training leads to."""

    delta: Vector
    steps: int
    examples: int


class ForeignDevice:
    """One connection to the broker; everything that arrives is put into a queue, and read in order."""

    def __init__(self, federation: str, device_id: str, port: int) -> None:
        self.federation, self.device_id = federation, device_id
        self.incarnation = secrets.token_hex(8)
        self._root = f"fedmq/v1/{federation}"
        self._arrived: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=f"foreign-{device_id}", protocol=mqtt.MQTTv311, clean_session=True
        )
        self._client.will_set(f"{self._root}/device/{device_id}/state", self._state("lost"), qos=1, retain=True)
        self._client.on_connect = self._on_connect
        self._client.on_message = lambda _client, _userdata, message: self._arrived.put(
            (message.topic, bytes(message.payload))
        )
        self._client.connect("127.0.0.1", port, keepalive=60)

    def __enter__(self) -> Self:
        self._client.loop_start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.publish(f"{self._root}/device/{self.device_id}/state", self._state("stopped"), qos=1, retain=True)
        self._client.disconnect()
        self._client.loop_stop()

    # -- the way down ------------------------------------------------------------------------------------------

    def manifest(self, version: int) -> dict[str, Any]:
        """Return the manifest of this version; older ones are passed over."""
        while True:
            found: dict[str, Any] = msgpack.unpackb(self._next(f"{self._root}/model/current"))
            assert found["type"] == "manifest"
            assert found["version"] <= version
            if found["version"] == version:
                return found

    def parameters(self, manifest: dict[str, Any]) -> Vector:
        """Fetch the blob, chunk by chunk, and return the vector in it."""
        blob = manifest["blob"]
        chunks = []
        for index in range(-(-blob["total_bytes"] // blob["chunk_bytes"])):
            topic = f"{self._root}/blob/{blob['digest']}/{index}"
            self._client.subscribe(topic, qos=1)
            chunks.append(self._next(topic))
            self._client.unsubscribe(topic)
        whole = b"".join(chunks)
        assert hashlib.sha256(whole).hexdigest() == blob["digest"]
        assert blob["encoding"] == "f32"
        assert hashlib.sha256(whole).hexdigest() == manifest["parameters"]
        return list(struct.unpack(f"<{len(whole) // 4}f", whole))

    # -- the way up --------------------------------------------------------------------------------------------

    def update(self, manifest: dict[str, Any], trained: Trained, sequence: int, **changes: Any) -> bytes:
        """Return an encoded update; ``changes`` break it on purpose."""
        codec = manifest["participation"].get("codec", "int8")
        body = {
            "type": "update",
            "federation": self.federation,
            "epoch": manifest["epoch"],
            "device_id": self.device_id,
            "incarnation": self.incarnation,
            "sequence": sequence,
            "base_version": manifest["version"],
            "num_examples": trained.examples,
            "num_steps": trained.steps,
            "codec": codec,
            "layout": manifest["layout"],
            "delta": encoded(codec, trained.delta, random.Random(sequence)),
            "metrics": {"train_loss": 1.0},
        }
        packed: bytes = msgpack.packb(body | changes, use_bin_type=True)
        return packed

    def send(self, payload: bytes) -> None:
        """Publish a message on this device's update topic."""
        shard = zlib.crc32(self.device_id.encode()) % 64
        self._client.publish(f"{self._root}/up/{shard}/{self.device_id}", payload, qos=1)

    def send_chunk(self, update: bytes, sequence: int, index: int, chunk_bytes: int) -> None:
        """Publish one chunk of an encoded update."""
        body = {
            "type": "chunk",
            "federation": self.federation,
            "device_id": self.device_id,
            "incarnation": self.incarnation,
            "sequence": sequence,
            "blob": {
                "digest": hashlib.sha256(update).hexdigest(),
                "total_bytes": len(update),
                "chunk_bytes": chunk_bytes,
                "encoding": "update",
            },
            "index": index,
            "data": update[index * chunk_bytes : (index + 1) * chunk_bytes],
        }
        self.send(msgpack.packb(body, use_bin_type=True))

    def probe(self, sequence: int) -> None:
        """Ask what became of an update."""
        body = {
            "type": "probe",
            "federation": self.federation,
            "device_id": self.device_id,
            "incarnation": self.incarnation,
            "sequence": sequence,
        }
        self.send(msgpack.packb(body, use_bin_type=True))

    def receipt(self, sequence: int) -> dict[str, Any]:
        """Return the next receipt, which must be for this update."""
        body = msgpack.unpackb(self._next(f"{self._root}/receipt/{self.device_id}"))
        found: dict[str, Any] = {"reason": "", "version": 0, "next_after_s": 0.0, "missing": [], **body}
        assert (found["type"], found["federation"]) == ("receipt", self.federation)
        assert (found["device_id"], found["incarnation"]) == (self.device_id, self.incarnation)
        assert found["sequence"] == sequence
        return found

    # -- the connection ----------------------------------------------------------------------------------------

    def _on_connect(self, client: mqtt.Client, *_rest: Any) -> None:
        wanted = (f"receipt/{self.device_id}", f"command/{self.device_id}", "command/all", "model/current")
        client.subscribe([(f"{self._root}/{topic}", 1) for topic in wanted])
        client.publish(f"{self._root}/device/{self.device_id}/state", self._state("idle"), qos=1, retain=True)

    def _state(self, state: str) -> str:
        return json.dumps({"device_id": self.device_id, "state": state})

    def _next(self, topic: str) -> bytes:
        while True:
            found, payload = self._arrived.get(timeout=PATIENCE_S)
            if found == topic:
                return payload


def layout_digest(inputs: int, outputs: int) -> str:
    """Return the digest of softmax regression's layout, as the document describes it."""
    text = f"fedmq layout 1\ndense0.weight {inputs}x{outputs}\ndense0.bias {outputs}\n"
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def train(manifest: dict[str, Any], start: Vector, x: list[Vector], y: list[int]) -> Trained:
    """Carry out the plan with plain SGD on softmax regression, the examples in the order in which they come."""
    plan, model = manifest["training"], manifest["model"]
    assert (model["kind"], plan["optimizer"]) == ("softmax", "sgd")
    weights = list(start)
    velocity = [0.0] * len(start)
    steps = 0
    for _ in range(plan["epochs"]):
        for first in range(0, len(x), plan["batch_size"]):
            if plan["max_steps"] and steps == plan["max_steps"]:
                break
            rows = range(first, min(first + plan["batch_size"], len(x)))
            counting = plan.get("class_weights") or [1.0] * model["outputs"]
            gradient = softmax_gradient(model, weights, [x[row] for row in rows], [y[row] for row in rows], counting)
            for i in range(len(weights)):
                gradient[i] += plan["proximal"] * (weights[i] - start[i])
            norm = math.sqrt(sum(value * value for value in gradient))
            scale = plan["clip_norm"] / norm if 0 < plan["clip_norm"] < norm else 1.0
            for i in range(len(weights)):
                velocity[i] = plan["momentum"] * velocity[i] + scale * gradient[i]
                weights[i] -= plan["learning_rate"] * velocity[i]
            steps += 1
    return Trained([after - before for after, before in zip(weights, start, strict=True)], steps, len(x))


def softmax_gradient(model: dict[str, Any], weights: Vector, x: list[Vector], y: list[int], counting: Vector) -> Vector:
    """Return the gradient of the mean weighted cross-entropy over the batch, and of the L2 penalty on the matrix."""
    inputs, outputs = model["inputs"], model["outputs"]
    bias = inputs * outputs
    gradient = [model["l2"] * value for value in weights[:bias]] + [0.0] * outputs
    for features, label in zip(x, y, strict=True):
        scores = [
            weights[bias + j] + sum(features[i] * weights[i * outputs + j] for i in range(inputs))
            for j in range(outputs)
        ]
        peak = max(scores)
        powers = [math.exp(score - peak) for score in scores]
        for j in range(outputs):
            error = (powers[j] / sum(powers) - (j == label)) * counting[label] / len(x)
            gradient[bias + j] += error
            for i in range(inputs):
                gradient[i * outputs + j] += error * features[i]
    return gradient


def encoded(codec: str, vector: Vector, rng: random.Random) -> bytes:
    """Return the vector in the codec."""
    if codec == "f32":
        return struct.pack(f"<{len(vector)}f", *vector)
    if codec == "f16":
        return struct.pack(f"<{len(vector)}e", *vector)
    assert codec == "int8"
    blocks = [vector[start : start + BLOCK] for start in range(0, len(vector), BLOCK)]
    scales = struct.pack(f"<{len(blocks)}f", *(max(map(abs, block)) / 127 for block in blocks))
    levels = []
    for block, scale in zip(blocks, struct.unpack(f"<{len(blocks)}f", scales), strict=True):
        for value in block:
            level = math.floor(value / scale + rng.random()) if scale else 0
            levels.append(max(-127, min(127, level)))
    return scales + struct.pack(f"<{len(levels)}b", *levels)


def decoded(codec: str, data: bytes, size: int) -> Vector:
    """Return the vector in the bytes."""
    if codec in ("f32", "f16"):
        return list(struct.unpack(f"<{size}{'f' if codec == 'f32' else 'e'}", data))
    count = -(-size // BLOCK)
    scales = struct.unpack_from(f"<{count}f", data)
    levels = struct.unpack_from(f"<{size}b", data, 4 * count)
    return [level * scales[i // BLOCK] for i, level in enumerate(levels)]
