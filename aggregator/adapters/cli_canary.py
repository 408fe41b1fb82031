"""The commands ``fedmq-aggregator canary ...``: what is tried before it is published, and deciding on it by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from aggregator.adapters import operating, tables
from aggregator.adapters.preparing import prepare
from aggregator.adapters.registry import open_registry
from aggregator.configuration import AggregatorSettings
from aggregator.events import CanaryAction
from protocol.adapters.configuration import load

Config = Annotated[Path, typer.Option("--config", help="The aggregator's TOML file.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Last = Annotated[int, typer.Option("--last", min=1, help="Show so many of the newest.")]

canary_app = typer.Typer(help="Versions that a part of the fleet tries first.", no_args_is_help=True)


@canary_app.command()
def status(config: Config, last: Last = 5, json: Json = False) -> None:
    """Show the candidate that is tried, and those that were withdrawn."""
    settings = load(config, AggregatorSettings)
    with open_registry(Path(settings.aggregator.state_dir)) as registry:
        lines = registry.tried(last)
        open_one = next((line.survey for line in lines if line.survey), "")
        answers = registry.survey(open_one).with_examples if open_one else 0
    if json:
        _print_json({"answers": answers, "wanted": settings.canary.min_answers, "tried": msgspec.to_builtins(lines)})
    else:
        Console().print(tables.tried_table(lines, answers, settings.canary.min_answers))


@canary_app.command()
def publish(config: Config, json: Json = False) -> None:
    """Publish the candidate now, whatever devices say of it."""
    _decide("publish", config, json=json)


@canary_app.command()
def withdraw(config: Config, json: Json = False) -> None:
    """Withdraw the candidate now: the current version stays."""
    _decide("withdraw", config, json=json)


def _decide(action: CanaryAction, config: Path, *, json: bool) -> None:
    done = operating.decide(prepare(config), action)
    if json:
        _print_json(done)
    else:
        typer.echo(f"version {done['candidate']} is {done['outcome']}; {done['answers']} devices had compared it")


def _print_json(what: object) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(what), indent=2).decode())
