"""The command ``fedmq-aggregator card``: all that is known of one version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from aggregator.adapters.card_sources import card_in
from aggregator.card_text import card_json, card_text
from aggregator.configuration import AggregatorSettings
from protocol.adapters.configuration import load

Config = Annotated[Path, typer.Option("--config", help="The aggregator's TOML file.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Number = Annotated[int | None, typer.Argument(min=0, help="Number of a version; the newest without one.")]
Of = Annotated[Path | None, typer.Option("--of", help="A file: the card of the version that it holds.")]


def card(config: Config, version: Number = None, of: Of = None, json: Json = False) -> None:
    """Show a version's model card: lineage, training, privacy, figures, data, sizes and hashes.

    Works whether the aggregator runs or not, and for versions whose parameters are no longer kept.
    """
    if version is not None and of is not None:
        raise typer.BadParameter("a version and --of: the file says which version it is", param_hint="--of")
    state_dir = Path(load(config, AggregatorSettings).aggregator.state_dir)
    found: dict[str, Any] = {}
    if of is not None:
        # Late: only this reads .tflite files.
        from aggregator.adapters.tracing import trace  # noqa: PLC0415 - see above

        traced = trace(state_dir, of)
        version = traced.version
        found = {"traced": msgspec.to_builtins(traced)}
        typer.echo(f"{of} is version {version}: {traced.how}", err=True)
    made = card_in(state_dir, version)
    if json:
        typer.echo(card_json(made, **found), nl=False)
    else:
        typer.echo(card_text(made), nl=False)
