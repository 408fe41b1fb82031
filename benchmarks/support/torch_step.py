"""Prints the median microseconds of one PyTorch training step: INPUTS HIDDEN OUTPUTS BATCH STEPS. Needs torch only."""

from __future__ import annotations

import statistics
import sys
import time

import torch  # type: ignore[import-not-found,unused-ignore]

_BLOCKS = 20


def main(inputs: int, hidden: int, outputs: int, batch: int, steps: int) -> None:
    """Train the usual way: shuffled batches, autograd, ``torch.optim.SGD``."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(inputs, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, outputs))
    loss_of = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x = torch.randn(32 * batch, inputs)
    y = torch.randint(0, outputs, (len(x),))
    per_block = steps // _BLOCKS
    blocks = []
    for _ in range(_BLOCKS):
        started = time.perf_counter()
        done = 0
        while done < per_block:
            order = torch.randperm(len(x))
            for indices in order.split(batch)[: per_block - done]:
                optimizer.zero_grad()
                loss_of(model(x[indices]), y[indices]).backward()
                optimizer.step()
                done += 1
        blocks.append((time.perf_counter() - started) / per_block)
    print(1e6 * statistics.median(blocks))


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
