"""Prints the median microseconds of one PyTorch training step, and the process's peak in MB: NAME BATCH STEPS.

Needs torch only. The networks are those of ``numpy_step.py``, the way PyTorch's own examples would write them.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch  # type: ignore[import-not-found,unused-ignore]
from torch import nn  # type: ignore[import-not-found,unused-ignore]

_BLOCKS = 20


class Recurrent(nn.Module):  # type: ignore[misc,unused-ignore]
    """A GRU, and a linear layer on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(9, 64, batch_first=True)
        self.head = nn.Linear(64, 6)

    def forward(self, x: Any) -> Any:  # noqa: ANN401 - a tensor, of a library that is not installed
        """Return scores."""
        return self.head(self.gru(x)[0][:, -1])


def mlp(*widths: int) -> Any:  # noqa: ANN401 - see above
    """Return a network with one hidden layer."""
    return nn.Sequential(nn.Linear(widths[0], widths[1]), nn.ReLU(), nn.Linear(widths[1], widths[2]))


def image_cnn(kernel: int, first: int, second: int, *rest: Any) -> Any:  # noqa: ANN401 - see above
    """Return two convolutions with pooling, and what follows."""
    stages = [nn.Conv2d(1, first, kernel, padding=kernel // 2), nn.ReLU(), nn.MaxPool2d(2)]
    stages += [nn.Conv2d(first, second, kernel, padding=kernel // 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*stages, *rest)


def series_cnn() -> Any:  # noqa: ANN401 - see above
    """Return three convolutions over time."""
    return nn.Sequential(
        *(nn.Conv1d(9, 32, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(64, 64, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 6)),
    )


NETWORKS: dict[str, tuple[Callable[[], Any], tuple[int, ...], int]] = {
    "mlp 64-32-10": (lambda: mlp(64, 32, 10), (64,), 10),
    "mlp 561-200-6": (lambda: mlp(561, 200, 6), (561,), 6),
    "image_cnn": (lambda: image_cnn(3, 16, 32, nn.Linear(1568, 10)), (1, 28, 28), 10),
    "image_cnn of McMahan et al.": (
        lambda: image_cnn(5, 32, 64, nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10)),
        (1, 28, 28),
        10,
    ),
    "series_cnn": (series_cnn, (9, 128), 6),
    "gru": (Recurrent, (128, 9), 6),
}
"""How to make it, the shape of an example as PyTorch wants it, and the classes."""


def main(name: str, batch: int, steps: int) -> None:
    """Train the usual way: shuffled batches, autograd, ``torch.optim.SGD``."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make, shape, classes = NETWORKS[name]
    model = make()
    loss_of = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x = torch.randn(32 * batch, *shape)
    y = torch.randint(0, classes, (len(x),))

    def block(count: int) -> None:
        done = 0
        while done < count:
            order = torch.randperm(len(x))
            for indices in order.split(batch)[: count - done]:
                optimizer.zero_grad()
                loss_of(model(x[indices]), y[indices]).backward()
                optimizer.step()
                done += 1

    per_block = max(1, steps // _BLOCKS)
    block(per_block)
    blocks = []
    for _ in range(_BLOCKS):
        started = time.perf_counter()
        block(per_block)
        blocks.append((time.perf_counter() - started) / per_block)
    print(1e6 * statistics.median(blocks), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
