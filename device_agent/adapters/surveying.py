"""What a device says in answer to a survey: sums about its examples, packed. Imports NumPy, as the workbench does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from device_agent.adapters.leaving import TaskLeftError, asking
from models import StepLeftError
from models.answering import NO_METRICS, metrics_to_data, no_statistics, statistics_of
from protocol.surveys import pack_content

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from device_agent.adapters.data import Samples
    from models import Model
    from protocol.surveys import Survey


def content_of(
    survey: Survey, model: Model, parameters: NDArray[np.float32], samples: Samples, stopped: Callable[[], bool]
) -> bytes:
    """Return the content of the report; raise ``ProtocolError`` when it is too long, ``TaskLeftError`` when stopped.

    Statistics are of the examples to train on, an evaluation of those held out. With fewer of them than the survey
    wants, or none, the report says that there are none.
    """
    data = samples.train if survey.kind == "statistics" else samples.holdout
    if data is not None and len(data) < survey.min_examples:
        data = None
    examples = 0 if data is None else len(data)
    if survey.kind == "statistics":
        found = no_statistics(model) if data is None else statistics_of(model, data, asking(stopped))
        return pack_content({"examples": examples, "statistics": found.to_data()})
    try:
        metrics = NO_METRICS[model.task] if data is None else model.evaluate(parameters, data, stopped)
    except StepLeftError as exc:
        raise TaskLeftError from exc
    return pack_content({"examples": examples, "metrics": metrics_to_data(metrics)})
