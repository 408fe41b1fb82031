"""Fuzzing for as long as wanted: ``python -m tests.fuzz [--seconds 600] [TARGET ...]``.

With ``atheris`` installed (it is not among our requirements) the mutations follow what the code does with them, and an
input that reaches something new joins the corpus when ``--keep`` says so. Without it they are blind.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.mutations import mutant
from tests.fuzz.targets import CORPUS, TARGETS, corpus_of, try_out

GUIDED = Path(__file__).with_name("guided.py")


def main() -> int:
    """Fuzz one target after the other; the first defect ends it."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--keep", action="store_true", help="add inputs that reached something new to the corpus")
    arguments = parser.parse_args()
    for name in arguments.targets or TARGETS:
        if name not in TARGETS:
            parser.error(f"no target {name!r}; there are {', '.join(TARGETS)}")
        fuzz = _guided if importlib.util.find_spec("atheris") else _blind
        print(f"{name}: {fuzz(name, arguments.seconds, keep=arguments.keep)}", flush=True)  # noqa: T201 - a report
    return 0


def _blind(name: str, seconds: float, *, keep: bool) -> str:
    del keep  # nothing tells what is new
    seeds, rng, count = corpus_of(name), random.Random(), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try_out(name, mutant(seeds, rng))
        count += 1
    return f"{count} inputs"


def _guided(name: str, seconds: float, *, keep: bool) -> str:
    """Run the guided fuzzer in a process of its own: it ends with the process."""
    with tempfile.TemporaryDirectory() as scratch:
        found, seeds = Path(scratch) / "found", Path(scratch) / "seeds"
        found.mkdir()
        seeds.mkdir()
        for payload in corpus_of(name):
            (seeds / hashlib.sha256(payload).hexdigest()[:16]).write_bytes(payload)
        limits = [f"-max_total_time={seconds:.0f}", "-timeout=10", "-rss_limit_mb=1024", "-max_len=4096"]
        command = [
            sys.executable,
            str(GUIDED),
            name,
            *limits,
            f"-artifact_prefix={Path.cwd()}/",
            str(found),
            str(seeds),
        ]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode:
            sys.exit(child.stderr[-4000:])
        fresh = sorted(found.iterdir())
        folder = TARGETS[name].corpus or name
        if keep and folder != "*":
            for path in fresh:
                (CORPUS / folder / f"found-{path.name[:16]}.bin").write_bytes(path.read_bytes())
        return f"{len(fresh)} inputs that reached something new"


if __name__ == "__main__":
    sys.exit(main())
