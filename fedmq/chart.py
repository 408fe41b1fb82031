"""Small charts from block characters. Pure: numbers in, text out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

EIGHTHS = " ▁▂▃▄▅▆▇█"
FULL = 8


def resample(values: Sequence[float], width: int) -> list[float]:
    """Return at most ``width`` values of the series, evenly picked, the first and the newest among them."""
    if len(values) <= width:
        return list(values)
    if width == 1:
        return [values[-1]]
    return [values[round(place * (len(values) - 1) / (width - 1))] for place in range(width)]


def columns(values: Sequence[float], width: int, height: int, *, reference: float | None = None) -> list[Text]:
    """Return ``height`` lines of a column chart of the series; columns fill the height at 1.0, none is 0.0.

    A ``reference`` is drawn as a dashed line, in the free part of the row in which it lies.
    """
    shown = resample(values, width)
    heights = [round(min(max(value, 0.0), 1.0) * height * FULL) for value in shown]
    marked = None if reference is None else min(height - 1, int(reference * height))
    lines = []
    for row in reversed(range(height)):
        line = Text()
        for place in range(width):
            level = min(FULL, max(0, heights[place] - row * FULL)) if place < len(heights) else 0
            if level == 0 and row == marked:
                line.append("╌", style="yellow")
            else:
                line.append(EIGHTHS[level], style="green")
        lines.append(line)
    return lines


def bar(share: float, width: int, style: str = "green") -> Text:
    """Return a thin horizontal bar of ``width`` characters, of which the share (0 to 1) is lit."""
    lit = round(min(max(share, 0.0), 1.0) * width)
    return Text.assemble(("━" * lit, style), ("╌" * (width - lit), "bright_black"))
