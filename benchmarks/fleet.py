"""What one update costs the aggregator, and its memory, from ten devices to ten thousand."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.support.bare_counter import bare_counter
from benchmarks.support.federation import TOPICS, aggregator, aggregator_file
from benchmarks.support.processes import mosquitto
from benchmarks.support.report import Options, Row, Target, progress, run, spread
from benchmarks.support.swarm import Swarm
from benchmarks.support.updates import Updates

SIZES = [10, 100, 1000, 10_000]
_UPDATES = 20_000
_OUTPUTS = 100
_PARAMETERS = 100 * _OUTPUTS
_WINDOW = 500


def one_size(devices: int, directory: Path) -> dict[str, float]:
    """Return processor time per update, memory, and the bare subscriber's processor time, for one fleet."""
    device_ids = [f"device-{number:05d}" for number in range(devices)]
    with mosquitto(directory) as broker:
        file = aggregator_file(
            directory,
            broker.port,
            {"kind": "softmax", "inputs": 99, "outputs": _OUTPUTS, "task": "classification"},
            {
                "admission": {"messages_per_s": 0, "bytes_per_s": 0, "max_waiting_messages": 4096},
                "participation": {"contributions_per_version": 1_000_000},
                "aggregation": {"max_staleness": 1_000_000},
                "schedule": {"goal": 200},
                "registry": {"keep_parameters": 3},
            },
        )
        with aggregator(file, broker.port) as (program, manifest), Swarm(broker.port, "bench", device_ids) as swarm:
            updates = Updates(manifest, _PARAMETERS, "int8", device_ids)
            swarm.send(devices, _WINDOW, updates.messages_of())  # everybody is known before the clock starts
            cpu_s, broker_cpu_s = program.cpu_s(), broker.program.cpu_s()
            _, rate = swarm.send(_UPDATES, _WINDOW, updates.messages_of())
            cpu_s, broker_cpu_s = program.cpu_s() - cpu_s, broker.program.cpu_s() - broker_cpu_s
            assert set(swarm.answered) == {"accepted"}, f"refused: {swarm.reasons}"
            rss = program.rss_bytes()
        with (
            bare_counter(broker.port, TOPICS.all_updates, directory) as counter,
            Swarm(broker.port, "bench", device_ids) as swarm,
        ):
            swarm.send(devices, _WINDOW, updates.messages_of(), counter.count)
            bare_cpu_s = counter.program.cpu_s()
            _, bare_rate = swarm.send(_UPDATES, _WINDOW, updates.messages_of(), counter.count)
            bare_cpu_s = counter.program.cpu_s() - bare_cpu_s
    return {
        "cpu_us": 1e6 * cpu_s / _UPDATES,
        "bare_cpu_us": 1e6 * bare_cpu_s / _UPDATES,
        "broker_cpu_us": 1e6 * broker_cpu_s / _UPDATES,
        "updates_per_s": rate,
        "bare_updates_per_s": bare_rate,
        "rss_mb": rss / 1e6,
    }


def measure(options: Options) -> list[Row]:
    """Measure every size in each repetition; ratios are to the smallest fleet of the same repetition."""
    sizes = SIZES[:3] if options.quick else SIZES
    runs: list[dict[int, dict[str, float]]] = []
    for _ in range(options.repeat):
        runs.append({})
        for devices in sizes:
            progress(f"{devices} devices")
            with tempfile.TemporaryDirectory() as name:
                runs[-1][devices] = one_size(devices, Path(name))
    return [row for devices in sizes for row in _rows(devices, sizes[0], runs)]


def _rows(devices: int, smallest: int, runs: list[dict[int, dict[str, float]]]) -> list[Row]:
    costs = [run_[devices]["cpu_us"] / run_[smallest]["cpu_us"] for run_ in runs]
    memory = [run_[devices]["rss_mb"] / run_[smallest]["rss_mb"] for run_ in runs]
    middle = sorted(runs, key=lambda run_: run_[devices]["cpu_us"])[len(runs) // 2]
    flat = Target(1.5, of_ratio=True)
    return [
        Row(
            what=f"processor time per update, {devices:,} devices, against {smallest}",
            ratio=sorted(costs)[len(costs) // 2],
            value=middle[devices]["cpu_us"],
            baseline=middle[smallest]["cpu_us"],
            unit="us",
            spread=spread(costs),
            target=flat,
            details={"runs": [run_[devices] for run_ in runs]},
        ),
        Row(
            what=f"memory of the aggregator, {devices:,} devices, against {smallest}",
            ratio=sorted(memory)[len(memory) // 2],
            value=middle[devices]["rss_mb"],
            baseline=middle[smallest]["rss_mb"],
            unit="MB RSS",
            spread=spread(memory),
            target=flat,
        ),
        Row(
            what=f"processor time per update, {devices:,} devices, against the bare counter",
            ratio=middle[devices]["cpu_us"] / middle[devices]["bare_cpu_us"],
            value=middle[devices]["cpu_us"],
            baseline=middle[devices]["bare_cpu_us"],
            unit="us",
        ),
    ]


if __name__ == "__main__":
    run("fleet", "cost per update and memory from 10 to 10,000 devices", measure)
