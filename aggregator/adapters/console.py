"""The log, on standard error: a line of ``key=value`` each, and no flood of lines that say the same."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections import OrderedDict

from protocol.printable import printable

BURST = 5
WINDOW_S = 10.0
"""So many lines that differ only in numbers are written in so many seconds; the rest are counted."""
MAX_KINDS = 256


class LineFormatter(logging.Formatter):
    """``time=2025-01-31T12:00:00Z level=info msg="..."``, with the traceback, if any, on the lines below."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        message = printable(json.dumps(record.getMessage(), ensure_ascii=False))
        line = f"time={when} level={record.levelname.lower()} msg={message}"
        more = getattr(record, "suppressed", 0)
        if more:
            line += f" suppressed={more}"
        if not record.exc_info:
            return line
        return "\n".join([line, *map(printable, self.formatException(record.exc_info).split("\n"))])


class RepetitionFilter(logging.Filter):
    """Lets a burst of similar lines through, then one each window, which tells how many were left out."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is to be written."""
        kind = f"{record.levelno} {re.sub('[0-9a-f]*[0-9][0-9a-f]*', '#', record.getMessage())}"
        begin, count = self._kinds.get(kind, (record.created, 0))
        # abs: after a jump of the clock a new window begins, whichever way it went.
        if abs(record.created - begin) >= WINDOW_S:
            record.suppressed = max(0, count - BURST)
            begin, count = record.created, 0
        self._kinds[kind] = (begin, count + 1)
        self._kinds.move_to_end(kind)
        if len(self._kinds) > MAX_KINDS:
            self._kinds.popitem(last=False)
        return count < BURST


def set_up_log(level: str = "info") -> None:
    """Send the log of the whole process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    handler.addFilter(RepetitionFilter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
