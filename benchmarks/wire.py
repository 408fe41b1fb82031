"""Bytes on the wire per update, and per version and device, against the float32 vector itself."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support import digits
from benchmarks.support.digits import Part
from benchmarks.support.federation import TOPICS, agent_file, agents, aggregator, aggregator_file, wait_for_version
from benchmarks.support.processes import mosquitto
from benchmarks.support.proxy import CountingProxy
from benchmarks.support.report import Options, Row, Target, progress, run
from benchmarks.support.watcher import Watcher
from models import build
from protocol import tensors
from protocol.packing import decode_manifest

DEVICES = 10
_FIRST = 5
"""Counting begins with this version: connecting and the first fetches are over."""
_VERSIONS = 40

SMALL: Mapping[str, Any] = digits.SPEC
LARGE: Mapping[str, Any] = {"kind": "mlp", "inputs": 561, "hidden": [200], "outputs": 6, "task": "classification"}


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes per version and device, at the devices' side of the broker and at the aggregator's."""

    device_up: float
    device_down: float
    aggregator_up: float
    aggregator_down: float


def traffic(
    spec: Mapping[str, Any], parts: list[Part], codec: str, directory: Path, *, delta_codec: str = ""
) -> Traffic:
    """Run a federation through two counting proxies, and count over ``_VERSIONS`` versions."""
    with ExitStack() as stack:
        broker = stack.enter_context(mosquitto(directory))
        proxy = stack.enter_context(CountingProxy(broker.port))
        server_proxy = stack.enter_context(CountingProxy(broker.port))
        file = aggregator_file(
            directory,
            server_proxy.port,
            spec,
            {
                "participation": {"codec": codec},
                "schedule": {"goal": len(parts), "quorum": len(parts)},
                "registry": {"keep_parameters": 3},
                "downlink": {"delta_codec": delta_codec},
            },
        )
        files = [agent_file(directory, proxy.port, f"device-{n}", part, {}) for n, part in enumerate(parts)]
        watcher = stack.enter_context(Watcher(broker.port, [TOPICS.current_model]))
        program, _ = stack.enter_context(aggregator(file, broker.port))
        programs = [program, *stack.enter_context(agents(files))]
        before = _counted(watcher, _FIRST, programs, proxy, server_proxy)
        after = _counted(watcher, _FIRST + _VERSIONS, programs, proxy, server_proxy)
        versions = after[4] - before[4]
        return Traffic(*((b - a) / (versions * len(parts)) for a, b in zip(before[:4], after[:4], strict=True)))


def _counted(watcher: Watcher, version: int, programs: list[Any], *proxies: CountingProxy) -> tuple[int, ...]:
    """Return the proxies' counts when the version was announced, and which version was out by then."""
    wait_for_version(watcher, version, programs, 180.0)
    counts = [count for proxy in proxies for count in (proxy.up_bytes, proxy.down_bytes)]
    return (*counts, decode_manifest(watcher.seen()[-1].payload).version)


def measure(options: Options) -> list[Row]:
    """Count for each codec and two sizes of model; nothing here depends on the machine's speed."""
    cases: list[tuple[str, Mapping[str, Any], list[Part], list[str]]] = [
        ("MLP 64-32-10", SMALL, digits.dirichlet_parts(digits.train_and_test()[0], DEVICES), ["int8", "f16", "f32"])
    ]
    if not options.quick:
        cases.append(("MLP 561-200-6", LARGE, _synthetic(561, 6), ["int8", "f32"]))
    rows = []
    for name, spec, parts, codecs in cases:
        for codec in codecs:
            progress(f"bytes of {name}, {codec}")
            with tempfile.TemporaryDirectory() as place:
                rows += _rows(f"{name}, {codec}", spec, codec, traffic(spec, parts, codec, Path(place)))
        progress(f"bytes of {name}, int8 both ways")
        with tempfile.TemporaryDirectory() as place:
            counted = traffic(spec, parts, "int8", Path(place), delta_codec="int8")
            rows += _rows(f"{name}, int8 and downlink deltas", spec, "int8", counted)
    return rows


def _synthetic(inputs: int, classes: int) -> list[Part]:
    """Return noise as data: bytes do not depend on what is learnt."""
    rng = np.random.default_rng(0)
    return [
        Part(rng.standard_normal((32, inputs)).astype(np.float32), rng.integers(0, classes, 32)) for _ in range(DEVICES)
    ]


def _rows(name: str, spec: Mapping[str, Any], codec: str, counted: Traffic) -> list[Row]:
    raw = 4.0 * build(spec).layout.size
    bound = {"int8": Target(0.27, of_ratio=True)}
    zeros = np.zeros(build(spec).layout.size, dtype=np.float32)
    delta = float(len(tensors.encode(codec, zeros, np.random.default_rng(0))))
    figures = [
        ("encoded delta alone", delta, None),
        ("device to broker, per update", counted.device_up, bound.get(codec)),
        ("broker to device, per version", counted.device_down, None),
        ("broker to aggregator, per update", counted.aggregator_down, None),
        (f"aggregator to broker, per version and device of {DEVICES}", counted.aggregator_up, None),
    ]
    return [
        Row(what=f"{name}: {what}", value=value, baseline=raw, ratio=value / raw, unit="bytes", target=target)
        for what, value, target in figures
    ]


if __name__ == "__main__":
    run("wire", "bytes at the broker's socket against the raw float32 vector", measure, repeat=1)
