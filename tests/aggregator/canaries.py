"""A bench whose updates become candidates, and what devices say of these."""

from __future__ import annotations

from typing import Any

from aggregator.commands import Command, SaveVerdict
from aggregator.configuration import (
    AggregationTable,
    AggregatorSettings,
    CanaryTable,
    DownlinkTable,
    ScheduleTable,
)
from aggregator.events import (
    CanaryRequested,
)
from models.answering import metrics_to_data
from models.metrics import ClassificationMetrics
from protocol.messages import Candidate, Manifest, Participation
from protocol.packing import decode_manifest
from protocol.surveys import Report, pack_content
from tests.aggregator.harness import EPOCH, FEDERATION, INCARNATION, Bench, only, settings_with

WITHDRAW = CanaryRequested(request_id="d" * 16, action="withdraw")
PUBLISH = CanaryRequested(request_id="d" * 16, action="publish")


def settings_of(keep_versions: int = 3, **table: Any) -> AggregatorSettings:
    canary = CanaryTable(**{"fraction": 1.0, "min_answers": 2, "certainty": 0.0} | table)
    return settings_with(
        canary=canary,
        schedule=ScheduleTable(goal=2),
        downlink=DownlinkTable(keep_versions=keep_versions),
        aggregation=AggregationTable(server_optimizer="momentum"),
        participation=Participation(codec="f32"),
    )


def trying(settings: AggregatorSettings | None = None) -> Bench:
    """Return a bench whose first two updates have become a candidate."""
    bench = Bench(settings or settings_of())
    fill(bench)
    return bench


def fill(bench: Bench, *devices: str) -> list[Command]:
    """Send a good update of each device; two make a version, or a candidate."""
    return [command for name in devices or ("a", "b") for command in bench.send(bench.update(name), name)]


def announced(bench: Bench) -> Manifest:
    return decode_manifest(bench.broker[bench.topics.current_model])


def tried(bench: Bench) -> Candidate:
    found = announced(bench).candidate
    assert found is not None
    return found


def report(bench: Bench, device: str, before: int, after: int, count: int = 20, **fields: Any) -> Report:
    figures = [
        metrics_to_data(ClassificationMetrics(count=count, correct=correct, loss_sum=float(count - correct)))
        for correct in (before, after)
    ]
    bench.sequence += 1
    body: dict[str, Any] = {
        "federation": FEDERATION,
        "epoch": EPOCH,
        "device_id": device,
        "incarnation": INCARNATION,
        "sequence": bench.sequence,
        "base_version": bench.version,
        "survey": tried(bench).survey,
        "content": pack_content({"examples": count, "metrics": figures[0], "candidate": figures[1]}),
    }
    return Report(**(body | fields))


def say(bench: Bench, device: str, before: int, after: int) -> list[Command]:
    return bench.send(report(bench, device, before, after), device)


def verdict(commands: list[Command]) -> SaveVerdict:
    (found,) = only(commands, SaveVerdict)
    return found


def books_hold(bench: Bench) -> None:
    counters = bench.core.fleet.counters
    assert counters.accepted == counters.folded + counters.set_aside
