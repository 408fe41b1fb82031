"""A process that writes to a store as fast as it can, and says after each batch what is safe; it is to be killed."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from aggregator.adapters import deltas
from aggregator.commands import Journal, StoreCommand
from tests.support.stores import journal, opened, saved

DEVICES = 5


def main(directory: Path, seed: int) -> None:
    chance = random.Random(seed)
    # Each other life keeps its deltas beside the database, however few they are.
    deltas.FROM_BYTES = seed % 2 * 1_000_000
    store = opened(directory)
    restored = store.restore()
    last = {device: sequence for (device, _), sequence in restored.sequences.items()}
    buffer = [entry.contribution for entry in restored.journal]
    version = restored.version.version
    print("ready", flush=True)  # noqa: T201 - that is how it reports
    while True:
        commands: list[StoreCommand] = []
        for _ in range(chance.randint(1, 12)):
            device = f"press-{chance.randrange(DEVICES)}"
            last[device] = last.get(device, 0) + 1
            entry: Journal = journal(device, last[device])
            commands.append(entry)
            buffer.append(entry.entry.contribution)
            if chance.random() < 0.2:
                version += 1
                commands.append(saved(version, tuple(buffer)))
                buffer = []
        store.apply(commands)
        print(sum(last.values()), version, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
