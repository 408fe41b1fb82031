"""What a device says in answer to a survey: sums about its examples, packed. Imports NumPy, as the workbench does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from device_agent.adapters.leaving import TaskLeftError, asking
from models import StepLeftError
from models.answering import NO_METRICS, metrics_to_data, no_statistics, statistics_of
from protocol.surveys import pack_content

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from device_agent.adapters.data import Samples
    from models import Dataset, Model
    from protocol.surveys import Survey


def content_of(
    survey: Survey, model: Model, parameters: NDArray[np.float32], samples: Samples, stopped: Callable[[], bool]
) -> bytes:
    """Return the content of the report; raise ``ProtocolError`` when it is too long, ``TaskLeftError`` when stopped.

    Statistics are of the examples to train on, an evaluation of those held out. With fewer of them than the survey
    wants, or none, the report says that there are none.
    """
    data = _asked_about(survey, samples)
    examples = 0 if data is None else len(data)
    if survey.kind == "statistics":
        found = no_statistics(model) if data is None else statistics_of(model, data, asking(stopped))
        return pack_content({"examples": examples, "statistics": found.to_data()})
    return pack_content({"examples": examples, "metrics": _measured(model, parameters, data, stopped)})


def comparison_of(  # noqa: PLR0917 - two of what there is one of above
    survey: Survey,
    model: Model,
    current: NDArray[np.float32],
    candidate: NDArray[np.float32],
    samples: Samples,
    stopped: Callable[[], bool],
) -> bytes:
    """Return the content of a report on two models, measured on the same examples; raise as ``content_of`` does."""
    data = _asked_about(survey, samples)
    figures = {
        "metrics": _measured(model, current, data, stopped),
        "candidate": _measured(model, candidate, data, stopped),
    }
    return pack_content({"examples": 0 if data is None else len(data), **figures})


def _asked_about(survey: Survey, samples: Samples) -> Dataset | None:
    data = samples.train if survey.kind == "statistics" else samples.holdout
    return None if data is None or len(data) < survey.min_examples else data


def _measured(
    model: Model, parameters: NDArray[np.float32], data: Dataset | None, stopped: Callable[[], bool]
) -> dict[str, Any]:
    try:
        return metrics_to_data(NO_METRICS[model.task] if data is None else model.evaluate(parameters, data, stopped))
    except StepLeftError as exc:
        raise TaskLeftError from exc
