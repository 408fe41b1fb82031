"""Draws a fleet: as a live table for terminals of any width, and as plain lines for everything else."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from rich import box
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fedmq.chart import bar, columns
from fedmq.fleet import OFFLINE, DeviceRow, FleetSummary
from fedmq.units import bytes_text, count_text, number_text, percent_text, rate_text, seconds_text
from protocol.status import DIVERGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from fedmq.answers import Answered, Answers

Cell: TypeAlias = Callable[[DeviceRow], Text | str]
"""A plain string is markup to rich: whatever comes from the network has to be a ``Text``."""
Align: TypeAlias = Literal["left", "right"]
Own: TypeAlias = Literal["accuracy", "personal", "loss"]
"""What devices measure on data of their own: an accuracy, those of three models, or nothing but a loss."""

STATE_STYLES = {
    "idle": "cyan",
    "fetching": "blue",
    "training": "green",
    "reporting": "magenta",
    "sleeping": "bright_black",
    "stopped": "bright_black",
    "lost": "bold red",
}
STATE_SIGNS = {"training": "●", "fetching": "↓", "reporting": "↑", "idle": "○", "sleeping": "☾", "stopped": "■"}
DIVERGING = Text("✗ diverging", style="red")
"""In place of "idle": a device that does nothing because its trainings lead nowhere is not well."""
CHART_LINES = 4
FIGURES_WIDTH = 54
"""Of the header, beside the chart: enough for six-digit counts."""
MAX_WIDTH = 150
"""A table that is stretched further is harder to read, not easier."""
MAX_REASONS = 3
"""Lines below the table: what is wrong with many devices is mostly wrong with all of them."""
WAITS = "waits: "
"""So begins what a board says that cannot spare a training now: by its own policy, nothing is wrong."""
THREE_MORE = 18
"""Columns that three accuracies take, instead of one."""
PREDICTS_FROM = 90
"""Columns that a terminal has to have for each device's newest answer; the line below the table is for all."""
PREDICTS_WIDTH = 9
FAR_BEHIND = 3
"""Versions; from here on the column turns yellow."""
QUIET_S = 60.0
"""A device that has been silent for longer than two default metrics intervals is worth a look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """What the topics do not tell: said by who draws the table."""

    broker: str
    note: str = ""
    """What is going on, at the panel's foot."""
    reference: float | None = None
    """An accuracy to compare with, drawn as a line."""
    reference_name: str = ""
    security: str = ""
    """How the federation is guarded; shown with its name."""
    answers: Answers | None = None
    """What devices predict on examples that they hold out; None: nobody asks them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    title: str
    cell: Cell
    align: Align = "right"
    from_width: int = 0
    """Shown in terminals of at least so many columns ..."""
    of: frozenset[Own] = frozenset(get_args(Own))
    """... where devices measure this on data of their own."""


def fleet_table(
    summary: FleetSummary, rows: Sequence[DeviceRow], caption: Caption, *, width: int, height: int
) -> RenderableType:
    """Return header and table for a terminal of this size; rows that do not fit are summed up in a last line."""
    width = min(width, MAX_WIDTH)
    header = _header(summary, caption, width)
    words = [*_predictions(caption.answers, width), *_reasons(rows, width)]
    room = max(1, height - CHART_LINES - 7 - len(words))
    shown = rows if len(rows) <= room else rows[: room - 1]
    parts: list[RenderableType] = [header]
    if rows:
        parts.append(_table(shown, width, caption.answers))
    else:
        parts.append(Text("  no device has been heard of yet", style="bright_black"))
    hidden = len(rows) - len(shown) + summary.unlisted
    if hidden:
        parts.append(Text(f"  … and {hidden} more", style="bright_black"))
    return Group(*parts, *words)


def _predictions(answers: Answers | None, width: int) -> list[Text]:
    """Return in one line what computes, and how often it is right."""
    if answers is None or not answers.asked:
        return []
    line = Text("  predicted by ", style="bright_black")
    line.append(answers.by, style="bold" if answers.by != "numpy" else "")
    line.append(f", on held-out data: {answers.right} of the last {answers.asked} right")
    line.truncate(width, overflow="ellipsis")
    return [line]


def _reasons(rows: Sequence[DeviceRow], width: int) -> list[Text]:
    """Return what devices that are there say, a line each, faults first; those that say the same share one."""
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        if row.reason and row.state not in {"sleeping", "stopped", "lost"}:
            by_reason.setdefault(row.reason, []).append(row.device_id)
    lines = []
    for reason, names in sorted(by_reason.items(), key=lambda found: _waits(found[0]))[:MAX_REASONS]:
        who = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        # Whatever a device wrote there: nothing of it steers a terminal.
        words = "".join(letter if letter.isprintable() else "?" for letter in reason)
        line = Text(f"  {who}: {words}", style="bright_black" if _waits(reason) else "yellow")
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return lines


def _waits(reason: str) -> bool:
    return reason.startswith(WAITS) and "; sensors: " not in reason


def plain_line(summary: FleetSummary, elapsed_s: float) -> str:
    """Return the federation in one line of text, for logs and pipes."""
    metrics = summary.metrics
    parts = [f"{elapsed_s:4.0f} s", f"version {count_text(summary.version)}"]
    if summary.accuracy is not None:
        parts.append(f"accuracy {percent_text(summary.accuracy)}")
    elif summary.losses:
        parts.append(f"loss {number_text(summary.losses[-1][1])}")
    if metrics is not None:
        parts.append(f"updates {metrics.updates_accepted} ({rate_text(summary.updates_per_s)})")
    parts.append(f"{summary.connected} of {summary.devices} devices up")
    return "   ".join(parts)


def waiting_text(summary: FleetSummary) -> str:
    """Return what a monitor still waits for, empty when nothing."""
    if summary.online is None and not summary.devices:
        return f"waiting for federation {summary.federation!r} ..."
    if summary.online is None:
        return "waiting for the aggregator ..."
    if not summary.online:
        return "the aggregator is offline; devices go on training and keep their updates"
    return "" if summary.devices else "waiting for devices ..."


def _header(summary: FleetSummary, caption: Caption, width: int) -> Panel:
    chart_width = min(60, max(16, width - FIGURES_WIDTH))
    values, highest, top = _series(summary)
    chart = columns([value / highest for value in values], chart_width, CHART_LINES, reference=caption.reference)
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True, width=chart_width)
    for figure, axis, line in zip(
        _figures(summary, caption), (top, "", "", "0 %" if summary.history else "0"), chart, strict=True
    ):
        grid.add_row(figure, Text(axis, style="bright_black"), line)
    note = caption.note or waiting_text(summary)
    return Panel(
        grid,
        title=_title(summary.federation, caption.security),
        title_align="left",
        subtitle=Text(note, style="yellow") if note else None,
        subtitle_align="left",
        border_style="red" if summary.online is False else "bright_black",
        box=box.ROUNDED,
        width=width,
    )


def _series(summary: FleetSummary) -> tuple[list[float], float, str]:
    """Return what is drawn, the value at the top, and its name: accuracies, or losses where there are none."""
    if summary.history or not summary.losses:
        return [accuracy for _, accuracy in summary.history], 1.0, "100 %"
    losses = [loss if math.isfinite(loss) else 0.0 for _, loss in summary.losses]
    highest = max(*losses, 1e-9)
    return losses, highest, number_text(highest)


def _title(federation: str, security: str) -> Text:
    title = Text.assemble(("fedmq", "bold"), (" federation ", "bright_black"), (federation, "bold"))
    return title.append(f"  {security}", style="green") if security else title


def _figures(summary: FleetSummary, caption: Caption) -> list[Text]:
    metrics = summary.metrics
    accuracy = Text.assemble(_label("accuracy"), (percent_text(summary.accuracy), "bold green"))
    if summary.losses and not summary.history:
        accuracy = Text.assemble(_label("loss"), (number_text(summary.losses[-1][1]), "bold green"))
        accuracy.append(f"  first {number_text(summary.losses[0][1])}", style="yellow")
    if caption.reference is not None:
        accuracy.append(f"  {caption.reference_name} {percent_text(caption.reference)}", style="yellow")
    updates = Text.assemble(_label("updates"), count_text(metrics.updates_accepted if metrics else None))
    if metrics is not None:
        updates.append(f"  {rate_text(summary.updates_per_s)}   ", style="bright_black")
        updates.append(_buffer(metrics.updates_buffered, metrics.buffer_goal))
    version = Text.assemble(_label("version"), (count_text(summary.version), "bold"))
    version.append(f"  {summary.connected} of {summary.devices} devices up", style="bright_black")
    return [version, accuracy, updates, Text.assemble(_label("broker"), caption.broker)]


def _label(name: str) -> tuple[str, str]:
    return (f"{name:<9}", "bright_black")


def _buffer(filled: int, goal: int | None) -> str:
    if not goal:
        return f"buffer {filled}"
    if goal > 12:  # noqa: PLR2004 - as many dots as fit into 80 columns
        return f"buffer {filled}/{goal}"
    return "buffer " + "■" * min(filled, goal) + "□" * max(0, goal - filled)


def _table(rows: Sequence[DeviceRow], width: int, answers: Answers | None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bright_black", width=width, padding=(0, 1, 0, 0), show_edge=False)
    own = _own(rows)
    said = answers.devices if answers is not None and width >= PREDICTS_FROM else {}
    room = width - (THREE_MORE if own == "personal" else 0) - (PREDICTS_WIDTH if said else 0)
    chosen = [
        column for column in _COLUMNS if (room >= column.from_width or not column.from_width) and own in column.of
    ]
    for column in chosen:
        table.add_column(column.title, justify=column.align, no_wrap=True, overflow="ellipsis")
    if said:
        table.add_column("predicts", no_wrap=True, min_width=PREDICTS_WIDTH - 1)
    for row in rows:
        style = "dim" if row.state in {"sleeping", "stopped", "lost"} else ""
        cells = [column.cell(row) for column in chosen]
        table.add_row(*cells, *([_predicts(row, said.get(row.device_id))] if said else []), style=style)
    return table


def _predicts(row: DeviceRow, answer: Answered | None) -> Text:
    """Return the newest answer, and what would have been right if it is wrong; of who is off, none."""
    if answer is None or row.state in OFFLINE:
        return Text("")
    if answer.said == answer.truth:
        return Text(f"{answer.said} ✔", style="green")
    return Text.assemble((f"{answer.said} ✘", "red"), (f" is {answer.truth}", "bright_black"))


def _state(row: DeviceRow) -> Text:
    if row.state == "idle" and row.reason.startswith(DIVERGES):
        return DIVERGING
    name = row.state or "?"
    return Text(f"{STATE_SIGNS.get(name, '✗')} {name}", style=STATE_STYLES.get(name, ""))


def _behind(row: DeviceRow) -> Text:
    if row.behind is None:
        return Text("-", style="bright_black")
    if row.behind == 0:
        return Text("0", style="bright_black")
    return Text(str(row.behind), style="yellow" if row.behind >= FAR_BEHIND else "")


def _seen(row: DeviceRow) -> Text:
    quiet = row.seen_s is not None and row.seen_s > QUIET_S and row.state != "sleeping"
    return Text(seconds_text(row.seen_s), style="yellow" if quiet else "")


def _refused(row: DeviceRow) -> Text:
    return Text(count_text(row.refused), style="yellow" if row.refused else "bright_black")


def _waiting(row: DeviceRow) -> Text:
    return Text(count_text(row.waiting), style="" if row.waiting else "bright_black")


def _sealed(row: DeviceRow, text: str) -> Text:
    return Text("sealed", style="bright_black") if row.sealed else Text(text)


def _personal(row: DeviceRow) -> Text:
    return Text(percent_text(row.accuracy_personal), style="green")


def _accuracy_bar(row: DeviceRow) -> Text:
    share = row.accuracy if row.accuracy_personal is None else row.accuracy_personal
    return Text("") if share is None else bar(share, 10)


def _own(rows: Sequence[DeviceRow]) -> Own:
    if any(row.accuracy_personal is not None for row in rows):
        return "personal"
    only_loss = any(row.loss is not None for row in rows) and all(row.accuracy is None for row in rows)
    return "loss" if only_loss else "accuracy"


_THREE: frozenset[Own] = frozenset({"personal"})


_COLUMNS = (
    _Column(title="device", cell=lambda row: Text(row.device_id), align="left"),
    _Column(title="state", cell=_state, align="left"),
    _Column(title="version", cell=lambda row: count_text(row.version)),
    _Column(title="behind", cell=_behind, from_width=70),
    _Column(title="seen", cell=_seen, from_width=80),
    _Column(title="updates", cell=lambda row: count_text(row.accepted)),
    _Column(title="refused", cell=_refused, from_width=98),
    _Column(title="outbox", cell=_waiting, from_width=110),
    _Column(title="size", cell=lambda row: bytes_text(row.update_bytes), from_width=104),
    _Column(title="sent", cell=lambda row: bytes_text(row.sent_bytes), from_width=120),
    _Column(title="training", cell=lambda row: seconds_text(row.training_s)),
    _Column(title="examples", cell=lambda row: _sealed(row, count_text(row.examples)), from_width=126),
    _Column(title="own data", cell=lambda row: _sealed(row, percent_text(row.accuracy)), of=frozenset({"accuracy"})),
    _Column(title="own loss", cell=lambda row: _sealed(row, number_text(row.loss)), of=frozenset({"loss"})),
    _Column(title="global", cell=lambda row: Text(percent_text(row.accuracy_global)), of=_THREE),
    _Column(title="personal", cell=_personal, of=_THREE),
    _Column(title="alone", cell=lambda row: Text(percent_text(row.accuracy_local)), of=_THREE),
    _Column(title="", cell=_accuracy_bar, align="left", from_width=140),
)
