"""A ``.tflite`` file of others is first run in a process of its own: what kills that has not killed us."""

from __future__ import annotations

import contextlib
import math
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from models.errors import TfliteError
from models.tflite.adapters.files import mapped
from models.tflite.checking import examine
from models.tflite.runtime import Runtime, RuntimeUnavailable, load_runtime
from models.workspace import StepLeftError

TRIAL_S = 300.0
"""Loading a runtime takes a second on a slow board, and so may one prediction; a step of a training takes many."""

MAX_BYTES = 2**30
"""Address space that the trial may take beyond the file."""

ASK_EVERY_S = 0.1
"""So often a trial is asked whether it is wanted still."""


def try_out(path: Path, timeout_s: float = TRIAL_S, stopped: Callable[[], bool] = lambda: False) -> None:
    """Load the file and predict for zeros, elsewhere; raise ``TfliteError`` when that fails, hangs or dies.

    Costs a process that loads a runtime, so remember the answer by the file's digest. A file that passes can still
    fail with other inputs; it has shown that it is no damaged or hostile one. Raise ``OSError`` when it cannot be read.
    ``stopped`` is asked along the way: ``StepLeftError``.
    """
    with mapped(path) as data:
        examine(data)
    elsewhere(__name__, path, (), timeout_s, stopped)


def elsewhere(module: str, path: Path, arguments: Sequence[str], timeout_s: float, stopped: Callable[[], bool]) -> None:
    """Run the module on the file in a process of its own; raise ``TfliteError`` with what it says when it fails."""
    # Twice the time: only for a trial that nobody waits for any more, its agent having been killed.
    command = [sys.executable, "-m", module, str(path.resolve()), str(math.ceil(2 * timeout_s)), *arguments]
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
        ) as trial:
            try:
                code = _ended(trial, time.monotonic() + timeout_s, stopped)
            finally:
                trial.kill()
        said.seek(0)
        lines = said.read(2**16).decode(errors="replace").strip().splitlines()
    if code is None:
        raise TfliteError(f"{path} was tried in a process of its own and did not end in {timeout_s:g} s")
    if code < 0:
        name = signal.Signals(-code).name
        raise TfliteError(f"{path} was tried in a process of its own, which died of {name}: it is damaged")
    if code:
        raise TfliteError(f"{path} was tried in a process of its own: {lines[-1][:300] if lines else 'it failed'}")


def _ended(trial: subprocess.Popen[bytes], deadline: float, stopped: Callable[[], bool]) -> int | None:
    """Wait for the exit code; None: it takes too long."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return trial.wait(ASK_EVERY_S)
        if stopped():
            raise StepLeftError
        if time.monotonic() >= deadline:
            return None


def limited_runtime(file_bytes: int, seconds: int) -> Runtime:
    """Return the runtime of a process that may take so much time and memory from here on, and no more."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    runtime = load_runtime()
    limit = MAX_BYTES + 4 * file_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return runtime


def main(path: Path, seconds: int) -> int:
    """Load and predict once; return the exit code."""
    try:
        interpreter = limited_runtime(path.stat().st_size, seconds).interpreter(path)
        interpreter.allocate_tensors()
        for details in interpreter.get_input_details():
            interpreter.set_tensor(details["index"], np.zeros(details["shape"], details["dtype"]))
        interpreter.invoke()
        for details in interpreter.get_output_details():
            interpreter.get_tensor(details["index"])
        interpreter.get_signature_list()
    except (RuntimeUnavailable, ValueError, RuntimeError, MemoryError, TypeError) as exc:
        sys.stdout.write(f"{str(exc) or type(exc).__name__}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
