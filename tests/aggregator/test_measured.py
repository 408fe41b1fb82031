"""What devices measured, over a version: mean, lowest tenth, worst."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from rich.console import Console

from aggregator.adapters.registry import Lineage, VersionLine
from aggregator.adapters.tables import lineage_table
from aggregator.buffer import Contribution
from aggregator.measured import measured
from tests.support.stores import contribution


def of(device: str, **metrics: float) -> Contribution:
    return msgspec.structs.replace(contribution(device), metrics=metrics)


def test_every_device_counts_once_and_the_worst_is_named() -> None:
    values = np.random.default_rng(4).random(23)
    found = measured(of(f"d{n:02}", holdout_accuracy_personal=float(v)) for n, v in enumerate(values))
    assert list(found) == ["personal"]
    personal = found["personal"]
    assert personal.devices == 23
    assert personal.mean == pytest.approx(values.mean())
    assert personal.tenth == pytest.approx(np.quantile(values, 0.1))
    assert (personal.worst, personal.worst_device) == (values.min(), f"d{values.argmin():02}")


def test_the_last_update_of_a_device_holds() -> None:
    found = measured(
        [of("a", holdout_accuracy_local=0.1), of("b", holdout_accuracy_local=0.5), of("a", holdout_accuracy_local=0.9)]
    )
    assert found["local"].worst_device == "b"
    assert found["local"].mean == pytest.approx(0.7)


def test_without_anything_personal_trainings_begin_with_the_version() -> None:
    found = measured([of("a", holdout_accuracy=0.9, holdout_accuracy_before=0.8)])
    assert found["global"].mean == 0.8
    both = measured([of("a", holdout_accuracy_global=0.3, holdout_accuracy_before=0.8)])
    assert both["global"].mean == 0.3


def test_of_losses_the_highest_is_the_worst() -> None:
    found = measured(of(f"d{n}", holdout_loss_personal=float(n)) for n in range(11))
    assert (found["personal"].tenth, found["personal"].worst, found["personal"].worst_device) == (9.0, 10.0, "d10")


def test_nobody_measured_anything() -> None:
    assert measured([]) == {}
    assert measured([of("a", train_loss=0.3)]) == {}


def test_it_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    line = VersionLine(
        version=3,
        kind="aggregate",
        created=0.0,
        digest="a" * 64,
        metrics={},
        num_updates=2,
        total_weight=1.0,
        step_norm=0.1,
        rolled_back_to=None,
        has_parameters=True,
    )
    updates = tuple(of(f"d{n}", holdout_accuracy_global=0.2, holdout_accuracy_personal=0.9) for n in range(2))
    lineage = Lineage(line=line, outcome="published", contributions=updates, measured=measured(updates))
    Console(width=100).print(lineage_table(lineage))
    shown = " ".join(capsys.readouterr().out.split())
    assert "personal accuracy mean 0.9000, lowest tenth 0.9000, worst 0.9000 (d0); by 2 devices" in shown
    assert "global accuracy mean 0.2000" in shown
