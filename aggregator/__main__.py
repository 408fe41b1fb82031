"""The command ``fedmq-aggregator``: runs the aggregator, and lets an operator look at it and steer it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec

try:
    import typer
    from rich.console import Console, RenderableType
except ModuleNotFoundError as missing:
    hint = "pip install 'fedmq[aggregator]'"
    raise SystemExit(f"fedmq-aggregator: {missing.name} is not installed, as on a device; {hint}") from missing

from aggregator.adapters import cli_canary, cli_cards, cli_surveys, operating, tables
from aggregator.adapters.control import CommandRequest, ControlFailed, NotRunning, ask
from aggregator.adapters.errors import ExportFailed, StoreError, StoreRefused
from aggregator.adapters.exports import ExportLog
from aggregator.adapters.lock import StoreInUse
from aggregator.adapters.preparing import prepare
from aggregator.adapters.registry import NotKept, open_registry
from aggregator.adapters.trainables import warnings_of
from aggregator.configuration import AggregatorSettings
from aggregator.service import serve
from protocol.adapters.configuration import load
from protocol.adapters.logs import say_why, set_up_log
from protocol.adapters.output import quiet_without_reader
from protocol.adapters.tls_check import check_tls
from protocol.errors import ProtocolError
from protocol.identifiers import check_identifier
from protocol.settings import ConfigurationError

ROLE = "role:aggregator"
"""The name in an aggregator's certificate, as fedmq provision makes it and broker_config expects it."""

EXIT_FAILED = 1
EXIT_CONFIGURATION = 2
"""Starting again would change nothing: the systemd unit does not try."""
EXIT_NOT_ALONE = 3

app = typer.Typer(
    help="The aggregator of a fedmq federation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(cli_surveys.survey_app, name="survey")
app.add_typer(cli_canary.canary_app, name="canary")
app.command()(cli_surveys.surveys)
app.command()(cli_cards.card)

Config = Annotated[Path, typer.Option("--config", help="The aggregator's TOML file.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
VersionNumber = Annotated[int, typer.Argument(min=0, help="Number of a version; 0 is the untrained model.")]


class Action(StrEnum):
    """What a device can be told."""

    pause = "pause"
    resume = "resume"
    evaluate = "evaluate"
    forget = "forget"


class LogLevel(StrEnum):
    """From which level on the log is written."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class LogForm(StrEnum):
    """For whom the log is written."""

    auto = "auto"
    journal = "journal"
    plain = "plain"


@app.command()
def run(
    config: Config,
    check: Annotated[
        bool, typer.Option("--check", help="Only check the configuration and the files it names.")
    ] = False,
    log_level: Annotated[LogLevel, typer.Option(help="How much to say on standard error.")] = LogLevel.info,
    log_format: Annotated[LogForm, typer.Option(help="auto: as the journal wants it, if it is there.")] = LogForm.auto,
) -> None:
    """Run the aggregator until SIGTERM or SIGINT."""
    prepared = prepare(config)
    for warning in [*prepared.settings.warnings(), *warnings_of(prepared.model)]:
        typer.echo(f"{config}: note: {warning}", err=True)
    if check:
        for note in check_tls(prepared.settings.broker.tls, time.time(), ROLE):
            typer.echo(f"{config}: note: {note}", err=True)
        typer.echo(f"{config}: fine; a model of {prepared.model.layout.size:,} parameters")
        return
    os.umask(0o077)  # the store holds updates that came sealed: it is nobody else's, whoever made its folder
    set_up_log(log_level.value, log_format.value)
    code = serve(prepared)
    sys.exit(code)


@app.command()
def status(
    config: Config,
    json: Json = False,
    devices: Annotated[int, typer.Option(min=0, help="Show so many devices, those heard of last.")] = 20,
) -> None:
    """Show figures and devices, whether the aggregator runs or not."""
    stored, live, why_not = operating.status(_state_dir(config))
    if json:
        _print_json({"running": live is not None, "live": live, "store": msgspec.to_builtins(stored)})
    else:
        _print(tables.status_table(stored, live, why_not, devices, time.time()))


@app.command()
def versions(
    config: Config,
    json: Json = False,
    newest: Annotated[int, typer.Option("--last", min=1, help="Show so many of the newest.")] = 30,
) -> None:
    """List the versions of the model."""
    with open_registry(_state_dir(config)) as registry:
        lines, tried = registry.versions(newest), registry.tried(newest)
    if json:
        _print_json(msgspec.to_builtins(lines))
    else:
        _print(tables.versions_table(lines, tried))


@app.command()
def show(version: VersionNumber, config: Config, json: Json = False) -> None:
    """Show which updates a version was made of, and their weights."""
    with open_registry(_state_dir(config)) as registry:
        lineage = registry.lineage(version)
    if json:
        _print_json(msgspec.to_builtins(lineage))
    else:
        _print(tables.lineage_table(lineage))


@app.command()
def rollback(version: VersionNumber, config: Config, json: Json = False) -> None:
    """Publish an older version again, as a new one.

    The updates that wait in the open buffer are set aside.
    """
    done = operating.roll_back(prepare(config), version)
    if json:
        _print_json(done)
    else:
        aside = done["updates_set_aside"]
        typer.echo(f"version {done['version']} has the parameters of version {version}; {aside} updates set aside")


@app.command()
def export(  # noqa: PLR0917 - an option each
    version: VersionNumber,
    config: Config,
    to: Annotated[Path, typer.Option("--to", help="File to write: .npz or .tflite.", show_default=False)],
    int8: Annotated[bool, typer.Option("--int8", help="Of .tflite: integers of 8 bits only.")] = False,
    calibration: Annotated[
        Path | None, typer.Option(help="For --int8: NPZ file with examples or statistics, or JSON file with ranges.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a version to a file, .npz or .tflite.

    NPZ holds the named arrays, the flat vector, and the model's spec as JSON; .tflite is for TFLite runtimes.
    """
    # Late: the other commands, and the aggregator itself, do without what writes .tflite files.
    from aggregator.adapters import exporting  # noqa: PLC0415 - see above

    settings = load(config, AggregatorSettings)
    backbone = settings.backbone.path
    # Behind a backbone those are samples, and the model takes embeddings.
    examples = Path(settings.evaluation.path) if settings.evaluation.path and not backbone else None
    wish = exporting.Wish(version=version, to=to, int8=int8, calibration=calibration)
    state_dir = Path(settings.aggregator.state_dir)
    with open_registry(state_dir) as registry:
        done = exporting.export(registry, ExportLog(state_dir), wish, examples)
    if json:
        _print_json(done)
    else:
        typer.echo(f"wrote version {version} to {to}: {tables.export_text(done)}")
        if backbone:
            typer.echo(f"this is the model alone: it takes what {backbone} makes of a sample")


@app.command()
def command(
    device: Annotated[str, typer.Argument(help="A device's id, or: all")],
    action: Annotated[Action, typer.Argument()],
    config: Config,
    json: Json = False,
) -> None:
    """Tell devices to pause, resume, evaluate or forget."""
    to = None if device == "all" else check_identifier(device, "device")
    done = ask(_state_dir(config), CommandRequest(device=to, action=action.value))
    if json:
        _print_json(done)
    else:
        typer.echo(f"sent {action.value} to {device}; its state topic tells what becomes of it")


@app.command()
def quarantine(
    device: Annotated[str, typer.Argument(help="A device's id.")],
    config: Config,
    reason: Annotated[str, typer.Option(help="Why; shown in the status.")] = "by an operator",
    json: Json = False,
) -> None:
    """Look at nothing that a device sends, until it is released.

    The device keeps its updates. A device that was never seen can be put there, too: a stolen one, say.
    """
    done = operating.quarantine(prepare(config), check_identifier(device, "device"), reason[:300] or "by an operator")
    if json:
        _print_json(done)
    else:
        typer.echo(f"{device} is in quarantine; release it with: fedmq-aggregator release {device} --config {config}")


@app.command()
def release(
    device: Annotated[str, typer.Argument(help="A device's id.")],
    config: Config,
    json: Json = False,
) -> None:
    """End a device's quarantine."""
    done = operating.quarantine(prepare(config), check_identifier(device, "device"), "")
    if json:
        _print_json(done)
    else:
        typer.echo(f"{device} is released" if done["released"] else f"{device} was not in quarantine")


@quiet_without_reader
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 0, 1 (failed), 2 (wrong arguments or configuration) or 3 (not alone)."""
    try:
        app(arguments, prog_name="fedmq-aggregator")
    except (ConfigurationError, StoreRefused, ProtocolError) as exc:
        _fail(str(exc), EXIT_CONFIGURATION)
    except StoreInUse as exc:
        _fail(str(exc), EXIT_NOT_ALONE)
    except NotRunning as exc:
        _fail(f"{exc}; start it first", EXIT_FAILED)
    except (StoreError, ControlFailed, NotKept, ExportFailed) as exc:
        _fail(str(exc), EXIT_FAILED)
    except OSError as exc:
        _fail(f"{exc.filename or ''}: {exc.strerror or exc}".lstrip(": "), EXIT_FAILED)


def _state_dir(config: Path) -> Path:
    return Path(load(config, AggregatorSettings).aggregator.state_dir)


def _print(what: RenderableType) -> None:
    Console().print(what)


def _print_json(what: Any) -> None:  # noqa: ANN401 - plain data
    typer.echo(msgspec.json.format(msgspec.json.encode(what), indent=2).decode())


def _fail(text: str, code: int) -> None:
    say_why("fedmq-aggregator", text)
    sys.exit(code)


if __name__ == "__main__":
    main()
