"""What a demo came to, as a panel for people. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.panel import Panel
from rich.text import Text

from fedmq import scoreboard
from fedmq.units import bytes_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fedmq.foretold import Foretold
    from fedmq.outcome import Guarded, Outcome

WIDTH = 80


def as_panel(outcome: Outcome) -> RenderableType:
    """Return the summary for a terminal."""
    after = outcome.aftermath
    parts: list[RenderableType] = [scoreboard.scores(outcome)]
    if (own := scoreboard.own(after.own, outcome.baseline.alone_mean)) is not None:
        parts += [Text(), own]
    if after.ported:
        parts += [Text(), scoreboard.files(after.ported)]
    if after.trouble:
        parts += [Text(), Text(f"✘ the last version could not be looked at: {after.trouble}", "bold red")]
    parts += [Text(), _figures(outcome), Text(), _proof(outcome)]
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
        (f"{program} demo --task digits", "ten cameras that know three digits each"),
        (f"{program} demo --task anomaly", "no labels: what is unusual?"),
        (f"{program} demo --chaos", "the same, while everything gets killed"),
        (f"{program} demo --secure", "certificates, signatures, sealed updates"),
        (f"{program} demo --sensors", "devices collect their data, and predict"),
        (f"{program} init my-fleet", "configurations to begin with"),
        (f"{program} monitor --help", "this table for any running federation"),
        ("docs/models.md", "your own data and model, in ten minutes"),
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
