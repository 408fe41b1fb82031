"""The bare baseline of the versions: paho, msgpack and NumPy in a loop, nothing durable, nothing checked.

    python -m benchmarks.support.bare_rounds server PORT WORKERS PARAMETERS ROUNDS TIMES
    python -m benchmarks.support.bare_rounds worker PORT NUMBER DATA UPDATE_BYTES

The server sends the float32 vector, each worker trains and answers with as many bytes as fedmq's int8 update has, the
server averages, and so on. Run with one BLAS thread. The seconds of each round go to the file TIMES.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import paho.mqtt.client as mqtt

from benchmarks.support import digits
from benchmarks.support.bare_client import bare_client
from models import Dataset, TrainingPlan, build, local_train


def _int8(delta: np.ndarray[Any, np.dtype[np.float32]]) -> tuple[bytes, float]:
    scale = float(np.max(np.abs(delta))) / 127.0 or 1.0
    return np.rint(delta / scale).astype(np.int8).tobytes(), scale


def serve(port: int, workers: int, parameters: int, rounds: int, times: Path) -> None:
    """Lead ``rounds`` rounds and write down how long each took."""
    vector = (0.1 * np.random.default_rng(0).standard_normal(parameters)).astype(np.float32)
    answers: list[tuple[Any, float, int]] = []
    present: set[bytes] = set()
    seconds: list[float] = []
    started = 0.0
    client = bare_client(lambda client: client.subscribe([("bare/up/+", 1), ("bare/join/+", 1)]))

    def begin() -> None:
        nonlocal started
        started = time.perf_counter()
        client.publish("bare/model", msgpack.packb({"version": len(seconds), "model": vector.tobytes()}), qos=1)

    def answered(_client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        nonlocal vector
        body = msgpack.unpackb(message.payload)
        delta = np.frombuffer(body["delta"], dtype=np.int8, count=parameters)
        answers.append((delta, body["scale"], body["n"]))
        if len(answers) < workers:
            return
        total = sum(n for _, _, n in answers)
        vector = vector + sum((n / total * scale) * delta.astype(np.float32) for delta, scale, n in answers)
        answers.clear()
        seconds.append(time.perf_counter() - started)
        if len(seconds) < rounds:
            begin()
        else:
            times.write_text(json.dumps(seconds))
            client.disconnect()

    def joined(_client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        present.add(bytes(message.payload))
        if len(present) == workers and not seconds and not started:
            begin()

    client.message_callback_add("bare/up/+", answered)
    client.message_callback_add("bare/join/+", joined)
    client.connect("127.0.0.1", port)
    client.loop_forever()


def work(port: int, number: int, data: Path, update_bytes: int) -> None:
    """Train whenever a model comes."""
    model = build(digits.SPEC)
    plan = TrainingPlan.from_data(digits.PLAN)
    rng = np.random.default_rng(number)
    with np.load(data, allow_pickle=False) as archive:
        dataset = Dataset.for_model(model, archive["x"], archive["y"])

    def came(_client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        base = np.frombuffer(msgpack.unpackb(message.payload)["model"], dtype=np.float32)
        result = local_train(model, base, dataset, plan, rng)
        packed, scale = _int8(result.parameters - base)
        padded = packed.ljust(update_bytes, b"\0")
        answer = msgpack.packb({"delta": padded, "scale": scale, "n": result.num_examples})
        client.publish(f"bare/up/{number}", answer, qos=1)

    client = bare_client(
        lambda client: client.subscribe("bare/model", qos=1),
        lambda client: client.publish(f"bare/join/{number}", str(number), qos=1, retain=True),
    )
    client.on_message = came
    client.connect("127.0.0.1", port)
    client.loop_forever()


def main(arguments: list[str]) -> None:
    """Be what the first argument says."""
    match arguments:
        case ["server", port, workers, parameters, rounds, times]:
            serve(int(port), int(workers), int(parameters), int(rounds), Path(times))
        case ["worker", port, number, data, update_bytes]:
            work(int(port), int(number), Path(data), int(update_bytes))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
