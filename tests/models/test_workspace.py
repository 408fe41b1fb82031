"""What a training holds is given back when it ends, not when Python next looks for cycles: boards are small."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from models import TrainingPlan
from models.training import Training
from models.workspace import StepLeftError, Workspace
from tests.models.networks import LAYERS, examples, network


@pytest.fixture(autouse=True)
def without_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("name", LAYERS)
def test_a_training_is_freed_with_its_last_reference(name: str) -> None:
    model, start = network(name)
    training = Training(model, start, examples(model, 20), TrainingPlan(batch_size=8), np.random.default_rng(0))
    training.run(leave=lambda: False)
    held = weakref.ref(training), weakref.ref(training.parameters)

    del training

    assert [reference() for reference in held] == [None, None]


@pytest.mark.parametrize("name", LAYERS)
def test_a_workspace_is_freed_with_its_last_reference_also_when_a_step_was_left(name: str) -> None:
    model, start = network(name)
    data = examples(model, 8)
    workspace = Workspace(model, start)
    workspace.loss_and_gradient(data.x, data.y)
    workspace.leave = lambda: True
    with pytest.raises(StepLeftError):
        workspace.loss_and_gradient(data.x, data.y)
    held = weakref.ref(workspace), weakref.ref(workspace.gradient)

    del workspace

    assert [reference() for reference in held] == [None, None]
