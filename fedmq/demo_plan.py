"""What the demo's fleet looks like: how fast each device is, when it comes and goes, and its configuration. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from protocol.link import is_loopback

if TYPE_CHECKING:
    from fedmq.demo_task import Task

FEDERATION = "demo"

HOLDOUT = 0.2

FASTEST_S = 0.2
"""A training of the fastest device; the slowest takes ``SLOWNESS`` times as long."""
SLOWNESS = 12.0
"""A phone of today against a microcontroller board of some years ago."""
NO_POLICY: dict[str, Any] = {
    "max_cpu_c": 0,
    "min_battery_percent": 0,
    "min_free_memory_bytes": 0,
    "min_free_disk_bytes": 0,
}
"""The demo's devices are all the same machine, and whoever started it wants to see it work, however warm it gets."""
CYCLE = 7
"""Habits repeat after so many devices."""
FROM_FAST_TO_SLOW = (0, 2, 3, 5, 1, 6, 4)
"""The slowest device is always there: it is the one whose updates are stale."""
SHARE_OF_FLEET = 0.7
"""A version is made of updates from so many of the devices, and the slowest are waited for by nobody. Tried by turns:
versions of only two or three people's updates lean towards these people, and the accuracy jumps up and down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlan:
    """One device's habits; times in seconds from the start of the fleet."""

    name: str
    training_s: float
    """How long it takes at least for one training."""
    joins_at_s: float = 0.0
    leaves_at_s: float | None = None
    """It is switched off (SIGTERM) ..."""
    returns_at_s: float | None = None
    """... and on again."""
    awake_s: float = 0.0
    """It sleeps after so many seconds; 0: never."""
    asleep_s: float = 0.0


def plan_fleet(names: list[str], seconds: float) -> list[DevicePlan]:
    """Return the habits of a fleet that runs for so many seconds.

    Speeds are spread evenly on a logarithmic scale. Of every seven devices the third and the sixth sleep, the fourth
    joins late, the seventh later, and the second is switched off for a while. A fleet of one or two does none of that.
    """
    return [_plan_device(name, place, len(names), seconds) for place, name in enumerate(names)]


def goal_of(devices: int) -> int:
    """Return how many updates make a version."""
    return max(1, int(devices * SHARE_OF_FLEET + 0.5))


def speed_of(place: int, devices: int) -> float:
    """Return how long the device at this place trains, in seconds: from ``FASTEST_S`` to ``SLOWNESS`` times that."""
    if devices == 1:
        return FASTEST_S
    rank = _by_speed(devices).index(place)
    return float(FASTEST_S * SLOWNESS ** (rank / (devices - 1)))


def agent_toml(
    plan: DevicePlan,
    task: Task,
    *,
    federation: str,
    folder: str,
    host: str,
    port: int,
    samples: int,
    secure: bool = False,
    sources: dict[str, Any] | None = None,
) -> str:
    """Return ``agent.toml`` of a device that holds so many examples; data and state are in ``folder``.

    ``secure``: without a table ``[security]``, which comes with the identity. ``sources``: tables that say where the
    device's own examples come from; without them they are in a file.
    """
    per_epoch = -(-int(samples * (1.0 - HOLDOUT)) // task.training["batch_size"])
    return _toml(
        {
            "device": {"id": plan.name, "federation": federation, "state_dir": f"{folder}/{plan.name}"},
            "broker": _broker(host, port),
            **(sources or {"data": {"path": f"{folder}/{plan.name}.npz", "holdout_fraction": HOLDOUT, "watch_s": 0.0}}),
            "training": {"step_interval_s": round(plan.training_s / (per_epoch * task.epochs), 6)},
            "outbox": {"receipt_timeout_s": 2.0, "resend_max_s": 5.0},
            "sleep": {"awake_s": plan.awake_s, "asleep_s": plan.asleep_s},
            "metrics": {"interval_s": 1.0},
            "policy": NO_POLICY,
            **({} if secure else _security(host)),
        }
    )


def aggregator_toml(
    task: Task,
    *,
    federation: str,
    folder: str,
    host: str,
    port: int,
    devices: int,
    secure: bool = False,
    features: dict[str, Any] | None = None,
) -> str:
    """Return ``aggregator.toml`` for a fleet of so many devices; ``secure`` as above.

    ``features``: what devices make of their sensors' rows, if they do not bring ready examples.
    """
    return _toml(
        {
            "aggregator": {"federation": federation, "state_dir": f"{folder}/aggregator"},
            "broker": _broker(host, port),
            "model": task.model,
            **({"features": features} if features else {}),
            "training": task.training,
            **({"personal": task.personal} if task.personal else {}),
            **({"statistics": _statistics(devices)} if task.statistics else {}),
            "participation": {"codec": "int8"},
            "schedule": {"goal": goal_of(devices)},
            "downlink": {"delta_codec": "int8"},
            "evaluation": {"path": f"{folder}/evaluation.npz"},
            "metrics": {"interval_s": 0.5},
            **({} if secure else _security(host)),
        }
    )


def _plan_device(name: str, place: int, devices: int, seconds: float) -> DevicePlan:
    habits: dict[str, float] = {}
    if devices > 2:  # noqa: PLR2004 - or nobody might be left
        match place % CYCLE:
            case 1:
                habits = {"leaves_at_s": 0.4 * seconds, "returns_at_s": 0.6 * seconds}
            case 2 | 5:
                habits = {"awake_s": 0.12 * seconds + place, "asleep_s": 0.1 * seconds}
            case 3:
                habits = {"joins_at_s": 0.15 * seconds}
            case 6:
                habits = {"joins_at_s": 0.3 * seconds}
    return DevicePlan(name=name, training_s=speed_of(place, devices), **habits)


def _by_speed(devices: int) -> list[int]:
    """Return the places from the fastest device to the slowest."""
    return sorted(range(devices), key=lambda place: (FROM_FAST_TO_SLOW.index(place % CYCLE), place))


def _statistics(devices: int) -> dict[str, Any]:
    # Those who are there from the beginning, and nobody is waited for who joins late.
    return {"before_training": True, "min_devices": max(1, devices // 2)}


def _broker(host: str, port: int) -> dict[str, Any]:
    return {"host": host, "port": port, "reconnect_min_s": 0.2, "reconnect_max_s": 2.0}


def _security(host: str) -> dict[str, dict[str, Any]]:
    # Who names another machine's broker on the command line has decided that; these data are no secret.
    return {"security": {"insecure": not is_loopback(host)}}


def _toml(tables: dict[str, dict[str, Any]]) -> str:
    lines: list[str] = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items()), ""]
    return "\n".join(lines)


def _value(value: object) -> str:
    # Strings, numbers and lists of them are written alike in JSON and TOML.
    if not isinstance(value, dict):
        return json.dumps(value)
    return "{" + ", ".join(f"{json.dumps(key)} = {_value(found)}" for key, found in value.items()) + "}"
