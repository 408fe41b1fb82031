"""Learnable models on one flat float32 vector, and their training in NumPy."""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from models.checkpoint import Checkpoint
from models.data import Dataset
from models.errors import CheckpointError, DataError, FeaturesError, PlanError, SpecError, TfliteError
from models.metrics import ClassificationMetrics, Metrics, ReconstructionMetrics, RegressionMetrics
from models.network import Model
from models.parameters import Layout
from models.personal import Personal, Split
from models.plan import TrainingPlan, weight_of_part
from models.spec import NetworkSpec
from models.training import Training, TrainingResult, local_train
from models.workspace import StepLeftError

if TYPE_CHECKING:
    from models.pipeline import Pipeline
    from models.series import Series
    from models.standardization import Standardization
    from models.windows import Windows

_WITH_ROWS = {"Pipeline": "pipeline", "Series": "series", "Standardization": "standardization", "Windows": "windows"}
"""What makes examples of rows: half a megabyte, for boards whose federation wants it."""

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "ClassificationMetrics",
    "DataError",
    "Dataset",
    "FeaturesError",
    "Layout",
    "Metrics",
    "Model",
    "Personal",
    "Pipeline",
    "PlanError",
    "ReconstructionMetrics",
    "RegressionMetrics",
    "Series",
    "SpecError",
    "Split",
    "Standardization",
    "StepLeftError",
    "TfliteError",
    "Training",
    "TrainingPlan",
    "TrainingResult",
    "Windows",
    "build",
    "local_train",
    "weight_of_part",
]


def __getattr__(name: str) -> object:
    if name not in _WITH_ROWS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"models.{_WITH_ROWS[name]}"), name)


def build(spec: Mapping[str, Any]) -> Model:
    """Return the model that the spec (plain data, from a file or the network) describes, or raise ``SpecError``."""
    return Model(NetworkSpec.from_data(spec))
