"""Learnable models on one flat float32 vector, and their training in NumPy."""

from collections.abc import Mapping
from typing import Any

from models.checkpoint import Checkpoint
from models.data import Dataset
from models.errors import CheckpointError, DataError, FeaturesError, PlanError, SpecError, TfliteError
from models.metrics import ClassificationMetrics, Metrics, ReconstructionMetrics, RegressionMetrics
from models.network import Model
from models.parameters import Layout
from models.pipeline import Pipeline
from models.plan import TrainingPlan, weight_of_part
from models.series import Series
from models.spec import NetworkSpec
from models.standardization import Standardization
from models.training import Training, TrainingResult, local_train
from models.windows import Windows

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
    "Pipeline",
    "PlanError",
    "ReconstructionMetrics",
    "RegressionMetrics",
    "Series",
    "SpecError",
    "Standardization",
    "TfliteError",
    "Training",
    "TrainingPlan",
    "TrainingResult",
    "Windows",
    "build",
    "local_train",
    "weight_of_part",
]


def build(spec: Mapping[str, Any]) -> Model:
    """Return the model that the spec (plain data, from a file or the network) describes, or raise ``SpecError``."""
    return Model(NetworkSpec.from_data(spec))
