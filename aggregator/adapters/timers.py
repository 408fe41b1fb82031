"""When versions and figures are due by time: a monotonic interval, a cron line, the interval of the metrics.

Intervals are deadlines of the monotonic clock, kept here. APScheduler's interval trigger computes from the wall clock:
set back by a day it is silent for a day. Cron lines do mean the wall clock, and APScheduler's trigger reads them; its
scheduler is not used, since after a jump forward (a board that starts in 1970 and then hears NTP) it walks through
every minute that was skipped: 29 million steps for fifty years. Here the clock is looked at, at least every
``LOOK_S``, and all that lies between two looks is one event; a jump back is taken as the new time, and nothing else.
"""

from __future__ import annotations

import math

from apscheduler.triggers.cron import CronTrigger

from aggregator.events import MetricsDue, ScheduleDue
from protocol.clock import utc
from protocol.settings import ConfigurationError

LOOK_S = 10.0
"""A jump of the wall clock is noticed after this time at the latest."""

_FIELDS = 5
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class CronLine:
    """The times that a cron line names, in local time. Raises ``ConfigurationError``."""

    def __init__(self, line: str) -> None:
        fields = line.split()
        if len(fields) != _FIELDS:
            raise ConfigurationError(f"schedule.cron: {line!r} has {len(fields)} fields, five belong there")
        try:
            self._trigger = CronTrigger.from_crontab(" ".join([*fields[:4], _days(fields[4])]))
        except (ValueError, TypeError) as exc:
            raise ConfigurationError(f"schedule.cron: {line!r}: {exc}") from exc

    def after(self, wall: float) -> float:
        """Return the first time after ``wall`` (both seconds since 1970); infinity when there is none."""
        try:
            start = utc(math.floor(wall) + 1).astimezone(self._trigger.timezone)
            found = self._trigger.get_next_fire_time(None, start)
        except (ValueError, OverflowError, OSError):
            return math.inf
        return math.inf if found is None else float(found.timestamp())


class Timers:
    """All timers of the service; ``now`` is monotonic, ``wall`` is seconds since 1970."""

    def __init__(self, *, interval_s: float, cron: str, metrics_s: float, now: float, wall: float) -> None:
        self._schedule = _Interval(interval_s, now)
        self._metrics = _Interval(metrics_s, now)
        self._cron = CronLine(cron) if cron else None
        self._looked_at = wall

    def due(self, now: float, wall: float) -> list[ScheduleDue | MetricsDue]:
        """Return what has come due since the last call: each kind at most once."""
        by_cron = self._cron_due(wall)
        by_interval = self._schedule.due(now)
        events: list[ScheduleDue | MetricsDue] = [ScheduleDue()] if by_cron or by_interval else []
        return [*events, MetricsDue()] if self._metrics.due(now) else events

    def wait_s(self, now: float, wall: float) -> float:
        """Return after how many seconds to call ``due`` again at the latest."""
        waits = [self._schedule.deadline - now, self._metrics.deadline - now, LOOK_S]
        if self._cron:
            waits.append(self._cron.after(wall) - wall)
        return max(0.0, min(waits))

    def _cron_due(self, wall: float) -> bool:
        before, self._looked_at = self._looked_at, wall
        return self._cron is not None and self._cron.after(min(before, wall)) <= wall


class _Interval:
    """Every so many seconds, in step with the start; what was slept through is one."""

    def __init__(self, interval_s: float, now: float) -> None:
        self._interval_s = interval_s
        self.deadline = now + interval_s if interval_s else math.inf

    def due(self, now: float) -> bool:
        """Return whether the deadline has come, and set the next."""
        if now < self.deadline:
            return False
        missed = math.floor((now - self.deadline) / self._interval_s)
        self.deadline += (missed + 1) * self._interval_s
        return True


def _days(field: str) -> str:
    """Return crontab's days of the week by name: APScheduler counts from Monday, crontab(5) from Sunday."""
    return ",".join(_day_part(part) for part in field.lower().split(","))


def _day_part(part: str) -> str:
    days, _, step = part.partition("/")
    first, _, last = days.partition("-")
    if days == "*":
        if not step:
            return "*"
        first, last = "0", "6"
    if not first.isdecimal() or (last and not last.isdecimal()) or (step and not step.isdecimal()):
        return part  # names, or nonsense that APScheduler will name
    begin, end, stride = int(first), int(last or (6 if step else first)), int(step or 1)
    if not (0 <= begin <= end <= len(_DAYS)) or stride < 1:
        raise ValueError(f"days of the week go from 0 to 7, found {part!r}")
    return ",".join(dict.fromkeys(_DAYS[day % len(_DAYS)] for day in range(begin, end + 1, stride)))
