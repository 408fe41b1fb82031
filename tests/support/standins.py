"""A stand-in for the aggregator that answers agents, and agents that speak to it; fixtures of all that want them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedmq.embedded_broker import EmbeddedBroker
from tests.device_agent.standin import Agent, Standin


@pytest.fixture
def standin(mosquitto: EmbeddedBroker) -> Iterator[Standin]:
    """One that accepts every update and report."""
    found = Standin(mosquitto.port)
    found.answer = found.receipt
    yield found
    found.close()


@pytest.fixture
def agent(mosquitto: EmbeddedBroker, tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Starts an agent with these tables of configuration, in a folder of that name."""
    made: list[Agent] = []

    def one(name: str = "agent", **tables: Any) -> Agent:
        made.append(Agent(tmp_path / name, mosquitto.port, **tables))
        return made[-1].start()

    yield one
    for each in made:
        each.kill()
