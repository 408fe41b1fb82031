"""How figures look on a terminal: tables that fit 80 columns."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from aggregator.adapters.registry import Lineage, StoreStatus, TriedLine, VersionLine
from aggregator.measured import Measured
from aggregator.records import Counters, DeviceRecord
from protocol.clock import EARLIEST_S, SLACK_S
from protocol.printable import printable

MAX_METRICS = 3
"""So many metrics have columns of their own; all are in the JSON."""

MAX_QUARANTINED = 5
MAX_DRIFTING = 5

MAX_DEVICES = 10
"""So many of a candidate's devices are named; all are in the JSON."""

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_PLAIN = 1000
"""Numbers below are written with all their digits before the point."""


def versions_table(lines: Sequence[VersionLine], tried: Sequence[TriedLine] = ()) -> RenderableType:
    """Return the versions, oldest first, with candidates that are tried or were withdrawn."""
    names = _metric_names(line.metrics for line in lines)
    table = _table("version", "made", "of", "updates", "weight", "step", *names, numbers=("version", "updates"))
    waiting = [line for line in tried if not lines or line.number > lines[0].version]
    for line in lines:
        while waiting and waiting[0].number <= line.version:
            _add_tried(table, waiting.pop(0), names)
        origin = line.kind if line.rolled_back_to is None else f"version {line.rolled_back_to}"
        figures = [_metric(line.metrics.get(name)) for name in names]
        cells = [str(line.version), _when(line.created), origin, str(line.num_updates)]
        dim = "" if line.has_parameters else "dim"
        table.add_row(*cells, _number(line.total_weight), _number(line.step_norm), *figures, style=dim)
    for rest in waiting:
        _add_tried(table, rest, names)
    if all(line.has_parameters for line in lines):
        return table
    return Group(table, Text("dim: parameters are no longer kept (registry.keep_parameters)", style="dim"))


def _add_tried(table: Table, line: TriedLine, names: Sequence[str]) -> None:
    # In the place of weight and step: what the fleet said. All of it is in: fedmq-aggregator canary status.
    worse = line.metrics.get("worse")
    said = ("", "" if worse is None else f"{-worse:+.3g}")
    figures = [_metric(line.metrics.get(f"fleet_{name}")) for name in names]
    state = "on trial" if line.outcome == "candidate" else line.outcome
    cells = [f"({line.number})", _when(line.created), state, str(line.updates), *said, *figures]
    table.add_row(*cells, style="yellow")


def tried_table(lines: Sequence[TriedLine], answers: int, wanted: int) -> RenderableType:
    """Return the candidate, and those that were withdrawn with the reason; the newest last."""
    parts: list[RenderableType] = []
    for line in lines:
        on_trial = line.outcome == "candidate"
        verdict = (
            f"on trial: compared by {answers} device{'s' * (answers != 1)}, at least {wanted} wanted"
            if on_trial
            else f"withdrawn: {line.reason}"
        )
        pairs = {
            "made": _when(line.created, full=True),
            "state": verdict,
            "updates": f"{line.updates}, of {', '.join(line.devices[:MAX_DEVICES])}"
            + (f" and {len(line.devices) - MAX_DEVICES} more" if len(line.devices) > MAX_DEVICES else ""),
            **{name.replace("_", " "): _metric(value) for name, value in line.metrics.items()},
        }
        parts.append(_pairs(pairs, title=f"candidate for version {line.number}"))
    return Group(*parts) if parts else Text("no candidate is being tried, and none was withdrawn")


def lineage_table(lineage: Lineage) -> RenderableType:
    """Return a version and its updates with their share of the whole weight."""
    line = lineage.line
    parts = _pairs(
        {
            "made": _when(line.created, full=True),
            "kind": line.kind if line.rolled_back_to is None else f"rollback to version {line.rolled_back_to}",
            "updates": str(line.num_updates),
            "weight": _number(line.total_weight),
            "step": _number(line.step_norm),
            **{name: _metric(value) for name, value in line.metrics.items()},
            **_measured_lines(lineage.measured),
            "digest": line.digest,
        },
        title=f"version {line.version}",
    )
    if not lineage.contributions:
        return parts
    note = "these updates were set aside by the rollback" if lineage.outcome == "set-aside" else ""
    total = sum(c.weight for c in lineage.contributions)
    numbers = ("sequence", "from", "age", "examples", "weight", "share", "bytes")
    table = _table("device", *numbers, numbers=numbers)
    for c in lineage.contributions:
        share = f"{100 * c.weight / total:.1f} %" if total else ""
        cells = (c.sequence, f"v{c.base_version}", c.staleness, c.num_examples, _number(c.weight), share)
        table.add_row(c.device_id, *map(str, cells), f"{c.update_bytes:,}")
    return Group(parts, Text(note, style="yellow"), table) if note else Group(parts, Text(), table)


def status_table(
    stored: StoreStatus, live: dict[str, Any] | None, why_not: str, max_devices: int, now: float
) -> RenderableType:
    """Return the figures of the federation, and the devices that were heard of last."""
    counters = stored.counters
    refused = " ".join(f"{code}:{count}" for code, count in sorted(counters.refusals.items())) or "none"
    running = _live_text(live) if live else why_not
    parts = _pairs(
        {
            "aggregator": running,
            "epoch": stored.epoch,
            "version": str(stored.version),
            **({"on trial": f"version {stored.candidate}: see canary status"} if stored.candidate is not None else {}),
            **{name: _metric(value) for name, value in stored.metrics.items()},
            **_measured_lines(stored.measured),
            "buffered": f"{stored.buffered} {'update' if stored.buffered == 1 else 'updates'}",
            "accepted": _accepted_text(counters),
            "not accepted": f"{counters.duplicate} duplicate, {counters.stale} stale, {counters.rejected} rejected",
            "reasons": refused,
            "versions": _versions_text(counters),
            **_drift_lines(stored.devices),
            **_quarantine_lines(stored.devices),
        },
        title=f"federation {stored.federation}",
    )
    devices = sorted(stored.devices, key=lambda device: device.last_seen, reverse=True)
    shown = devices[:max_devices]
    more = len(devices) - len(shown)
    rest = Text(f"and {more:,} more: see --devices or --json", style="dim") if more else Text()
    return Group(parts, Text(), devices_table(shown, now), rest)


def _accepted_text(counters: Counters) -> str:
    updates = f"{counters.accepted:,}"
    if counters.reports_accepted:
        updates = f"{updates} updates and {counters.reports_accepted:,} reports"
    return f"{updates} of {counters.received:,} messages"


def _versions_text(counters: Counters) -> str:
    withdrawn = f", {counters.versions_withdrawn} withdrawn" if counters.versions_withdrawn else ""
    return f"{counters.versions_published} published, {counters.versions_withheld} withheld{withdrawn}"


def _measured_lines(found: dict[str, Measured]) -> dict[str, str]:
    lines = {}
    for whose, of in found.items():
        count = f"{of.devices} device{'s' * (of.devices != 1)}"
        figures = f"mean {_metric(of.mean)}, lowest tenth {_metric(of.tenth)}, worst {_metric(of.worst)}"
        if of.measure == "loss":
            figures = figures.replace("lowest", "highest")
        lines[f"{whose} {of.measure}"] = f"{figures} ({of.worst_device}); by {count}"
    return lines


def _drift_lines(devices: Sequence[DeviceRecord]) -> dict[str, str]:
    drifting = [device.device_id for device in devices if device.drifting]
    if not drifting:
        return {}
    more = f" and {len(drifting) - MAX_DRIFTING} more" if len(drifting) > MAX_DRIFTING else ""
    count = f"{len(drifting)} device{'s' * (len(drifting) != 1)}"
    return {"drift": f"{count}, worse on new data than on earlier: {', '.join(drifting[:MAX_DRIFTING])}{more}"}


def _quarantine_lines(devices: Sequence[DeviceRecord]) -> dict[str, str]:
    held = [device for device in devices if device.quarantined]
    if not held:
        return {}
    lines = [f"{device.device_id}: {device.quarantined}" for device in held[:MAX_QUARANTINED]]
    more = [f"and {len(held) - MAX_QUARANTINED} more"] if len(held) > MAX_QUARANTINED else []
    return {"quarantine": "\n".join([*lines, *more])}


def devices_table(devices: Sequence[DeviceRecord], now: float) -> RenderableType:
    """Return the devices' own lines."""
    numbers = ("ver", "accepted", "refused", "bytes", "acc", "seen")
    table = _table("device", "state", *numbers, numbers=numbers)
    for d in devices:
        version = "" if d.version is None else str(d.version)
        accuracy = "" if d.holdout_accuracy is None else f"{d.holdout_accuracy:.3f}"
        seen = _seen(d.last_seen, now)
        refused = str(d.stale + d.rejected)
        state = "quarantined" if d.quarantined else d.state
        table.add_row(d.device_id, state, version, str(d.accepted), refused, _bytes(d.bytes_received), accuracy, seen)
    return table


def _live_text(live: dict[str, Any]) -> str:
    return (
        f"running for {_ago(live['uptime_s'])}, {live['updates_per_s']:.1f} updates/s, "
        f"{live['devices_online']} of {live['devices_known']} devices there, {live['rss_bytes'] / 2**20:.0f} MB"
    )


def _table(*columns: str, numbers: Sequence[str]) -> Table:
    # Without a frame: every column counts at 80.
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        right = column in numbers or column not in {"device", "state", "made", "of"}
        wrap = column == "device"
        table.add_column(column, justify="right" if right else "left", no_wrap=not wrap, overflow="fold")
    return table


def _pairs(pairs: dict[str, str], title: str) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, title=title, title_justify="left", title_style="bold")
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(Text(name), Text(_printable_lines(value)))
    return table


def _printable_lines(text: str) -> str:
    # In a Text, too: a plain string is markup to rich, and a device's "[/]" would end the command with an error.
    return "\n".join(map(printable, text.split("\n")))


def _metric_names(metrics: Iterable[dict[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for each in metrics for name in each))[:MAX_METRICS]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _metric(value: float | None) -> str:
    # With as many places each: figures of a column can be compared at a glance.
    return f"{value:.4f}" if value is not None and abs(value) < _PLAIN else _number(value)


def _bytes(count: int) -> str:
    for unit, size in (("GB", 2**30), ("MB", 2**20), ("kB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _when(seconds: float, *, full: bool = False) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S" if full else "%m-%d %H:%M:%S", time.localtime(seconds))


def _seen(when: float, now: float) -> str:
    if not when:
        return "never"
    # Before the aggregator's clock was set, or after it was set back: the age would be nonsense.
    return "some time ago" if not EARLIEST_S <= when <= now + SLACK_S else _ago(max(0.0, now - when))


def _ago(seconds: float) -> str:
    if seconds < _MINUTE:
        return f"{max(0.0, seconds):.0f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.0f} h" if seconds < 2 * _DAY else f"{seconds / _DAY:.0f} d"


def export_text(done: Mapping[str, Any]) -> str:
    """Return what an export has written."""
    if "arrays" in done:
        return ", ".join(done["arrays"])
    text = f"{done['weights']}, {done['bytes']:,} bytes"
    if "agreement" in done:
        text += f"; names the same class as float32 for {done['agreement']:.1%} of the examples"
    elif "difference" in done:
        text += f"; differs from float32 by at most {done['difference']:.3g} on the examples"
    return text
