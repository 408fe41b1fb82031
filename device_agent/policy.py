"""When a board can spare a training: rules over what its sensors read. Pure; ``warden`` asks them in time.

A rule that is switched off (0, empty) says nothing, and so does one whose sensor the board does not have. A rule that
has begun to say no goes on saying it until the reading is better than its limit by a margin: a board that is just at
its limit must not stop and start all the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, TypeAlias

from device_agent.hours import left_within, time_of_day, until_next

if TYPE_CHECKING:
    from device_agent.settings import PolicySettings

CPU_MARGIN_C = 5.0
BATTERY_MARGIN_PERCENT = 5.0
LOAD_MARGIN = 0.2
FREE_MARGIN = 0.25
"""Shares of the limit."""

RUNNING_SHARE = 0.5
"""A training that runs has taken its memory: it is stopped only when less than this share of the limit is free."""

LONGEST_LOOK_S = 900.0
"""However far away the end of the quiet hours is: clocks are set, and batteries run down, meanwhile."""

RuleName: TypeAlias = Literal[
    "mains", "battery", "cpu", "load", "memory", "disk", "metered", "clock", "quiet_hours", "allowed_hours", "new_data"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What the board's sensors say; None where there is no such sensor, or it says nothing that makes sense."""

    mains: bool | None = None
    """Whether the board is supplied from outside, and its battery, if any, does not run down."""
    battery_percent: float | None = None
    cpu_c: float | None = None
    """The hottest of the CPU's sensors, in degrees Celsius."""
    load_per_core: float | None = None
    """Load average of the last minute, divided by the number of cores."""
    cores: int = 1
    free_memory_bytes: int | None = None
    """What can be had without swapping."""
    free_disk_bytes: int | None = None
    """Where the state is kept, for who is not root."""
    interface: str | None = None
    """The network interface of the default route."""
    clock_s: int | None = None
    """Seconds since local midnight; None while the clock is not set."""
    examples: int | None = None
    """Rows in the file of samples; None also when no rule asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the rules said."""

    holds: Mapping[RuleName, str] = field(default_factory=dict)
    """The rules that say no to training, each with its reason for a person to read."""
    may_send: bool = True
    """Whether updates may be sent."""
    look_after_s: float = 0.0
    """Before this many seconds have passed nothing can be better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What the rules are asked about."""

    readings: Readings
    before: Mapping[RuleName, str] = field(default_factory=dict)
    """What said no the last time."""
    running: bool = False
    """Whether this is about a training under way."""
    own_load: bool = False
    """Whether our own training is part of the load average."""
    seen: int | None = None
    """Rows that the file of samples had at the last training, if they were counted."""


def judge(settings: PolicySettings, case: Case) -> Verdict:
    """Return what all rules say to this case."""
    holds = {name: text for name, rule in RULES.items() if (text := rule(settings, case))}
    line = _metered_line(settings, case.readings)
    return Verdict(
        holds=holds,
        may_send=settings.send_on_metered or not line,
        look_after_s=_until_hours(settings, case.readings, holds),
    )


def active(settings: PolicySettings) -> bool:
    """Return whether there is any rule that could ever say no."""
    limits = (
        settings.mains_only, settings.min_battery_percent, settings.max_cpu_c, settings.max_load,
        settings.min_free_memory_bytes, settings.min_free_disk_bytes, settings.allowed_hours, settings.quiet_hours,
        settings.min_new_examples,
    )  # fmt: skip
    return any(limits) or gates_sending(settings) or bool(settings.metered_interfaces and not settings.train_on_metered)


def gates_sending(settings: PolicySettings) -> bool:
    """Return whether updates might have to wait for another line."""
    return bool(settings.metered_interfaces) and not settings.send_on_metered


def metered_reason(settings: PolicySettings, readings: Readings) -> str:
    """Return why updates wait."""
    return f"updates wait: on the metered line {_metered_line(settings, readings)}"


def _mains(settings: PolicySettings, case: Case) -> str:
    return "runs on battery, goes on with mains" if settings.mains_only and case.readings.mains is False else ""


def _battery(settings: PolicySettings, case: Case) -> str:
    limit, found = settings.min_battery_percent, case.readings.battery_percent
    if not limit or found is None or case.readings.mains:
        return ""
    better = min(limit + BATTERY_MARGIN_PERCENT, 100.0)
    if found >= (better if "battery" in case.before else limit):
        return ""
    return f"battery at {found:.3g} %, goes on at {better:.3g} % or with mains"


def _cpu(settings: PolicySettings, case: Case) -> str:
    limit, found = settings.max_cpu_c, case.readings.cpu_c
    if not limit or found is None:
        return ""
    better = limit - CPU_MARGIN_C
    if found < (better if "cpu" in case.before else limit):
        return ""
    return f"CPU at {found:.4g} C, goes on below {better:.4g} C"


def _load(settings: PolicySettings, case: Case) -> str:
    limit, found = settings.max_load, case.readings.load_per_core
    if not limit or found is None:
        return ""
    others = max(0.0, found - (1.0 / case.readings.cores if case.own_load else 0.0))
    better = limit * (1.0 - LOAD_MARGIN)
    if others < (better if "load" in case.before else limit):
        return ""
    return f"load of {others:.3g} a core, goes on below {better:.3g}"


def _memory(settings: PolicySettings, case: Case) -> str:
    wanted, found = settings.min_free_memory_bytes, case.readings.free_memory_bytes
    if case.running and found is not None and found >= wanted * RUNNING_SHARE:
        return ""
    return _too_little("memory", wanted, found, held="memory" in case.before)


def _disk(settings: PolicySettings, case: Case) -> str:
    return _too_little("disk", settings.min_free_disk_bytes, case.readings.free_disk_bytes, held="disk" in case.before)


def _too_little(what: str, limit: int, found: int | None, *, held: bool) -> str:
    if not limit or found is None:
        return ""
    better = limit * (1.0 + FREE_MARGIN)
    if found >= (better if held else limit):
        return ""
    return f"{_megabytes(found)} of {what} free, goes on at {_megabytes(better)}"


def _megabytes(size: float) -> str:
    # Of three digits alone 2.5 GB would become 2.5e+03 MB.
    return f"{size / 1e6:.0f} MB" if size >= 1e8 else f"{size / 1e6:.3g} MB"  # noqa: PLR2004 - three digits


def _metered(settings: PolicySettings, case: Case) -> str:
    line = _metered_line(settings, case.readings)
    return f"on the metered line {line}" if line and not settings.train_on_metered else ""


def _clock(settings: PolicySettings, case: Case) -> str:
    # Who wrote hours down meant them: better to wait, and to say so, than to guess what time it is.
    wanted = settings.allowed_hours or settings.quiet_hours
    return "there are hours to keep, and the clock is not set" if wanted and case.readings.clock_s is None else ""


def _quiet_hours(settings: PolicySettings, case: Case) -> str:
    clock_s = case.readings.clock_s
    if clock_s is None:
        return ""
    left = left_within(settings.quiet_hours, clock_s)
    return "" if left is None else f"quiet hours until {time_of_day(clock_s + left)}"


def _allowed_hours(settings: PolicySettings, case: Case) -> str:
    clock_s, allowed = case.readings.clock_s, settings.allowed_hours
    if clock_s is None or not allowed or left_within(allowed, clock_s) is not None:
        return ""
    return f"outside the allowed hours, goes on at {time_of_day(clock_s + until_next(allowed, clock_s))}"


def _new_data(settings: PolicySettings, case: Case) -> str:
    wanted, found = settings.min_new_examples, case.readings.examples
    if not wanted or found is None or case.seen is None or case.running:
        return ""
    # A file that has become shorter is another one: all of it is new.
    new = found - case.seen if found >= case.seen else found
    return f"{new} of {wanted} new examples" if new < wanted else ""


RULES: dict[RuleName, Callable[[PolicySettings, Case], str]] = {
    "mains": _mains,
    "battery": _battery,
    "cpu": _cpu,
    "load": _load,
    "memory": _memory,
    "disk": _disk,
    "metered": _metered,
    "clock": _clock,
    "quiet_hours": _quiet_hours,
    "allowed_hours": _allowed_hours,
    "new_data": _new_data,
}


def _metered_line(settings: PolicySettings, readings: Readings) -> str:
    name = readings.interface or ""
    return name if any(name and fnmatchcase(name, pattern) for pattern in settings.metered_interfaces) else ""


def _until_hours(settings: PolicySettings, readings: Readings, holds: Mapping[RuleName, str]) -> float:
    clock_s, waits = readings.clock_s, [0.0]
    if clock_s is not None and "quiet_hours" in holds:
        waits.append(float(left_within(settings.quiet_hours, clock_s) or 0))
    if clock_s is not None and "allowed_hours" in holds:
        waits.append(float(until_next(settings.allowed_hours, clock_s)))
    return min(max(waits), LONGEST_LOOK_S)
