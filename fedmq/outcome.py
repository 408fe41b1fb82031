"""What a demo came to: as a panel for people, as one JSON object for programs. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fedmq.chart import bar
from fedmq.units import bytes_text, percent_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fedmq.audit import AggregatorBooks, Verdict
    from fedmq.baseline import Baseline
    from fedmq.foretold import Foretold
    from fedmq.strangers import Knock

FLOAT32_BYTES = 4
BAR = 30
WIDTH = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """How a secure run was guarded, and against whom."""

    tls: str
    """The version that the broker agreed on."""
    strangers: int
    """Who were sent to the broker."""
    knocks: tuple[Knock, ...]
    """What came of it, as far as there was an answer."""

    @property
    def refused(self) -> int:
        """Strangers whom the broker refused."""
        return sum(knock.refused for knock in self.knocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All that the summary tells."""

    baseline: Baseline
    verdict: Verdict
    aggregator: AggregatorBooks
    devices: int
    unseen_people: int
    fleet_s: float
    """From the first process to the last order."""
    wall_s: float
    broker: str
    kills: dict[str, int] = field(default_factory=dict)
    """SIGKILLs by target; empty without chaos."""
    chaos: bool = False
    interrupted: bool = False
    stubborn: tuple[str, ...] = ()
    """Processes that did not end when asked."""
    guarded: Guarded | None = None
    """None: in the clear."""
    foretold: Foretold | None = None
    """None: nobody predicted."""

    @property
    def versions(self) -> int:
        """Versions made by the fleet: the untrained one is not counted."""
        return max(0, len(self.aggregator.versions) - 1)

    @property
    def float32_bytes(self) -> int:
        """An update as plain float32, without any envelope."""
        return self.aggregator.parameters * FLOAT32_BYTES

    @property
    def good(self) -> bool:
        """Whether the run shows what it should."""
        return self.verdict.holds and not self.stubborn and self._safe and (self.versions > 0 or self.interrupted)

    @property
    def _safe(self) -> bool:
        if self.guarded is None:
            return True
        strangers, answers = self.guarded.strangers, len(self.guarded.knocks)
        # Who ended the run early did not wait for the broker's answers.
        return self.guarded.refused == (answers if self.interrupted else max(1, strangers))


def as_values(outcome: Outcome) -> dict[str, Any]:
    """Return the object that ``--json`` prints."""
    verdict, books = outcome.verdict, outcome.aggregator
    found: dict[str, Any] = {
        "accuracy": _rounded(books.accuracy),
        "device_alone_accuracy": _rounded(outcome.baseline.alone_mean),
        "central_accuracy": _rounded(outcome.baseline.central),
        "versions": outcome.versions,
        "updates_sent": verdict.created,
        "updates_accepted": verdict.taken_in,
        "updates_folded": verdict.folded,
        "update_bytes": books.update_bytes,
        "update_bytes_float32": outcome.float32_bytes,
        "wall_s": round(outcome.wall_s, 1),
        "broker": outcome.broker,
        "faults": list(verdict.faults),
        "secure": outcome.guarded is not None,
    }
    if outcome.guarded:
        guarded = outcome.guarded
        found |= {"tls": guarded.tls, "strangers": guarded.strangers, "strangers_refused": guarded.refused}
    if outcome.foretold:
        told = outcome.foretold
        found |= {"predictions": told.made, "predictions_judged": told.judged, "predictions_right": told.right}
    return {**found, "kills": outcome.kills} if outcome.chaos else found


def as_panel(outcome: Outcome) -> RenderableType:
    """Return the summary for a terminal."""
    parts: list[RenderableType] = [_accuracies(outcome), Text(), _figures(outcome), Text(), _proof(outcome)]
    if outcome.foretold and outcome.foretold.made:
        parts += [Text(), _foretold(outcome.foretold)]
    if outcome.guarded:
        parts += [Text(), _guard(outcome.guarded, outcome.verdict.taken_in)]
    return Panel(
        Group(*parts),
        title=Text("what it came to" if not outcome.interrupted else "what was reached until you ended it", "bold"),
        title_align="left",
        border_style="green" if outcome.good else "red",
        box=box.ROUNDED,
        padding=(1, 2),
        width=WIDTH,
    )


def _accuracies(outcome: Outcome) -> Group:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True)
    baseline, accuracy = outcome.baseline, outcome.aggregator.accuracy
    rows = (
        ("one device alone (mean)", baseline.alone_mean, "yellow"),
        ("federated, no data shared", accuracy, "bold green"),
        ("all data in one place", baseline.central, "cyan"),
    )
    for name, share, style in rows:
        grid.add_row(Text(name, style), Text(percent_text(share), style), bar(share or 0.0, BAR, style))
    return Group(Text(f"accuracy on {outcome.unseen_people} people whom nobody trained on", "bold"), grid)


def _figures(outcome: Outcome) -> Group:
    verdict, size = outcome.verdict, outcome.aggregator.update_bytes
    made = f"{outcome.versions} versions from {verdict.folded} updates of {outcome.devices} devices"
    lines = [Text(f"{made} in {outcome.fleet_s:.0f} s, over {outcome.broker}")]
    if size:
        share = f"{100 * size / outcome.float32_bytes:.0f} %"
        whole = bytes_text(outcome.float32_bytes)
        lines.append(Text(f"an update is {bytes_text(size)}, {share} of the {whole} that float32 would take"))
    return Group(*lines)


def _proof(outcome: Outcome) -> Group:
    verdict = outcome.verdict
    lines: list[RenderableType] = []
    if outcome.chaos:
        total = sum(outcome.kills.values())
        devices = total - outcome.kills.get("aggregator", 0) - outcome.kills.get("broker", 0)
        struck = f"{devices} devices, {outcome.kills.get('aggregator', 0)} the aggregator"
        struck += f", {outcome.kills['broker']} the broker" if outcome.kills.get("broker") else ""
        lines.append(Text(f"{total} times SIGKILL: {struck}", "bold"))
    sums = f"made {verdict.created} = accepted {verdict.accepted} + refused {verdict.refused}"
    sums += f" + given up {verdict.dropped} + waiting {verdict.waiting}"
    lines += [Text.assemble(("devices     ", "bright_black"), sums)]
    taken = f"took in {verdict.taken_in}, each once; folded {verdict.folded} of them"
    if verdict.taken_in > verdict.accepted:
        taken += f" ({verdict.taken_in - verdict.accepted} of the waiting)"
    lines += [Text.assemble(("aggregator  ", "bright_black"), taken)]
    if not outcome.versions and not outcome.interrupted:
        lines.append(Text("✘ no version was made: use --keep DIR, and see the logs there", "bold red"))
    if verdict.holds:
        lines.append(Text("✔ nothing lost, nothing counted twice: the books of both ends agree", "bold green"))
    else:
        lines.append(Text("✘ the books of the two ends do not agree", "bold red"))
        lines += [Text(f"  {fault}", "red") for fault in verdict.faults]
    lines += [Text(f"✘ {name} did not end when asked, and was killed", "bold red") for name in outcome.stubborn]
    return Group(*lines)


def _foretold(told: Foretold) -> Group:
    lines = [Text(f"{told.made:,} predictions by the devices themselves, about new seconds of their own wearers")]
    if told.judged:
        share = 100 * told.right / told.judged
        lines.append(Text(f"{share:.0f} % of those in the second half were right", "bold green"))
    return Group(*lines)


def _guard(guarded: Guarded, updates: int) -> Group:
    lines = [
        Text(f"mutual {guarded.tls}, signed models, sealed updates: the broker could read"),
        Text(f"neither weights nor metrics of the {updates} updates"),
    ]
    let_in = [knock for knock in guarded.knocks if not knock.refused]
    silent = guarded.strangers - len(guarded.knocks)
    if guarded.refused:
        lines.append(
            Text(f"✔ {guarded.refused} of {guarded.strangers} strangers were refused by the broker", "bold green")
        )
    lines += [Text(f"✘ {knock.who} {knock.why}", "bold red") for knock in let_in]
    if silent:
        lines.append(Text(f"  {silent} of them had no answer when the demo ended", "yellow"))
    return Group(*lines)


def where_next(program: str, kept: str | None) -> Text:
    """Return where a newcomer may go from here; ``program`` is how the command is called here."""
    steps = [
        (f"{program} demo --chaos", "the same, while everything gets killed"),
        (f"{program} demo --secure", "with certificates, signed models, sealed updates"),
        (f"{program} demo --sensors", "devices collect what they learn from, and predict"),
        (f"{program} init my-fleet", "commented configurations, to try on one machine"),
        (f"{program} monitor --help", "this table for any running federation"),
        ("docs/security.md", "a fleet of your own, from nothing"),
        ("docs/architecture.md", "how it works, and why"),
    ]
    column = max(len(command) for command, _ in steps) + 2
    text = Text("where to go next\n", style="bold")
    if kept:
        steps.insert(0, (kept, "state, logs, configurations (and keys) of this run"))
    for command, purpose in steps:
        text.append(f"  {command:<{column}}", style="cyan not bold")
        text.append(f"{purpose}\n", style="not bold")
    text.rstrip()
    return text


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)
