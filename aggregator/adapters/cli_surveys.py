"""The commands ``fedmq-aggregator survey ...`` and ``surveys``: asking the fleet, and looking at what it said."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from aggregator.adapters import survey_tables
from aggregator.adapters.control import SurveyCloseRequest, SurveyRequest, ask
from aggregator.adapters.registry import open_registry
from aggregator.adapters.surveying import survey_report
from aggregator.configuration import AggregatorSettings
from protocol.adapters.configuration import load

Config = Annotated[Path, typer.Option("--config", help="The aggregator's TOML file.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Id = Annotated[str, typer.Argument(help="Id of a survey; its beginning is enough.")]

survey_app = typer.Typer(help="Ask the fleet for figures; no sample leaves a device.", no_args_is_help=True)


class Kind(StrEnum):
    """What can be asked."""

    statistics = "statistics"
    evaluation = "evaluation"


Fraction = Annotated[float, typer.Option(min=0.0001, max=1.0, help="Share of the fleet that answers.")]
MinExamples = Annotated[int, typer.Option(min=1, help="Devices with fewer examples say that they have none.")]


@survey_app.command()
def statistics(config: Config, fraction: Fraction = 1.0, min_examples: MinExamples = 1, json: Json = False) -> None:
    """Ask what the features look like: means, deviations, extremes, quantiles, classes."""
    _open(Kind.statistics, config, fraction, min_examples, json=json)


@survey_app.command()
def evaluation(config: Config, fraction: Fraction = 1.0, min_examples: MinExamples = 1, json: Json = False) -> None:
    """Ask how good the model is on what devices have held out."""
    _open(Kind.evaluation, config, fraction, min_examples, json=json)


@survey_app.command()
def show(survey: Id, config: Config, json: Json = False) -> None:
    """Show what the answers add up to so far."""
    settings = load(config, AggregatorSettings)
    with open_registry(Path(settings.aggregator.state_dir)) as registry:
        found = survey_report(registry, survey, settings.canary)
    if json:
        _print_json(found)
    else:
        Console().print(survey_tables.report_table(found))


@survey_app.command()
def close(survey: Id, config: Config, json: Json = False) -> None:
    """Ask no more; what was answered stays."""
    with open_registry(_state_dir(config)) as registry:
        found = registry.survey(survey)
    done = ask(_state_dir(config), SurveyCloseRequest(survey=found.id))
    if json:
        _print_json(done)
    else:
        typer.echo(f"survey {found.id} is closed; {found.devices} devices had answered")


def surveys(config: Config, json: Json = False) -> None:
    """List the surveys, open and closed."""
    with open_registry(_state_dir(config)) as registry:
        lines = registry.surveys()
    if json:
        _print_json(msgspec.to_builtins(lines))
    else:
        Console().print(survey_tables.surveys_table(lines))


def _open(kind: Kind, config: Path, fraction: float, min_examples: int, *, json: bool) -> None:
    request = SurveyRequest(kind=kind.value, fraction=fraction, min_examples=min_examples)
    done = ask(_state_dir(config), request)
    if json:
        _print_json(done)
    else:
        typer.echo(f"asked; look with: fedmq-aggregator survey show {done['survey']} --config {config}")


def _state_dir(config: Path) -> Path:
    return Path(load(config, AggregatorSettings).aggregator.state_dir)


def _print_json(what: object) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(what), indent=2).decode())
