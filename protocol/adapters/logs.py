"""The log of both processes, on standard error: for the journal of systemd, or for people; without storms.

Nothing here is about where a line comes from: whoever logs by ``logging`` is formatted and paced (``repetition``).
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Literal, TextIO, TypeAlias, get_args

from protocol.loglines import journal_lines, plain_lines
from protocol.repetition import Repetition

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

LogFormat: TypeAlias = Literal["auto", "journal", "plain"]
FORMATS: tuple[LogFormat, ...] = get_args(LogFormat)

PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""The levels as syslog(3) counts them."""

log = logging.getLogger("fedmq")


class JournalFormatter(logging.Formatter):
    """``<4>text``: the journal takes the priority out, and knows time and unit itself."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines."""
        return journal_lines(_priority(record.levelno), record.getMessage(), _trace(self, record))


class PlainFormatter(logging.Formatter):
    """``2025-01-31T12:00:00Z warning text``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines."""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        return plain_lines(when, record.levelname.lower(), record.getMessage(), _trace(self, record))


class LogHandler(logging.StreamHandler[TextIO]):
    """Writes what ``Repetition`` lets through. ``logging`` calls it under a lock, from any thread."""

    def __init__(self, stream: TextIO, formatter: logging.Formatter, clock: Callable[[], float]) -> None:
        super().__init__(stream)
        self.setFormatter(formatter)
        self._clock = clock
        self._repetition = Repetition(calm_below=logging.WARNING, silent_below=logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or count it; and what has ended meanwhile before it."""
        now = self._clock()
        self._say_what_ended(now)
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - a record with wrong arguments: logging says which, as always
            self.handleError(record)
            return
        verdict = self._repetition.note(record.levelno, text, now, paced=getattr(record, "paced", False))
        if verdict.said:
            self._write(record, text + verdict.more)

    def close(self) -> None:
        """Say what was counted and not said yet."""
        with self.lock or threading.Lock():
            self._say_what_ended(self._clock(), all_of_them=True)
        super().close()

    def _say_what_ended(self, now: float, *, all_of_them: bool = False) -> None:
        for ended in self._repetition.ended(now, all_of_them=all_of_them):
            record = logging.LogRecord("fedmq", ended.level, "", 0, "", None, None)
            self._write(record, f"no more since: {ended.text}{ended.more}")

    def _write(self, record: logging.LogRecord, text: str) -> None:
        record.msg, record.args = text, None
        super().emit(record)


def set_up_log(level: str, form: LogFormat = "auto") -> None:
    """Send the log of the whole process to standard error, and faults that nobody catches, too."""
    handler = LogHandler(sys.stderr, _formatter(form), time.monotonic)
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # What our formats do not show need not be found out for every line (the logging HOWTO, "Optimization"): it is a
    # quarter of what a line costs.
    logging._srcfile = None  # noqa: SLF001 - the documented way
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def say_why(program: str, text: str) -> None:
    """Say on standard error why the program ends, outside of the log, which may not be set up."""
    mark = f"<{PRIORITIES[logging.ERROR]}>" if _is_journal(sys.stderr) else ""
    sys.stderr.writelines(f"{mark}{program}: {line}\n" for line in text.splitlines())


def goes_to_journal(fd: int, environment: Mapping[str, str]) -> bool:
    """Return whether the file descriptor is the stream to the journal that systemd made for this process.

    ``$JOURNAL_STREAM`` is inherited, redirections are not: so device and inode are compared (systemd.exec(5)).
    """
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM", "") == f"{found.st_dev}:{found.st_ino}"


def _formatter(form: LogFormat) -> logging.Formatter:
    journal = _is_journal(sys.stderr) if form == "auto" else form == "journal"
    return JournalFormatter() if journal else PlainFormatter()


def _is_journal(stream: TextIO) -> bool:
    try:
        return goes_to_journal(stream.fileno(), os.environ)
    except (OSError, ValueError, AttributeError):  # a test's stream, or none
        return False


def _priority(level: int) -> int:
    return next((PRIORITIES[known] for known in sorted(PRIORITIES, reverse=True) if level >= known), 7)


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""


def _uncaught(kind: type[BaseException], fault: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, fault, trace)
    else:
        log.critical("ended by a fault: %s", kind.__name__, exc_info=(kind, fault, trace))


def _uncaught_in_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_value is not None:
        name = found.thread.name if found.thread is not None else "unknown"
        log.critical(
            "a fault in thread %s: %s",
            name,
            found.exc_type.__name__,
            exc_info=(found.exc_type, found.exc_value, found.exc_traceback),
        )
