"""Transfer learning, shown: a network that knows four exercises helps a fleet of watches to learn three others.

``.venv/bin/python examples/transfer/transfer.py``, after ``./scripts/setup``. It

1. trains a small CNN on four exercises, in one place, and writes it without its last layer to ``backbone.tflite``;
2. has a fleet learn three other exercises, of which each device has a few windows; several times, in several ways, each
   with a broker, an aggregator and agents of its own, as processes;
3. prints what each way says of people whom nobody has seen, and what it costs a device.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from federation import Federation
from report import Run, gain, lines_of, observed, table
from ways import BACKBONE, ways
from windows import EXERCISES, PEOPLE, SECONDS, UNSEEN_PEOPLE, few, windows

from fedmq.demo_signals import DemoDataError
from fedmq.processes import QUIET_THREADS, ChildDiedError
from models.tflite.runtime import RuntimeUnavailable, load_runtime

KNOWN = "0,1,2,3"
FEWEST = 2
"""Exercises to tell apart, for the backbone and for the fleet."""


def compare(folder: Path, told: argparse.Namespace, seed: int) -> Run:
    """Run every way, one after the other, on the same windows."""
    new = [exercise for exercise in range(EXERCISES) if exercise not in told.known]
    rng = np.random.default_rng([seed, 1])
    fleet = [few(windows([person], new), told.each, rng) for person in PEOPLE[: told.devices]]
    judges, found = windows(UNSEEN_PEOPLE, new), []
    for number, way in enumerate(ways(folder, told.known, seed, more=told.more)):
        place = folder / f"federation-{number}"
        place.mkdir()
        for name, part in [("evaluation", judges), *((f"data-{at}", part) for at, part in enumerate(fleet))]:
            np.savez(place / f"{name}.npz", x=way.samples(part), y=part.y)
        training = {"epochs": 5, "batch_size": 8, "learning_rate": way.learning_rate}
        federation = Federation(place, model=way.model, training=training, backbone=way.backbone)
        data = [place / f"data-{at}.npz" for at in range(len(fleet))]
        found.append((way, federation.run(data, place / "evaluation.npz", told.versions)))
        print(f"  {way.name}: accuracy {found[-1][1].accuracies[-1]:.3f}", flush=True)
    return found


def exercises(text: str) -> list[int]:
    """Return the numbers in a list such as ``0,1,2,3``."""
    found = sorted({int(part) for part in text.split(",")})
    if not FEWEST <= len(found) <= EXERCISES - FEWEST or found[0] < 0 or found[-1] >= EXERCISES:
        raise argparse.ArgumentTypeError(
            f"{text!r}: allowed are {FEWEST} to {EXERCISES - FEWEST} of the exercises 0 to {EXERCISES - 1}"
        )
    return found


def up_to(most: int) -> Callable[[str], int]:
    """Return what reads a number from 1 to ``most``."""

    def count(text: str) -> int:
        if not 1 <= (found := int(text)) <= most:
            raise argparse.ArgumentTypeError(f"{found}; allowed are 1 to {most}")
        return found

    return count


def arguments() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(description="Transfer learning: a federation with a frozen network before it.")
    parser.add_argument("--known", type=exercises, default=KNOWN, help="what the backbone learns, two to five of 0..6")
    parser.add_argument("--each", type=up_to(10), default=1, help="windows of every other exercise that a device has")
    parser.add_argument("--devices", type=up_to(len(PEOPLE)), default=len(PEOPLE), help="watches, one a person")
    parser.add_argument("--versions", type=up_to(1000), default=20)
    parser.add_argument("--seeds", type=up_to(100), default=1, help="repeat with so many seeds, and print means")
    parser.add_argument("--more", action="store_true", help="also an untrained backbone, and features made by people")
    return parser.parse_args()


def main() -> None:
    """Run it, and print the table."""
    told = arguments()
    runs: list[Run] = []
    try:
        load_runtime()
        for seed in range(told.seeds):
            with tempfile.TemporaryDirectory(prefix="fedmq-transfer-") as folder:
                print(f"seed {seed}: {told.devices} watches, {told.each} x {SECONDS:g} s of each exercise")
                runs.append(compare(Path(folder), told, seed))
                size = (Path(folder) / BACKBONE).stat().st_size
    except (DemoDataError, RuntimeUnavailable, ChildDiedError) as exc:
        raise SystemExit(str(exc)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    lines = lines_of(runs)
    print(f"\nAccuracy on {len(UNSEEN_PEOPLE)} people whom nobody has seen, by version, and what it costs a device:\n")
    print(f"{table(lines)}\n\n{gain(lines)}")
    print(f"{observed(runs[-1][0][1])}\nIts file, {size:,} bytes, goes to each device once.")


if __name__ == "__main__":
    if not QUIET_THREADS.items() <= os.environ.items():
        # On small matrices threads hinder one another, and NumPy reads this once, when it is imported.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | QUIET_THREADS)
    main()
