"""What models do on the held-out samples. Imports NumPy: only the trainer's thread imports this module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from device_agent.adapters.leaving import TaskLeftError
from device_agent.adapters.personalizing import LOCAL, PRIVATE, TUNED
from models import StepLeftError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from device_agent.adapters.personalizing import Start
    from models import Dataset, Model


def measured(
    model: Model, parameters: NDArray[np.float32], data: Dataset | None, stopped: Callable[[], bool]
) -> dict[str, float]:
    """Return the metrics, none where there are no examples; raise ``TaskLeftError`` when the task is to stop."""
    try:
        return model.evaluate(parameters, data, stopped).summary() if data else {}
    except StepLeftError as exc:
        raise TaskLeftError from exc


def compared(  # noqa: PLR0917 - what is compared, on what
    model: Model,
    data: Dataset | None,
    version: NDArray[np.float32],
    start: Start,
    made: Mapping[str, NDArray[np.float32]],
    stopped: Callable[[], bool],
) -> dict[str, dict[str, float]]:
    """Return the metrics of the version as it came, as this device predicts with it now, and of its own model."""
    if not start.digest:
        return {}
    own = made[TUNED] if TUNED in made else start.split.overlaid(version, made[PRIVATE])
    shown = {"global": version, "personal": own} | ({"local": made[LOCAL]} if LOCAL in made else {})
    return {name: measured(model, parameters, data, stopped) for name, parameters in shown.items()}
