"""From a sensor's message to the prediction on the topic, against a bare client that answers each message at once."""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt

from benchmarks.support.bare_client import bare_client
from benchmarks.support.federation import FEDERATION, agent, aggregator, aggregator_file, write_toml
from benchmarks.support.processes import mosquitto
from benchmarks.support.report import Options, Row, Target, paired, percentiles, progress, run
from benchmarks.support.watcher import Watcher
from fedmq.demo_sensors import CHANNELS, FEATURES

ROWS_PER_S = 100
STRIDE = 5
TARGET_MS = 10.0
MODEL = {"kind": "mlp", "inputs": 96, "hidden": [32], "outputs": 7}
SENSOR, PREDICTION, BARE, ECHO = "sensor/row", "sensor/prediction", "bare/row", "bare/echo"


def latencies(windows: int, directory: Path, *, tflite: bool) -> tuple[list[float], list[float]]:
    """Return milliseconds from the row that completes a window to its prediction, and from a row to its echo."""
    with ExitStack() as stack:
        broker = stack.enter_context(mosquitto(directory))
        # Everybody's scale: a prediction needs no training then, and this device has no labels to train on.
        features = FEATURES | {
            "stride": STRIDE,
            "rate_hz": float(ROWS_PER_S),
            "standardize": "none",
            "window": 2 * ROWS_PER_S,
        }
        file = aggregator_file(directory, broker.port, MODEL, {"features": _shown(features), "schedule": {"goal": 1}})
        stack.enter_context(aggregator(file, broker.port))
        watcher = stack.enter_context(Watcher(broker.port, [PREDICTION, ECHO]))
        program = stack.enter_context(agent(_agent_file(directory, broker.port, tflite=tflite)))
        stack.callback(_echo(broker.port).disconnect)
        sent: dict[str, dict[float, float]] = {SENSOR: {}, BARE: {}}
        sensor = _connected(broker.port)
        stack.callback(sensor.disconnect)
        rng = np.random.default_rng(0)
        begun, number = time.time(), 0
        deadline = time.monotonic() + 60.0
        while _count(watcher, PREDICTION) < windows:
            program.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{_count(watcher, PREDICTION)} predictions came:\n{program.log_end()}")
            at = round(begun + number / ROWS_PER_S, 6)
            row = json.dumps({"time": at, **dict(zip(CHANNELS, rng.normal(size=6).round(4).tolist(), strict=True))})
            for topic in (SENSOR, BARE):
                sent[topic][at] = time.perf_counter()
                sensor.publish(topic, row)
            number += 1
            time.sleep(max(0.0, begun + number / ROWS_PER_S - time.time()))
        return _matched(watcher, PREDICTION, sent[SENSOR]), _matched(watcher, ECHO, sent[BARE])


def _shown(features: dict[str, Any]) -> dict[str, Any]:
    # The magnitudes are a table within a table, which the plain writer of benchmarks does not know.
    plain = {name: value for name, value in features.items() if name != "magnitudes"}
    return plain | {"compute": [*features["compute"], "range", "first", "last", "rms"]}


def _agent_file(directory: Path, port: int, *, tflite: bool) -> Path:
    tables: dict[str, dict[str, Any]] = {
        "device": {"id": "device", "federation": FEDERATION, "state_dir": str(directory / "device")},
        "broker": {"port": port},
        "sources.sensor": {"kind": "mqtt", "topics": [SENSOR], "time": "time", "max_rows_per_s": 1000.0},
        "sources.sensor.fields": {name: name for name in CHANNELS},
        "sources.sensor.broker": {"port": port},
        "predictions": {"topic": PREDICTION, "tflite": tflite},
        "predictions.broker": {"port": port},
    }
    return write_toml(directory / "device.toml", tables)


def _echo(port: int) -> mqtt.Client:
    client = bare_client(lambda connected: connected.subscribe(BARE, 0))

    def answer(sender: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        sender.publish(ECHO, message.payload)

    client.on_message = answer
    client.connect("127.0.0.1", port)
    client.loop_start()
    return client


def _connected(port: int) -> mqtt.Client:
    client = bare_client(lambda _client: None)
    client.connect("127.0.0.1", port)
    client.loop_start()
    return client


def _count(watcher: Watcher, topic: str) -> int:
    return sum(seen.topic == topic for seen in watcher.seen())


def _matched(watcher: Watcher, topic: str, sent: dict[float, float]) -> list[float]:
    seen = [(json.loads(each.payload)["time"], each.at) for each in watcher.seen() if each.topic == topic]
    found = [1000.0 * (at - sent[row]) for row, at in seen if row in sent]
    return found[len(found) // 10 :]  # the first ones meet caches that are cold


def measure(options: Options) -> list[Row]:
    """Measure by NumPy and by a TFLite runtime, in turns."""
    windows = 40 if options.quick else 300
    rows = []
    for tflite in (False, True):
        medians: list[tuple[float, float]] = []
        worst: list[tuple[float, float]] = []
        for _ in range(options.repeat):
            progress(f"predictions: {'tflite' if tflite else 'numpy'}")
            with tempfile.TemporaryDirectory() as place:
                ours, theirs = latencies(windows, Path(place), tflite=tflite)
            mine, bare = percentiles(ours), percentiles(theirs)
            medians.append((mine["p50"], bare["p50"]))
            worst.append((mine["p99"], bare["p99"]))
        by = "TFLite" if tflite else "NumPy"
        for name, pairs in (("median", medians), ("99th percentile", worst)):
            values, baselines = zip(*pairs, strict=True)
            what = f"row to prediction, {by}, {name}, against a bare echo"
            rows.append(paired(what, values, baselines, "ms", target=Target(TARGET_MS)))
    return rows


if __name__ == "__main__":
    run("predictions", "time from a sensor's message to the prediction on the topic", measure)
