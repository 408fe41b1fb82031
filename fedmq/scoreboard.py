"""The part of a demo's panel that tells how good the model is: for strangers, for each device, and as files. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fedmq.baseline import Score
from fedmq.chart import bar
from fedmq.units import bytes_text, percent_text

if TYPE_CHECKING:
    from aggregator.measured import Measured
    from fedmq.aftermath import Threshold
    from fedmq.outcome import Outcome
    from fedmq.portable import Portable, Ported

BAR = 30
NARROW_BAR = 12
OWN = {
    "global": ("version as it came", ""),
    "personal": ("version fitted to each", "bold green"),
    "local": ("each learned alone", "yellow"),
}


def scores(outcome: Outcome) -> Group:
    """Return how the federation compares with devices alone, and with all data in one place."""
    task, baseline, after = outcome.task, outcome.baseline, outcome.aftermath
    federated = Score(outcome.aggregator.accuracy or 0.0) if task.labelled else after.score
    rows = (
        ("one device alone (mean)", baseline.alone_mean, "yellow"),
        ("federated, no data shared", federated, "bold green"),
        ("all data in one place", baseline.central, "cyan"),
    )
    alarms = not task.labelled
    grid = _grid(4 if alarms else 3)
    for name, score, style in rows:
        share = score.right if score else None
        cells = [Text(name, style), Text(percent_text(share), style)]
        cells.append(bar(share or 0.0, NARROW_BAR if alarms else BAR, style))
        if alarms:
            cells.append(Text(f"false alarms {percent_text(score.false if score else None):>7}", style))
        grid.add_row(*cells)
    if not alarms:
        return Group(Text(f"accuracy on {task.judged_by}", "bold"), grid)
    title = Text(f"unusual moves found, with {task.judged_by}", "bold")
    return Group(title, grid, *_threshold(after.threshold))


def own(measured: dict[str, Measured], alone: Score | None) -> Group | None:
    """Return what the devices measured on data of their own; None when there is nothing to compare.

    ``alone``: how good a device that learned alone is where it has no data, so that nobody is misled by how good it is
    where it has.
    """
    if "personal" not in measured:
        return None
    grid = _grid(5)
    grid.add_row(*(Text(title, "bright_black") for title in ("", "mean", "lowest tenth", "worst", "")))
    for whose, (name, style) in OWN.items():
        found = measured.get(whose)
        if found is not None:
            shares = (found.mean, found.tenth, found.worst)
            grid.add_row(
                Text(name, style), *(Text(percent_text(share), style) for share in shares), Text(found.worst_device)
            )
    title = Text(f"accuracy of {measured['personal'].devices} devices on held-out data of their own", "bold")
    if alone is None or "local" not in measured:
        return Group(title, grid)
    warning = f"elsewhere, what a device learned alone is right in {percent_text(alone.right)}: see above"
    return Group(title, grid, Text(warning, "bright_black"))


def files(ported: Ported) -> Group:
    """Return what the last version is as files, and what a runtime makes of them."""
    if not ported.by:
        sizes = ", ".join(f"{file.weights} {bytes_text(file.size_bytes)}" for file in ported.files)
        return Group(
            Text("the last version as .tflite files", "bold"),
            Text(sizes),
            Text(f"NumPy has predicted, and these ran nowhere: {ported.why_not}", "yellow"),
        )
    grid = _grid(4)
    for file in ported.files:
        grid.add_row(Text(file.weights), Text(bytes_text(file.size_bytes)), Text(_right(file)), Text(_beside(file)))
    title = Text(f"the last version as .tflite files, predicting by {ported.by}", "bold")
    return Group(title, grid, *(_answers(ported.files[0]) if ported.files[0].answers else ()))


def _answers(file: Portable) -> list[Text]:
    line = Text(f"of some classes {file.weights} says: ", "bright_black")
    for answer in file.answers:
        right = answer.said == answer.truth
        line.append(f"  {answer.said} {'✔' if right else '✘'}", "green" if right else "red")
        line.append(f" {100 * answer.share:.0f} %" if right else f" is {answer.truth}", "not bold")
    return [line]


def _right(file: Portable) -> str:
    if file.score is None:
        return ""
    right, false = percent_text(file.score.right), file.score.false
    return right if false is None else f"{right} found, {percent_text(false)} false"


def _beside(file: Portable) -> str:
    if file.weights == "float32" and file.difference is not None:
        return f"as NumPy to {file.difference:.0e}"
    if file.agreement is None:
        return ""
    return f"as NumPy in {percent_text(file.agreement)}"


def _threshold(threshold: Threshold | None) -> list[Text]:
    if threshold is None:
        return [Text("no device has said how large its errors are: nothing to judge by", "yellow")]
    return [
        Text(
            f"unusual is an error above {threshold.value:.3g}: 99 % of what the median of {threshold.devices} devices"
        ),
        Text("holds out stays below; they have sent counts of errors, and no example"),
    ]


def _grid(columns: int) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    for place in range(1, columns):
        grid.add_column(justify="left" if place == columns - 1 else "right", no_wrap=True)
    return grid
