"""A board whose two agents collect their own examples: the demo's recordings, played to topics of a local broker."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

from fedmq.demo_data import CLASSES
from fedmq.demo_sensors import CHANNELS, FEATURES, worn
from fedmq.demo_signals import load_signals
from fedmq.demo_task import WATCH
from models import Pipeline
from tests.boot.board import Board
from tests.boot.federation import without_tables

DEVICES = {"press-001": "fedmq-agent.service", "press-002": "fedmq-agent@second.service"}
CONFIGURATIONS = {"press-001": "/etc/fedmq/agent.toml", "press-002": "/etc/fedmq/second/agent.toml"}
STATES = {"press-001": "/var/lib/fedmq/agent", "press-002": "/var/lib/fedmq/agent-second"}
AGGREGATOR = "fedmq-aggregator.service"
KEYSTORE = ["--keystore", "/root/keystore"]
RECORDED_S = 300.0
THERMOMETER = "/srv/board/sys/class/thermal/thermal_zone0"
COOL, HOT = "45000", "83000"

# The federation's broker has no listener without a certificate; what the sensors of a board say stays on it.
LOCAL_BROKER = """
[Service]
User=mosquitto
ExecStart=/usr/sbin/mosquitto -p 1883
[Install]
WantedBy=multi-user.target
"""

AGENT = f"""
[data]
holdout_block_s = 10.0
watch_s = 1.0
min_examples = 20
[training]
step_interval_s = 0.2
checkpoint_s = 0.3
[metrics]
interval_s = 0.5
[samples]
commit_s = 1.0
[policy]
max_cpu_c = 80
check_s = 0.2
min_free_memory_bytes = 0
min_free_disk_bytes = 0
system_root = "/srv/board"
[sources.watch]
kind = "mqtt"
topics = ["watch/DEVICE/motion"]
fields = {{{", ".join(f'{name} = "{name}"' for name in CHANNELS)}}}
time = "time"
label_topic = "watch/DEVICE/exercise"
label = "label"
labels = {{{", ".join(f'"{number}" = {number}' for number in range(CLASSES))}}}
max_rows_per_s = 1000
[predictions]
topic = "watch/DEVICE/prediction"
"""
SLEEP = "[sleep]\nawake_s = 2.0\nasleep_s = 2.0\n"

AUDIT = f"""
import pathlib, shutil
from fedmq.audit import audit
from fedmq.books import aggregator_books, all_device_books
shutil.copytree("/var/lib/fedmq", "/tmp/books")
folder = pathlib.Path("/tmp/books")
verdict = audit(all_device_books(folder / pathlib.Path(name).name for name in {list(STATES.values())}),
                aggregator_books(folder / "aggregator"))
print(verdict)
raise SystemExit(0 if verdict.holds and verdict.created else 1)
"""


def give_it_sensors(board: Board, folder: Path) -> None:
    """Turn the board of ``follow_the_operations`` into one with a second agent, and sensors for both."""
    board.run("systemctl", "stop", *DEVICES.values(), AGGREGATOR)
    # Another model is another federation, in all but its name.
    board.run("sh", "-c", "rm -rf /var/lib/fedmq/agent/* /var/lib/fedmq/aggregator/*")
    board.run("fedmq", "provision", "device", "press-002", *KEYSTORE)
    bundle = "/root/keystore/bundles/press-002.fedmq"
    where = ["--data", "/srv/samples.npz", "--owner", "fedmq-agent", "--to", "/etc/fedmq/second"]
    board.run("fedmq-agent", "enroll", bundle, *where)
    for device, path in CONFIGURATIONS.items():
        board.write(path, _agent_toml(board.run("cat", path), device))
    path = "/etc/fedmq/aggregator/aggregator.toml"
    board.write(path, _aggregator_toml(board.run("cat", path)))
    board.write(f"{THERMOMETER}/type", "cpu-thermal\n")
    set_temperature(board, COOL)
    board.write("/etc/systemd/system/sensors-broker.service", LOCAL_BROKER)
    _bring_recordings(board, folder)
    board.run("systemctl", "daemon-reload")
    board.run("systemctl", "enable", "--now", "sensors-broker", "fedmq-agent@second")
    board.run("systemctl", "start", AGGREGATOR, *DEVICES.values())


def set_temperature(board: Board, thousandths: str) -> None:
    """Have the board's thermometer say so from now on."""
    board.write(f"{THERMOMETER}/temp", f"{thousandths}\n")


def play(board: Board, speed: float) -> None:
    """Have both watches measure, each as a unit ``watch-DEVICE`` of its own."""
    for device in DEVICES:
        topics = ["--topic", f"watch/{device}/motion", "--label-topic", f"watch/{device}/exercise"]
        columns = ["--time-column", "time", "--label", "exercise", "--speed", str(speed)]
        command = ["fedmq", "replay", f"/srv/watches/{device}.csv", *topics, *columns]
        board.run("systemd-run", "--quiet", "--collect", f"--unit=watch-{device}", *command)


def stop_playing(board: Board) -> None:
    board.start("systemctl", "stop", *(f"watch-{device}" for device in DEVICES))


def status(board: Board, device: str) -> dict[str, Any]:
    """Return what ``fedmq-agent status`` says, as an operator has it; empty until there is something to say."""
    told = board.start("fedmq-agent", "status", "--json", "--config", CONFIGURATIONS[device])
    found: dict[str, Any] = json.loads(told.stdout) if told.returncode == 0 else {}
    return found


def rows(board: Board, device: str) -> int:
    """Return how many rows the device's sample store has on its disk."""
    script = (
        "import sqlite3, sys; print(sqlite3.connect(f'file:{sys.argv[1]}/samples.sqlite?mode=ro', uri=True)"
        ".execute('SELECT count(*) FROM samples').fetchone()[0])"
    )
    told = board.start("python3", "-c", script, STATES[device])
    return int(told.stdout) if told.returncode == 0 else 0


def predictions(board: Board, device: str, count: int = 3) -> list[dict[str, Any]]:
    """Wait for so many predictions on the device's local topic."""
    told = board.run("mosquitto_sub", "-t", f"watch/{device}/prediction", "-C", str(count), "-W", "60")
    return [json.loads(line) for line in told.splitlines()]


def audited(board: Board) -> str:
    """Compare the books of both ends, all of which have ended; return the verdict."""
    return board.run("/opt/fedmq/venv/bin/python", "-c", AUDIT)


def _agent_toml(enrolled: str, device: str) -> str:
    """Return what ``enroll`` wrote with sources in place of a file of samples, and all that this test wants."""
    tables = AGENT.replace("DEVICE", device) + (SLEEP if device == "press-002" else "")
    return without_tables(enrolled, {"data", "metrics", "policy", "samples", "sleep", "training"}) + tables


def _aggregator_toml(provisioned: str) -> str:
    model = WATCH.model | {"inputs": Pipeline.from_data(FEATURES).inputs}
    tables = {
        "model": model,
        "features": FEATURES,
        "training": WATCH.training | {"batch_size": 4},
        "schedule": {"goal": len(DEVICES)},
    }
    kept = without_tables(provisioned, {*tables, "participation"})
    return kept + "".join(f"\n[{name}]\n{_lines(table)}" for name, table in tables.items())


def _lines(table: dict[str, Any]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in table.items())


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)


def _bring_recordings(board: Board, folder: Path) -> None:
    folder.mkdir()
    watches = worn(load_signals(), [1, 2], 60.0, "watch")
    for device, measured in zip(DEVICES, watches.rows.values(), strict=True):
        path = folder / f"{device}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["time", *CHANNELS, "exercise"])
            writer.writerows(
                [f"{row.at_s:.4f}", *row.values.values(), row.label] for row in measured if row.at_s < RECORDED_S
            )
        board.write(f"/srv/watches/{device}.csv", path.read_text())
    shutil.rmtree(folder)
