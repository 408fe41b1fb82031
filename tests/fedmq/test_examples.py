"""What ``fedmq init`` writes has to pass the checks of the commands that read it, commented lines included."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

import pytest

from aggregator.configuration import AggregatorSettings
from device_agent.settings import AgentSettings
from fedmq.examples import AGENT_TOML, AGGREGATOR_TOML, write_examples
from models import TrainingPlan, build
from protocol.adapters.configuration import load

if TYPE_CHECKING:
    from pathlib import Path


def uncommented(text: str) -> str:
    """Return the example with every commented setting switched on."""
    return re.sub(r"^# (\[\w+\]|\w+ = .*)$", r"\1", text, flags=re.MULTILINE)


def test_the_examples_are_valid_as_they_are(tmp_path: Path) -> None:
    write_examples(tmp_path)

    aggregator = load(tmp_path / "aggregator.toml", AggregatorSettings)
    agent = load(tmp_path / "agent.toml", AgentSettings)

    assert agent.device.federation == aggregator.aggregator.federation
    assert build(aggregator.model).layout.size > 0
    assert TrainingPlan.from_data(aggregator.training).epochs == 1


def test_what_is_commented_out_is_the_default(tmp_path: Path) -> None:
    write_examples(tmp_path)
    written = load(tmp_path / "aggregator.toml", AggregatorSettings), load(tmp_path / "agent.toml", AgentSettings)
    for name, text in (("aggregator.toml", AGGREGATOR_TOML), ("agent.toml", AGENT_TOML)):
        (tmp_path / name).write_text(uncommented(text).replace('path = "evaluation.npz"', 'path = ""'))

    full = load(tmp_path / "aggregator.toml", AggregatorSettings), load(tmp_path / "agent.toml", AgentSettings)

    assert tomllib.loads(uncommented(AGENT_TOML))["sleep"] == {"awake_s": 0.0, "asleep_s": 0.0}
    assert full[1] == written[1]
    assert build(full[0].model).spec == build(written[0].model).spec
    assert TrainingPlan.from_data(full[0].training) == TrainingPlan.from_data(written[0].training)
    for table in (
        "aggregation",
        "schedule",
        "admission",
        "evaluation",
        "downlink",
        "metrics",
        "participation",
        "broker",
    ):
        assert getattr(full[0], table) == getattr(written[0], table)


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text("mine")

    with pytest.raises(FileExistsError, match=r"agent\.toml"):
        write_examples(tmp_path)

    assert (tmp_path / "agent.toml").read_text() == "mine"
    assert not (tmp_path / "aggregator.toml").exists()
    write_examples(tmp_path, overwrite=True)
    assert (tmp_path / "agent.toml").read_text() == AGENT_TOML
