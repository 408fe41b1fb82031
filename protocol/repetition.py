"""What repeats is said at first, then at widening intervals with a count: a log is read by people and kept on cards.

Pure: times are seconds of a monotonic clock, texts are lines of a log.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field

STEPS_S = (10.0, 60.0, 600.0, 3600.0)
"""A fault that goes on is said again after these; the last one goes on."""
CALM_STEPS_S = (10.0, 60.0, 600.0)
"""The same for what is no fault: versions, trainings, receipts."""

QUIET_S = 1200.0
"""Nothing for so long (and for longer than the last step): it is over, and the next one is news. Twice the longest wait
between two attempts at anything, as it comes."""

DISTINCT = 5
"""So many lines that differ in numbers or details only are said at once: five devices are not one device five times."""

MAX_KINDS = 256
"""Kinds of lines that are remembered; past that the one that was longest silent is forgotten."""

BUDGET = 120
BUDGET_PER_H = 120.0
"""Lines of one level at once, and in the long run, whatever they say: strangers may choose what a line quotes."""

FAULT_LINES_PER_H = DISTINCT + len(STEPS_S)
"""The most that one kind of fault that goes on makes in its first hour; later it is one."""

_NUMBERS = re.compile(r"[-+]?[0-9a-f]*[0-9][0-9a-f]*(?:[.,][0-9][0-9a-f]*)*(?:(?<=e)[-+][0-9]+)?|\b(?:nan|inf)\b")
"""In every spelling: 12, -0.5, 1,234, 3e-07, digests, and what is no number any more."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a line."""

    said: bool
    more: str = ""
    """To be added to it: how often it came without being said."""


@dataclass(slots=True)
class Ended:
    """A line that came some more times and then no more."""

    level: int
    text: str
    more: str


@dataclass(slots=True)
class _Kind:
    """Lines that differ in numbers, and in details, only."""

    level: int
    text: str = ""
    texts: set[str] = field(default_factory=set)
    said_at: float = 0.0
    last_at: float = 0.0
    step: int = 0
    unsaid: int = 0

    def over(self, now: float, steps: tuple[float, ...]) -> bool:
        return now - self.last_at >= max(QUIET_S, steps[self.step])


class Repetition:
    """Judges the lines of one log."""

    def __init__(self, *, calm_below: int, silent_below: int) -> None:
        """Levels: from ``calm_below`` on a line is a fault; below ``silent_below`` every line is said."""
        self._calm_below = calm_below
        self._silent_below = silent_below
        self._kinds: OrderedDict[tuple[int, str], _Kind] = OrderedDict()
        self._budgets: dict[int, _Budget] = {}
        self._look_at = 0.0

    def note(self, level: int, text: str, now: float, *, paced: bool = False) -> Verdict:
        """Take in a line; ``paced``: somebody judged it already, so that only the budget counts."""
        if level < self._silent_below:
            return Verdict(said=True)
        verdict = Verdict(said=True) if paced else self._pace(level, text, now)
        if not verdict.said:
            return verdict
        budget = self._budgets.setdefault(level, _Budget(now))
        if not budget.take(now):
            return Verdict(said=False)
        left_out = f" ({budget.forgive()} other lines were left out)" if budget.refused else ""
        return Verdict(said=True, more=verdict.more + left_out)

    def ended(self, now: float, *, all_of_them: bool = False) -> list[Ended]:
        """Return what came some more times, and no more since; each once. Cheap: it looks once a minute at most."""
        if not all_of_them and now < self._look_at:
            return []
        self._look_at = now + 60.0
        found = []
        for kind in self._kinds.values():
            if kind.unsaid and (all_of_them or kind.over(now, self._steps(kind.level))):
                found.append(Ended(kind.level, kind.text, again(kind.unsaid, kind.last_at - kind.said_at)))
                kind.unsaid = 0
        return found

    def forget(self) -> None:
        """Take everything for news again."""
        self._kinds.clear()

    def _steps(self, level: int) -> tuple[float, ...]:
        return STEPS_S if level >= self._calm_below else CALM_STEPS_S

    def _pace(self, level: int, text: str, now: float) -> Verdict:
        kind = self._kind(level, text)
        steps = self._steps(level)
        if kind.texts and kind.over(now, steps):
            kind.step = 0
            kind.texts.clear()
        is_new = text not in kind.texts and len(kind.texts) < DISTINCT
        kind.last_at = now
        if not is_new and now < kind.said_at + steps[kind.step]:
            kind.unsaid += 1
            kind.text = text
            return Verdict(said=False)
        if is_new:
            kind.texts.add(text)
        else:
            kind.step = min(kind.step + 1, len(steps) - 1)
        more = again(kind.unsaid + 1, now - kind.said_at) if kind.unsaid else ""
        kind.said_at, kind.unsaid = now, 0
        return Verdict(said=True, more=more)

    def _kind(self, level: int, text: str) -> _Kind:
        # Behind a semicolon stand details: one fault, whichever of them there are to tell.
        key = level, _NUMBERS.sub("#", text.partition("; ")[0])
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind(level)
            if len(self._kinds) > MAX_KINDS:
                self._kinds.popitem(last=False)
        self._kinds.move_to_end(key)
        return kind


class _Budget:
    def __init__(self, now: float) -> None:
        self._lines = float(BUDGET)
        self._at = now
        self.refused = 0

    def take(self, now: float) -> bool:
        self._lines = min(BUDGET, self._lines + BUDGET_PER_H / 3600.0 * max(0.0, now - self._at))
        self._at = now
        if self._lines < 1.0:
            self.refused += 1
            return False
        self._lines -= 1.0
        return True

    def forgive(self) -> int:
        refused, self.refused = self.refused, 0
        return refused


def again(times: int, within_s: float) -> str:
    """Return `` (again 37 times in 10 min)``."""
    return f" (again {times} time{'s' * (times != 1)} in {span(within_s)})"


def span(seconds: float) -> str:
    """Return ``40 s``, ``10 min``, ``3 h`` or ``8 d``."""
    for unit, name, below in ((1.0, "s", 120.0), (60.0, "min", 7200.0), (3600.0, "h", 172800.0)):
        if seconds < below:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400.0:.0f} d"


class Tally:
    """How often something failed before it went well again."""

    def __init__(self) -> None:
        self._count = 0
        self._since = 0.0

    def note(self, now: float) -> None:
        """Count a failure."""
        if not self._count:
            self._since = now
        self._count += 1

    def take(self, now: float) -> str:
        """Return `` after 37 failures in 10 min``, empty when there was none; counting begins anew."""
        count, self._count = self._count, 0
        return f" after {count} failure{'s' * (count != 1)} in {span(now - self._since)}" if count else ""
