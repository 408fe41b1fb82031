"""A card as JSON; and as Markdown that is read as it is on a terminal: tables are aligned, nothing is coloured."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from aggregator.card import Card, Contents, Tried
from aggregator.spreads import Spread
from protocol.printable import printable

WIDTH = 80
MAX_DEVICES = 10
MAX_FEATURES = 12
MAX_LAYERS = 12
_LONGEST = 72
"""Of a value in a list of settings."""


def card_json(card: Card, **more: object) -> str:
    """Return the card as JSON for people and scripts, with a line break at the end."""
    content = msgspec.json.encode(msgspec.to_builtins(card) | more)
    return msgspec.json.format(content, indent=2).decode() + "\n"


def card_text(card: Card) -> str:
    """Return the card as text; it ends with a line break."""
    parts = [
        _head(card),
        _contents_section(card),
        _measured(card),
        _data(card),
        _training(card),
        _privacy(card),
        _size(card),
        _hashes(card),
        _missing(card),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(card: Card) -> str:
    lineage = card.lineage
    said = [f"Made {_when(card.created)} by epoch {card.epoch}. {_origin(card)}"]
    if lineage.state == "current":
        said.append("It is the current version.")
    elif lineage.state == "withdrawn":
        said.append(f"It was withdrawn by version {lineage.withdrawn_by}: nothing may build on it.")
    else:
        said.append("There are newer versions.")
    if lineage.set_aside:
        said.append(f"{_count(lineage.set_aside, 'update')} of the open buffer were set aside.")
    lines = [f"# Version {card.version} of {printable(card.federation)}", "", _wrapped(" ".join(said))]
    if card.drifting:
        shown = ", ".join(card.drifting[:MAX_DEVICES]) + (", ..." if len(card.drifting) > MAX_DEVICES else "")
        told = "says that its data drift" if len(card.drifting) == 1 else "say that their data drift"
        lines += ["", _wrapped(f"{_count(len(card.drifting), 'device')} {told}, now: {shown}.")]
    for what, found in (("withheld", lineage.withheld_before), ("withdrawn", lineage.withdrawn_before)):
        for each in found:
            updates = _count(each.updates, "update")
            lines.append(_item(f"{what} before it, {_when(each.when)}: {printable(each.reason)} ({updates})"))
    return "\n".join(lines)


def _origin(card: Card) -> str:
    lineage = card.lineage
    match card.kind:
        case "aggregate":
            return f"Its parent is version {lineage.parent}."
        case "rollback":
            return (
                f"A rollback: it has the parameters of version {lineage.parameters_of}, after version {lineage.parent}."
            )
        case "statistics":
            return f"Version {lineage.parent} with the constants that the fleet's statistics gave; not yet trained."
        case _:
            return "The first of its epoch; untrained, or taken over from the epoch before."


def _contents_section(card: Card) -> str:
    made = card.lineage.made_of
    if made is None:
        return ""
    said = (
        f"{_count(made.updates, 'update')} of {_count(made.devices, 'device')}, trained on "
        f"{made.examples:,} examples in {made.steps:,} steps; weight {_number(made.weight)}, "
        f"length of the step {_number(made.step_norm)}, {made.clipped} clipped."
    )
    parts = ["## Made of", _wrapped(said), _staleness(made)]
    rows = [
        (share.device, share.updates, f"{share.examples:,}", share.staleness, _percent(share.weight_share))
        for share in made.heaviest[:MAX_DEVICES]
    ]
    parts.append(_table(("device", "updates", "examples", "staleness", "weight"), rows))
    more = made.devices - len(rows)
    if more:
        parts.append(f"and {_count(more, 'device')} more: `fedmq-aggregator show {card.version}`")
    return "\n\n".join(parts)


def _staleness(made: Contents) -> str:
    rows = [
        (age, count, _percent(made.weight_by_staleness.get(age, 0.0))) for age, count in list(made.staleness.items())
    ]
    return _table(("staleness", "updates", "weight"), rows)


def _measured(card: Card) -> str:
    found = card.measured
    parts = ["## Measured"]
    if card.lineage.tried is not None:
        parts.append(_tried(card.lineage.tried))
    if found.aggregator:
        figures = ", ".join(f"{printable(name)} {_number(value)}" for name, value in found.aggregator.items())
        parts.append(_wrapped(f"On the aggregator's own data: {figures}."))
    if found.held_out:
        parts += ["On what devices hold out, by those that trained from it:", _spreads(found.held_out)]
    for survey in found.surveys:
        figures = ", ".join(f"{name} {_number(value)}" for name, value in survey.overall.items())
        state = "open" if survey.open else "closed"
        said = (
            f"Asked of the fleet {_when(survey.asked)} (survey {survey.survey}, {state}): "
            f"{_count(survey.devices, 'device')} with {survey.examples:,} examples"
        )
        parts.append(_wrapped(f"{said}; overall {figures}." if figures else f"{said}."))
        if survey.figures:
            parts.append(_spreads(survey.figures))
    if found.held_out or found.surveys:
        parts.append("Each device counts once; 10 %: one device in ten is worse.")
    return "\n\n".join(parts) if len(parts) > 1 else ""


def _tried(tried: Tried) -> str:
    found = tried.figures
    said = f"A part of the fleet tried it before it was published: {printable(tried.why)}."
    pairs = [(name, found.get(f"{name}_before")) for name in found if name.startswith("fleet_")]
    figures = [
        f"{printable(name.removeprefix('fleet_'))} {_number(found[name])}, its parent's {_number(before)}"
        for name, before in pairs
        if before is not None
    ]
    return _wrapped(f"{said} On {_count(tried.devices, 'device')}: {'; '.join(figures)}." if figures else said)


def _spreads(found: Sequence[Spread]) -> str:
    several = len({each.whose for each in found}) > 1
    rows = [
        (
            f"{each.whose} {each.measure}" if several else each.measure,
            each.devices,
            *map(_number, (each.mean, each.worst, each.p10, each.p50, each.p90, each.best)),
            each.worst_device,
        )
        for each in found
    ]
    return _table(("", "devices", "mean", "worst", "10 %", "median", "90 %", "best", "worst device"), rows)


def _data(card: Card) -> str:
    data = card.data
    if not data:
        return ""
    state = "open" if data["open"] else "closed"
    order = "before" if data["before"] else "after"
    said = (
        f"The federation's examples, from survey {data['survey']} ({state}, asked {_when(data['asked'])}, "
        f"{order} this version was made): {_count(data['with_examples'], 'device')} with "
        f"{data['examples']:,} examples. Extremes are values of single samples."
    )
    parts = ["## Data", _wrapped(said)]
    if data["classes"]:
        whole = sum(data["classes"]) or 1
        shown = ", ".join(f"{k}: {n:,} ({_percent(n / whole)})" for k, n in enumerate(data["classes"][:100]))
        parts.append(_wrapped(f"By class: {shown}."))
    names = ("mean", "deviation", "minimum", "p50", "maximum")
    rows = [
        (each["name"], *(_number(each[name]) for name in names), f"{each['missing']:,}")
        for each in data["features"][:MAX_FEATURES]
    ]
    parts.append(_table(("feature", "mean", "std", "minimum", "median", "maximum", "missing"), rows))
    more = len(data["features"]) - len(rows)
    if more:
        parts.append(f"and {_count(more, 'feature')} more: `fedmq-aggregator card {card.version} --json`")
    return "\n\n".join(parts)


def _training(card: Card) -> str:
    terms, model = card.terms, card.model
    parts = ["## Model and training"]
    if model:
        parts.append(_item(f"model: {_settings(model['spec'])}; {model['count']:,} parameters"))
        layers = [f"{each['name']} {'x'.join(map(str, each['shape'])) or '1'}" for each in model["parameters"]]
        more = [f"{len(layers) - MAX_LAYERS} more"] if len(layers) > MAX_LAYERS else []
        parts.append(_item(f"parameters: {', '.join([*layers[:MAX_LAYERS], *more])}"))
    if terms:
        parts.append(_item(f"training plan: {_settings(terms['training'])}"))
        if terms.get("weighting"):
            parts.append(_item(f"rare classes: {_settings(terms['weighting'])}"))
        parts.append(_item(f"features: {_settings(terms['features']) or 'devices have ready examples'}"))
        parts.append(_item(f"taking part: {_settings(terms['participation'])}"))
        parts.append(_item(f"aggregation: {_settings(terms['aggregation'])}"))
        parts.append(_item(f"software: fedmq {printable(terms['software'])}"))
    return "\n".join([parts[0], "", *parts[1:]]) if len(parts) > 1 else ""


def _privacy(card: Card) -> str:
    if not card.terms:
        return ""
    security, personal = card.terms["security"], card.terms["personal"]
    private = ", ".join(personal.get("private", ())) or "none: all parameters are shared"
    sealed = (
        f"sealed to {security['sealing_key']} ({security['sealing_suite']})" if security["sealed"] else "in the clear"
    )
    keys = ", ".join(security["signing_keys"])
    lines = [
        _item(f"parameters that stay on devices: {private}"),
        _item(f"updates and answers travel: {sealed}"),
        _item(f"announcements: {f'signed by {keys}' if security['signed'] else 'not signed'}"),
        _item(f"connection to the broker: {'TLS' if security['tls'] else 'without TLS'}"),
        _item("samples: none left a device; updates, figures and statistics did"),
    ]
    return "\n".join(["## Privacy", "", *lines])


def _size(card: Card) -> str:
    size = card.size
    rows: list[tuple[object, ...]] = []
    if size.parameters is not None:
        rows.append(("parameters, float32", f"{size.parameter_bytes:,}", f"{size.parameters:,} of them"))
    rows.append(("fetched whole", f"{size.blob_bytes:,}", size.blob_encoding))
    if size.delta_bytes is not None:
        rows.append(("fetched as a delta", f"{size.delta_bytes:,}", size.delta_encoding))
    if size.mean_update_bytes is not None:
        rows.append(("an update, mean", f"{size.mean_update_bytes:,.0f}", f"{size.update_bytes:,} in all"))
    rows += [(f"export, {each.format} {each.weights}", f"{each.bytes:,}", "") for each in card.exports]
    return "\n\n".join(["## Size", _table(("what", "bytes", ""), rows)])


def _hashes(card: Card) -> str:
    pairs = [("parameters (float32, little-endian)", card.hashes.parameters)]
    if card.hashes.blob != card.hashes.parameters:
        pairs.append(("blob", card.hashes.blob))
    if card.hashes.delta:
        pairs.append(("delta", card.hashes.delta))
    pairs += [(f"{each.format} {each.weights}: {printable(each.file)}", each.sha256) for each in card.exports]
    lines = [f"- {name}\n  `{digest}`" for name, digest in pairs]
    return "\n".join(["## SHA-256", "", *lines])


def _missing(card: Card) -> str:
    lines = [_item(f"{part}: {why}") for part, why in card.missing.items()]
    return "\n".join(["## Not known", "", *lines]) if lines else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return an aligned table; the first column is text, of the others those that hold numbers stand to the right."""
    cells = [[printable(str(cell)).replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(3, *(len(row[column]) for row in [list(head), *cells])) for column in range(len(head))]
    right = [column > 0 and all(_numeric(row[column]) for row in cells) for column in range(len(head))]
    lines = [list(head), ["-" * (width - 1) + (":" if to else "-") for width, to in zip(widths, right, strict=True)]]
    lines += cells
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if to else cell.ljust(width) for cell, width, to in zip(line, widths, right, strict=True)
        )
        + " |"
        for line in lines
    )


def _numeric(cell: str) -> bool:
    return not cell or cell[0].isdigit() or cell[0] in "+-"


def _settings(found: Mapping[str, Any]) -> str:
    """Return settings in a line, the kind first; those that say no or nothing are left out."""
    ordered = sorted(found.items(), key=lambda item: item[0] != "kind")
    return ", ".join(f"{printable(str(name))} {_setting(value)}" for name, value in ordered if value)


def _setting(value: object) -> str:
    if isinstance(value, float):
        return _number(value)
    if value is True:
        return "yes"
    text = printable(str(value)) if not isinstance(value, (list, tuple)) else f"[{', '.join(map(_setting, value))}]"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _when(text: str) -> str:
    return text.replace("T", " ").replace("Z", " UTC")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _item(text: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
