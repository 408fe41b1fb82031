"""The operator's command ``fedmq``. What a command needs is imported when it runs: help and mistakes are quick."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import tempfile
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

from msgspec import structs

try:
    import typer
    from rich.console import Console
except ModuleNotFoundError as missing:
    hint = "pip install 'fedmq[demo]'"
    raise SystemExit(f"fedmq: {missing.name} is not installed, as on a device; {hint}") from missing

from fedmq.arguments import broker_address, check_demo, embedded_or_address, federation_name, folder_for_examples
from fedmq.interrupts import Interrupts
from fedmq.provision.cli import provision_app
from protocol.adapters.output import quiet_without_reader
from protocol.link import BrokerSettings, is_loopback
from protocol.settings import ConfigurationError

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
"""As shells report a program that Ctrl-C ended."""
MAX_DEVICES = 70
"""Of the demo; ``fedmq.demo_data`` says why."""
DEVICES_HELP = "Devices, each a process: 7, or 10 with digits."
LOOK_S = 2.0
LOOK_AGAIN_S = 0.2
DEFAULT_BROKER = "127.0.0.1:1883"
TLS_PORT = 8883
BROKER_HELP = "auto, mosquitto, iotcore, or HOST:PORT of a running one."

app = typer.Typer(
    help="Federated learning for IoT fleets over MQTT: the operator's commands.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(provision_app, name="provision", short_help="Identities and keys: who may take part.")


class TaskName(StrEnum):
    """What the demo's fleet can learn; ``fedmq.demo_task`` has the tasks."""

    watch = "watch"
    digits = "digits"
    anomaly = "anomaly"


@app.command(short_help="Watch a fleet of real processes learn, on this machine.")
def demo(  # noqa: PLR0917 - typer calls it, by name
    task: Annotated[TaskName, typer.Option(help="Exercises on watches, digits, or what is unusual.")] = TaskName.watch,
    devices: Annotated[int | None, typer.Option(metavar="N", min=1, max=MAX_DEVICES, help=DEVICES_HELP)] = None,
    seconds: Annotated[float, typer.Option(metavar="S", min=1, max=86400, help="So long they learn.")] = 45.0,
    broker: Annotated[str, typer.Option(metavar="BROKER", help=BROKER_HELP)] = "auto",
    keep: Annotated[Path | None, typer.Option(metavar="DIR", help="Leave state, logs and settings here.")] = None,
    secure: Annotated[bool, typer.Option("--secure", help="With certificates, signed models, sealed updates.")] = False,
    sensors: Annotated[bool, typer.Option("--sensors", help="Devices collect their examples from topics.")] = False,
    chaos: Annotated[bool, typer.Option("--chaos", help="Kill processes all the time; prove nothing is lost.")] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the chaos: the same one strikes the same way.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, progress on stderr.")] = False,
) -> None:
    """Watch a fleet of real processes learn over a real broker, on this machine, in a minute."""
    wanted = embedded_or_address(broker)
    try:
        from fedmq.demo import FAILURES, Demo, Options  # noqa: PLC0415 - see above
        from fedmq.demo_task import TASKS  # noqa: PLC0415 - see above
    except ImportError as exc:
        _fail(f"the demo needs more than an operator's installation ({exc}): pip install 'fedmq[demo]'")
    from fedmq.display import display_for  # noqa: PLC0415 - see above
    from fedmq.outcome import as_values  # noqa: PLC0415 - see above
    from fedmq.panel import as_panel, where_next  # noqa: PLC0415 - see above

    chosen = TASKS[task]
    check_demo(chosen.name, devices, chosen.max_devices, sensors=sensors, secure=secure)
    options = Options(
        task=chosen,
        devices=devices or chosen.devices,
        seconds=seconds,
        broker=wanted,
        keep=keep,
        chaos=chaos,
        seed=seed,
        secure=secure,
        sensors=sensors,
    )
    console = Console(stderr=as_json)
    with Interrupts() as interrupts:
        try:
            outcome = Demo(options, display_for(console), interrupts.wanted).run()
        except FAILURES as exc:
            _fail(str(exc))
        except KeyboardInterrupt:
            _fail("ended at once", EXIT_INTERRUPTED)
    if as_json:
        print(json.dumps(as_values(outcome)))  # noqa: T201 - a command line talks
    else:
        console.print(as_panel(outcome))
        console.print(where_next(_program(), str(keep) if keep else None), highlight=False, soft_wrap=True)
    if not outcome.good:
        raise typer.Exit(EXIT_FAILED)
    if outcome.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)


@app.command(short_help="Watch any running federation by its topics.")
def monitor(  # noqa: PLR0917 - typer calls it, by name
    broker: Annotated[str, typer.Option(metavar="HOST:PORT", help="The broker: 127.0.0.1:1883, or the bundle's.")] = "",
    federation: Annotated[str, typer.Option(metavar="NAME", help="Whose topics to watch.")] = "demo",
    bundle: Annotated[Path | None, typer.Option(metavar="FILE", help="Who I am, from fedmq provision monitor.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Listen for a moment, print one table, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Listen for a moment, print one JSON object.")] = False,
    listen: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="How long that moment is.")] = LOOK_S,
    username: Annotated[str, typer.Option(metavar="NAME", help="Where the broker wants one.")] = "",
    password_file: Annotated[str, typer.Option(metavar="FILE", help="Its first line is the password.")] = "",
    insecure: Annotated[bool, typer.Option("--insecure", help="In the clear, also over a network.")] = False,
) -> None:
    """Watch any running federation: a live table of its fleet, from its topics alone."""
    name = federation_name(federation)
    if bundle is None:
        plain = broker_address(broker or DEFAULT_BROKER)
        if not insecure and not is_loopback(plain.host):
            _fail(
                f"{plain.host} is not this machine, and without --bundle all goes in the clear: fedmq provision "
                "monitor NAME makes a bundle; or, where the whole network may be trusted, --insecure"
            )
        address = structs.replace(plain, username=username, password_file=password_file)
        _watch(address, name, once=once, as_json=as_json, listen=listen)
        return
    from fedmq.bundled import BundleError, opened  # noqa: PLC0415 - see above

    elsewhere = broker_address(broker, default_port=TLS_PORT) if broker else None
    try:
        with opened(bundle, elsewhere) as (address, name):
            _watch(address, name, once=once, as_json=as_json, listen=listen)
    except BundleError as exc:
        _fail(str(exc))


def _watch(address: BrokerSettings, name: str, *, once: bool, as_json: bool, listen: float) -> None:
    from fedmq.monitor import NothingHeardError, look, print_once, snapshot, watch  # noqa: PLC0415 - see above

    console = Console()
    try:
        if not (once or as_json):
            with Interrupts() as interrupts:
                watch(address, name, console, interrupts.wanted)
            return
        view, now = look(address, name, listen)
    except (NothingHeardError, ConfigurationError) as exc:
        _fail(str(exc))
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if as_json:
        print(json.dumps(snapshot(view, now)))  # noqa: T201 - a command line talks
    else:
        print_once(view, now, address, console)


@app.command(short_help="Write commented example configurations.")
def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to; made when missing.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    """Write commented example configurations, for a try on this machine: aggregator.toml and agent.toml."""
    from fedmq.examples import write_examples  # noqa: PLC0415 - see above

    try:
        paths = write_examples(folder_for_examples(folder), overwrite=force)
    except FileExistsError as exc:
        _fail(f"{exc} exists already; --force overwrites")
    except OSError as exc:
        _fail(f"cannot write to {folder}: {exc.strerror or exc}")
    aggregator, agent = paths
    print(f"wrote {aggregator} and {agent}, for a try on this machine; adapt them, and then:")  # noqa: T201 - as below
    print(f"  fedmq-aggregator run --config {aggregator}")  # noqa: T201 - a command line talks
    print(f"  fedmq-agent run --config {agent}")  # noqa: T201 - a command line talks
    print("  fedmq monitor")  # noqa: T201 - a command line talks
    print("for devices on other machines, with certificates and keys for all (docs/security.md):")  # noqa: T201 - as above
    print("  fedmq provision init NAME --broker HOST")  # noqa: T201 - a command line talks


@app.command(short_help="Run a broker for a try on this machine.")
def broker(
    port: Annotated[int, typer.Option(metavar="PORT", min=1, max=65535, help="On the loopback interface.")] = 1883,
) -> None:
    """Run a broker for a try on this machine, until Ctrl-C: Mosquitto, or what pip installed where there is none."""
    from fedmq import embedded_broker  # noqa: PLC0415 - see above

    with Interrupts() as interrupts, tempfile.TemporaryDirectory(prefix="fedmq-broker-") as folder:
        try:
            with embedded_broker.start("auto", Path(folder), port) as running:
                where = f"{running.host}:{port}, for this machine alone"
                print(f"{running.kind} listens at {where}; Ctrl-C ends it", flush=True)  # noqa: T201 - as everywhere
                while running.running and not interrupts.wanted():
                    time.sleep(LOOK_AGAIN_S)
                if not interrupts.wanted():
                    _fail("the broker has ended by itself")
        except embedded_broker.BrokerError as exc:
            _fail(str(exc))


@app.command(name="replay", short_help="Play a recording to MQTT topics, as a sensor would.")
def play(  # noqa: PLR0917 - typer calls it, by name
    recording: Annotated[Path, typer.Argument(metavar="FILE.csv", help="A header line, then one row a measurement.")],
    topic: Annotated[str, typer.Option(metavar="TOPIC", help="Gets each row as a JSON object.")],
    hz: Annotated[float, typer.Option(metavar="HZ", min=0.001, max=10_000, help="Rows a second.")] = 1.0,
    time_column: Annotated[str, typer.Option(metavar="COLUMN", help="Seconds; then --hz does not matter.")] = "",
    label: Annotated[str, typer.Option(metavar="COLUMN", help="What was going on, for --label-topic.")] = "",
    label_topic: Annotated[str, typer.Option(metavar="TOPIC", help="Gets the label when it changes.")] = "",
    speed: Annotated[float, typer.Option(metavar="FACTOR", min=0.01, max=1000, help="Faster than recorded.")] = 1.0,
    loop: Annotated[bool, typer.Option("--loop", help="Over and over, until Ctrl-C.")] = False,
    broker: Annotated[str, typer.Option(metavar="HOST:PORT", help="In the clear.")] = DEFAULT_BROKER,
) -> None:
    """Play a recording to MQTT topics, as a sensor would: for a try of an agent's sources without a sensor."""
    if bool(label) != bool(label_topic):
        raise typer.BadParameter("they go together: which column, and to which topic", param_hint="--label")
    if loop and speed > 1.0:
        raise typer.BadParameter("faster than it was recorded, it would run into the future", param_hint="--loop")
    from fedmq.recording import Playing, RecordingError, read  # noqa: PLC0415 - see above
    from fedmq.replay import ReplayError, replay  # noqa: PLC0415 - see above

    how = Playing(topic=topic, label_topic=label_topic, speed=speed)
    with Interrupts() as interrupts:
        try:
            rows = read(recording, hz=hz, time_column=time_column, label_column=label)
            told = replay(rows, how, broker_address(broker), interrupts.wanted, loop=loop)
        except (RecordingError, ReplayError) as exc:
            _fail(str(exc))
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None
    lost = f", {told.lost} lost while there was no connection" if told.lost else ""
    print(f"played {told.messages} messages{lost}")  # noqa: T201 - a command line talks


def _program() -> str:
    """Return how this command is called from here: a newcomer's environment is not on the PATH."""
    if shutil.which("fedmq"):
        return "fedmq"
    path = Path(sys.executable).parent / "fedmq"
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _fail(message: str, code: int = EXIT_FAILED) -> NoReturn:
    print(f"fedmq: {message}", file=sys.stderr)  # noqa: T201 - a command line talks
    raise typer.Exit(code)


@quiet_without_reader
def main() -> None:
    """Run the command line."""
    # The link logs what it meets; a table in the same terminal shows it as a note, and lines across it help nobody.
    logging.getLogger().addHandler(logging.NullHandler())
    app(prog_name="fedmq")


if __name__ == "__main__":
    main()
