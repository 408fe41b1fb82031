"""A log under a virtual clock: what is said when, after the pacing of the real handler."""

from __future__ import annotations

import io
import logging
from collections import Counter
from dataclasses import dataclass, field

from protocol.adapters.logs import JournalFormatter, LogHandler


@dataclass
class Journal:
    """Set ``now``, log, and look at ``lines``: the time of each, and the line."""

    now: float = 0.0
    lines: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stream = io.StringIO()
        self.handler = LogHandler(self._stream, JournalFormatter(), lambda: self.now)
        self.log = logging.Logger("virtual")  # noqa: LOG001 - of its own, so that tests share nothing
        self.log.addHandler(self.handler)
        self.log.addHandler(_Collector(self))

    def collect(self) -> None:
        self.lines += [(self.now, line) for line in self._stream.getvalue().splitlines()]
        self._stream.seek(0)
        self._stream.truncate()

    @property
    def texts(self) -> list[str]:
        return [line for _, line in self.lines]

    def busiest_hour(self) -> int:
        """Return how many lines there were in the hour with most of them, counted from each line on."""
        times = [when for when, _ in self.lines]
        return max((sum(begin <= when < begin + 3600.0 for when in times) for begin in times), default=0)

    def kinds(self) -> Counter[str]:
        return Counter(line[:3] for line in self.texts)


class _Collector(logging.Handler):
    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, _record: logging.LogRecord) -> None:
        self._journal.collect()
