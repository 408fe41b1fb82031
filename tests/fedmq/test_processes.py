from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fedmq.processes import Child, ChildDiedError, stop_all
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

WAITS = "import signal, time; print('ready', flush=True); time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Path]:
    """A pipe as a log: a test can wait for the child's first words without asking again and again."""
    path = tmp_path / "log"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    yield path
    os.close(reader)


def python(code: str, log: Path, name: str = "child") -> Child:
    return Child(name, [sys.executable, "-c", code], log)


def started(child: Child) -> Child:
    """Start the child and wait until it has said something."""
    child.start()
    with child.log.open("rb") as log:
        assert log.readline()
    return child


def test_a_killed_child_can_be_started_again(fifo: Path) -> None:
    child = started(python(WAITS, fifo))
    first = child.pid

    child.kill()
    assert not child.running
    started(child)

    assert child.starts == 2
    assert child.pid not in {None, first}
    child.kill()


def test_all_are_stopped_and_the_deaf_are_named(fifo: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    os.mkfifo(other)
    polite, deaf = python(WAITS, fifo, "polite"), python(DEAF, other, "deaf")
    keep = os.open(other, os.O_RDONLY | os.O_NONBLOCK)
    started(polite)
    started(deaf)

    assert stop_all([polite, deaf], grace_s=0.5) == ["deaf"]

    assert not polite.running
    assert not deaf.running
    os.close(keep)


def test_a_child_that_ends_by_itself_is_quoted(tmp_path: Path) -> None:
    child = python("raise SystemExit('no such broker')", tmp_path / "log")
    child.start()
    assert child.wait(PATIENCE_S)

    with pytest.raises(ChildDiedError, match="no such broker"):
        child.check()


def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """The child's inherited end of a pipe closes when it dies: the reader then sees the end of the file."""
    reader, writer = os.pipe()
    parent_code = f"""
import sys
from pathlib import Path
from fedmq.processes import Child
import subprocess, os, time
real = subprocess.Popen
subprocess.Popen = lambda *a, **k: real(*a, **{{**k, "pass_fds": ({writer},)}})
child = Child("child", [sys.executable, "-c", "import time; time.sleep(600)"], Path({str(tmp_path / "log")!r}))
child.start()
os.close({writer})
print("started", flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", parent_code],
        stdout=subprocess.PIPE,
        pass_fds=(writer,),
        cwd=Path(__file__).parents[2],
    )
    os.close(writer)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"started\n"

    parent.send_signal(signal.SIGKILL)
    parent.wait(PATIENCE_S)

    assert os.read(reader, 1) == b""
    os.close(reader)
    parent.stdout.close()
