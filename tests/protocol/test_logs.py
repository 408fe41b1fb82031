"""The log as it comes out of real processes, and its lines."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from protocol.adapters.logs import JournalFormatter, LogHandler, PlainFormatter, goes_to_journal
from protocol.loglines import MAX_LINE, MAX_TRACEBACK, journal_lines, with_fields
from tests.support.journal import Journal

if TYPE_CHECKING:
    from pathlib import Path

FAULTS = """
import logging, sys, threading
from protocol.adapters.logs import set_up_log
set_up_log("info", sys.argv[1])
log = logging.getLogger("x")
log.info("began device=press-07")
log.debug("never")
try:
    raise ValueError("two\\nlines")
except ValueError:
    log.exception("a fault with \\x1b[31m and\\nlevel=forged")
thread = threading.Thread(target=lambda: 1 / 0, name="busy")
thread.start()
thread.join()
for _ in range(3):
    log.warning("the broker is away")
raise RuntimeError("nobody catches this")
"""


def run(form: str, path: Path, *, journal: bool) -> list[str]:
    """Let a process log into a file, which it takes for the journal's stream when that is what systemd says."""
    with path.open("wb") as file:
        found = os.fstat(file.fileno())
        environment = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}" if journal else "8:1234"}
        done = subprocess.run([sys.executable, "-c", FAULTS, form], stderr=file, env=environment, check=False)
    assert done.returncode == 1
    return path.read_text().splitlines()


@pytest.mark.parametrize(("form", "journal"), [("auto", True), ("journal", False)])
def test_for_the_journal_each_line_has_its_priority(tmp_path: Path, form: str, journal: bool) -> None:
    lines = run(form, tmp_path / "log", journal=journal)
    assert lines[0] == "<6>began device=press-07"
    assert lines[1] == r"<3>a fault with \u001b[31m and\u000alevel=forged"
    assert lines[2] == "<3>  Traceback (most recent call last):"
    assert all(re.match(r"<[2346]>", line) for line in lines)
    heads = [line for line in lines if not line[3:].startswith("  ")]
    assert heads[2:] == [
        "<2>a fault in thread busy: ZeroDivisionError",
        "<4>the broker is away",
        "<2>ended by a fault: RuntimeError",
        "<4>no more since: the broker is away (again 2 times in 0 s)",
    ]
    assert "<2>  RuntimeError: nobody catches this" in lines


@pytest.mark.parametrize(("form", "journal"), [("auto", False), ("plain", True)])
def test_for_people_each_line_has_time_and_level(tmp_path: Path, form: str, journal: bool) -> None:
    lines = run(form, tmp_path / "log", journal=journal)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ info    began device=press-07", lines[0])
    assert re.match(r"\S+ error   a fault with ", lines[1])
    assert lines[2] == "  Traceback (most recent call last):"


def test_the_journals_stream_is_told_from_others() -> None:
    reader, writer = os.pipe()
    found = os.fstat(writer)
    named = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
    assert goes_to_journal(writer, named)
    assert not goes_to_journal(writer, {})
    assert not goes_to_journal(writer, {"JOURNAL_STREAM": "nonsense"})
    os.close(reader)
    os.close(writer)
    assert not goes_to_journal(writer, named)


def test_fields_can_be_split_again() -> None:
    fields = {"version": 3, "loss": 0.123456789, "reason": 'no "space" left=0', "empty": "", "evil": "a\nb"}
    assert with_fields("told", fields) == (
        "told version=3 loss=0.123457 reason='no \"space\" left=0' empty='' evil='a\\nb'"
    )


def test_lines_and_tracebacks_have_an_end() -> None:
    lines = journal_lines(3, "x" * 10_000, "\n".join(str(number) for number in range(1000))).split("\n")
    assert len(lines) == MAX_TRACEBACK + 2
    assert len(lines[0]) == MAX_LINE + 3
    assert lines[-1] == "<3>  999"


@pytest.mark.parametrize("formatter", [JournalFormatter(), PlainFormatter()])
def test_a_record_with_wrong_arguments_ends_nothing(
    formatter: logging.Formatter, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.StringIO()
    handler = LogHandler(stream, formatter, lambda: 0.0)
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "%d", ("no number",), None))
    assert "Logging error" in capsys.readouterr().err
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "goes on", (), None))
    assert "goes on" in stream.getvalue()


def test_what_was_counted_is_said_in_front_of_the_next_line() -> None:
    journal = Journal()
    for second in range(5):
        journal.now = float(second)
        journal.log.warning("a wrong sensor")
    journal.now = 2000.0
    journal.log.info("evaluated")
    assert journal.texts == [
        "<4>a wrong sensor",
        "<4>no more since: a wrong sensor (again 4 times in 4 s)",
        "<6>evaluated",
    ]
