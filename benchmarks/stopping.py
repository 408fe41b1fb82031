"""How soon a training stops: the longest stretch in which nobody asks whether to, and real agents that are told to."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.digits import Part
from benchmarks.support.federation import FEDERATION, TOPICS, agent_file
from benchmarks.support.processes import Broker, Program, command, mosquitto, one_thread
from benchmarks.support.report import Options, Row, Target, percentiles, progress, run
from benchmarks.support.stop_cases import CASES, Case
from benchmarks.support.watcher import Seen, Watcher
from models import build
from protocol import tensors
from protocol.adapters.mqtt import MqttLink
from protocol.chunks import blob_of, digest_of, split
from protocol.link import BrokerSettings, LinkUp
from protocol.messages import DeviceCommand, Manifest, Participation
from protocol.packing import encode
from protocol.status import DeviceState, decode_status

_PATIENCE_S = 600.0
_DEVICE = "device"
_STATE = TOPICS.device_state(_DEVICE)
_CHECK_S = 0.1
_QUICK = ("NPZ of 200 MB", "CNN of 1.66 M parameters, batch 32")
_REAL = (
    "NPZ of 200 MB",
    "NPZ of 200 MB in float64, packed",
    "NPZ of 1 GB",
    "sample store, 1,000,000 rows read, a window with every other one",
    "CNN of 1.66 M parameters, batch 32",
    "CNN of 1.66 M parameters, batch 256",
)


def looks(name: str) -> list[dict[str, float]]:
    """Return the stretches of a training and of a survey."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [sys.executable, "-m", "benchmarks.support.looks", name, folder]
        done = subprocess.run(arguments, check=True, capture_output=True, text=True, env=one_thread())
    found: list[dict[str, float]] = json.loads(done.stdout)
    return found


class Operator:
    """Publishes one version, tells the device what to do, and hears its states."""

    def __init__(self, broker: Broker, watcher: Watcher, program: Program) -> None:
        self._watcher, self._program = watcher, program
        self._issued = 0
        self._link = MqttLink(BrokerSettings(port=broker.port), "operator", self._up)
        self._is_up = False
        self._link.start()
        _wait(lambda: self._is_up)

    def close(self) -> None:
        """Hang up."""
        self._link.stop()

    def publish(self, case: Case) -> None:
        """Publish the case's model as version 0."""
        model = build(case.model)
        rng = np.random.default_rng(0)
        data = tensors.encode("f32", model.init(rng), rng)
        manifest = Manifest(
            federation=FEDERATION,
            epoch="e" * 16,
            version=0,
            model=dict(model.spec),
            layout=model.layout.digest,
            parameters=digest_of(data),
            blob=blob_of(data, "f32"),
            training={**case.plan, "epochs": 10_000, "max_steps": 0},
            features=dict(case.features),
            participation=Participation(codec="int8"),
        )
        for index, piece in enumerate(split(data, manifest.blob.chunk_bytes)):
            self._send(TOPICS.blob(manifest.blob.digest, index), piece, retain=True)
        self._send(TOPICS.current_model, encode(manifest), retain=True)

    def tell(self, action: Any) -> float:  # noqa: ANN401 - one of the protocol's words
        """Send a command; return when."""
        self._issued += 1
        wish = DeviceCommand(
            federation=FEDERATION, request_id=f"{self._issued:016x}", action=action, target=_DEVICE, issued=self._issued
        )
        now = time.perf_counter()
        self._send(TOPICS.command(_DEVICE), encode(wish), retain=False)
        return now

    def wait(self, state: str, since: float) -> float:
        """Return when the device said so, after that moment."""

        def told(seen: Seen) -> bool:
            return seen.at >= since and seen.topic == _STATE and _state(seen.payload) == state

        return self._watcher.wait_for(told, _PATIENCE_S, self._program.check).at

    def _send(self, topic: str, payload: bytes, *, retain: bool) -> None:
        _wait(lambda: self._link.publish(topic, payload, retain=retain, token=""))

    def _up(self, event: object) -> bool:
        self._is_up = self._is_up or isinstance(event, LinkUp)
        return True


def _state(payload: bytes) -> str:
    return decode_status(payload, DeviceState).state if payload else ""


def _wait(condition: Any) -> None:  # noqa: ANN401 - a function without arguments
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


@contextmanager
def _board(case: Case) -> Iterator[tuple[Operator, Path]]:
    """Run an agent that is about to train; yield who commands it, and the file with its processor's temperature."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        zone = home / "board/sys/class/thermal/thermal_zone0"
        zone.mkdir(parents=True)
        (zone / "type").write_text("cpu-thermal\n")
        (zone / "temp").write_text("50000\n")
        policy = {"max_cpu_c": 80, "check_s": _CHECK_S, "system_root": str(home / "board")}
        policy |= {"min_free_memory_bytes": 0, "min_free_disk_bytes": 0, "min_battery_percent": 0}
        broker = stack.enter_context(mosquitto(home))
        nothing = Part(np.zeros((1, 1), np.float32), np.zeros(1, np.int64))
        tables: dict[str, Mapping[str, Any]] = {"policy": policy, **case.make(home)}
        tables["data"] = {"holdout_fraction": 0.2, **tables["data"]}
        file = agent_file(home, broker.port, _DEVICE, nothing, tables)
        # The link takes a moment: the first state is waited for before anything is announced.
        watcher = stack.enter_context(Watcher(broker.port, [_STATE]))
        arguments = [command("fedmq-agent"), "run", "--config", str(file)]
        program = stack.enter_context(Program(arguments, file.with_suffix(".log"), dict(os.environ)))
        watcher.wait_for(lambda seen: bool(seen.payload), _PATIENCE_S, program.check)
        operator = Operator(broker, watcher, program)
        stack.callback(operator.close)
        operator.publish(case)
        yield operator, zone / "temp"


def stops(case: Case, times: int) -> tuple[list[float], list[float]]:
    """Return the seconds from ``pause`` to the state "idle", and from a reading that is too hot.

    Each time a little later after the training began, so that all its stretches are met.
    """
    paused, heated = [], []
    with _board(case) as (operator, temperature):
        began = operator.wait("training", 0.0)
        for number in range(times):
            time.sleep(max(0.0, began + 0.25 * number - time.perf_counter()))
            told = operator.tell("pause")
            idle = operator.wait("idle", told)
            paused.append(idle - told)
            began = operator.wait("training", operator.tell("resume"))
            time.sleep(max(0.0, began + 0.25 * number - time.perf_counter()))
            told = time.perf_counter()
            temperature.write_text("95000\n")
            heated.append(operator.wait("idle", told) - told)
            told = time.perf_counter()
            temperature.write_text("50000\n")
            began = operator.wait("training", told)
    return paused, heated


def measure(options: Options) -> list[Row]:
    """Measure every case."""
    rows: list[Row] = []
    for name, case in CASES.items():
        if (options.quick and name not in _QUICK) or options.extra.only not in name:
            continue
        progress(f"{name}: how long nobody asks")
        training, survey = looks(name)
        rows.append(Row(what=f"{name}: nobody asks for", value=training["longest_s"], unit="s", target=Target(1.0)))
        rows.append(Row(what="  of a task of", value=training["all_s"], unit="s"))
        rows.append(Row(what="  the same of a survey", value=survey["longest_s"], unit="s", target=Target(1.0)))
        if name in _REAL:
            progress(f"{name}: a real agent, paused and heated")
            paused, heated = stops(case, 2 if options.quick else 12)
            for what, found in (("pause", paused), (f"heat, read every {_CHECK_S} s", heated)):
                shown = percentiles(found)
                rows.append(
                    Row(
                        what=f"  {what}: idle after, at most",
                        value=shown["max"],
                        unit="s",
                        spread=f"median {shown['p50']:.3f} of {len(found)}",
                        target=Target(1.0),
                    )
                )
    return rows


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default="", help="cases with this in their names")


if __name__ == "__main__":
    about = "how soon a training stops by a command and by the policy"
    run("stopping", about, measure, repeat=1, arguments=_arguments)
