"""Versions that come as small steps, to real agents through a real Mosquitto: used, interrupted, and no good."""

from __future__ import annotations

import os
import random
import select
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from msgspec.structs import replace

from device_agent.adapters.model_cache import ModelCache, read_model
from protocol import tensors
from protocol.chunks import blob_of, digest_of, split
from protocol.messages import DeltaRef, Manifest
from protocol.packing import encode
from tests.device_agent.standin import SPEC, TOPICS, Agent, Standin
from tests.support.federation import Federation, wait_until
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from fedmq.embedded_broker import EmbeddedBroker

LARGE = SPEC | {"hidden": [2000]}
"""24,003 parameters: 96 KB whole, more than a pipe holds; 24 KB as a step."""


@dataclass
class History:
    """What the stand-in has published so far, and the next version as a step from there."""

    standin: Standin
    manifest: Manifest
    vector: NDArray[np.float32]

    def step(
        self,
        *,
        whole: bool = True,
        only: range | None = None,
        spoil: Callable[[bytes], bytes] = lambda piece: piece,
        lead_astray: float = 0.0,
    ) -> Manifest:
        """Publish the next version; without ``whole`` the step is the only way there."""
        rng = np.random.default_rng(self.manifest.version)
        move = rng.normal(scale=0.01, size=self.vector.size).astype(np.float32)
        data = tensors.encode("int8", move, rng)
        self.vector = self.vector + tensors.decode("int8", data, move.size) + np.float32(lead_astray)
        blob = self.vector.tobytes()
        delta = DeltaRef(base_version=self.manifest.version, blob=blob_of(data, "int8", 4096))
        self.manifest = replace(
            self.manifest,
            version=self.manifest.version + 1,
            parameters=digest_of(blob),
            blob=blob_of(blob, "f32", 65536),
            deltas=[delta],
        )
        for index, piece in enumerate(split(data, 4096)):
            if only is None or index in only:
                self.standin.publish(TOPICS.blob(delta.blob.digest, index), spoil(piece))
        for index, piece in enumerate(split(blob, 65536) if whole else []):
            self.standin.publish(TOPICS.blob(self.manifest.blob.digest, index), piece)
        self.standin.publish(TOPICS.current_model, encode(self.manifest))
        return self.manifest


def cached(agent: Agent) -> Manifest:
    """What is on the disk, as it lies there: nothing is tidied up."""
    with ModelCache(agent.state_dir).open() as file:
        return read_model(file)[0]


@pytest.fixture
def begin(
    mosquitto: EmbeddedBroker, standin: Standin, tmp_path: Path
) -> Iterator[Callable[..., tuple[Agent, History]]]:
    agents: list[Agent] = []

    def one(**tables: Any) -> tuple[Agent, History]:
        """An agent that has fetched version 0 whole, and trained it."""
        manifest = standin.publish_model(0, spec=LARGE, codec="int8", training={"epochs": 1, "batch_size": 64})
        agents.append(Agent(tmp_path / "agent", mosquitto.port, **tables).start())
        standin.wait(lambda: standin.metrics and standin.metrics[-1].updates_accepted == 1)
        with ModelCache(agents[0].state_dir).open() as file:
            _, data = read_model(file)
        return agents[0], History(standin, manifest, np.frombuffer(data, "<f4"))

    yield one
    for agent in agents:
        agent.kill()


def wait_for_update(standin: Standin, version: int, *, accepted: int) -> None:
    standin.wait(lambda: standin.updates()[-1].base_version == version)
    standin.wait(lambda: standin.metrics[-1].updates_accepted == accepted)


def test_versions_come_as_steps_and_only_their_bytes(
    standin: Standin, begin: Callable[..., tuple[Agent, History]]
) -> None:
    agent, history = begin()
    before = standin.metrics[-1].bytes_received
    for version in (1, 2, 3, 4):
        wanted = history.step(whole=False)
        wait_for_update(standin, version, accepted=version + 1)
        assert cached(agent) == wanted
    metrics = standin.metrics[-1]
    assert (metrics.models_received, metrics.models_from_delta) == (5, 4)
    step, whole = wanted.deltas[0].blob.total_bytes, wanted.blob.total_bytes
    received = (metrics.bytes_received - before) / 4
    assert step <= received < step + 2048 < 0.3 * whole
    assert agent.stop() == 0
    assert "unusable" not in str(metrics.refusals)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"spoil": lambda piece: piece[::-1]}, "digest"),
        ({"spoil": lambda piece: piece + b"!"}, "bytes where"),
        ({"spoil": lambda _piece: b""}, "do not come"),
        ({"only": range(3)}, "do not come"),
        ({"lead_astray": 0.5}, "the sum is not"),
    ],
    ids=["corrupt", "wrong length", "absent", "cut short", "leads elsewhere"],
)
def test_a_step_that_is_no_good_costs_bytes_and_nothing_else(
    standin: Standin, begin: Callable[..., tuple[Agent, History]], fault: dict[str, Any], reason: str
) -> None:
    agent, history = begin()
    wanted = history.step(**fault)
    wait_for_update(standin, 1, accepted=2)
    assert cached(agent) == wanted
    wait_for_update(standin, history.step(whole=False).version, accepted=3)  # the next one is good again
    metrics = standin.metrics[-1]
    assert (metrics.models_received, metrics.models_from_delta) == (3, 1)
    assert metrics.refusals == {"unusable delta": 1}
    assert agent.text().count("delta cannot be used") == 1
    assert reason in agent.text()


def test_killed_while_it_fetches_a_step_it_fetches_the_whole(
    standin: Standin, begin: Callable[..., tuple[Agent, History]]
) -> None:
    agent, history = begin(outbox={"receipt_timeout_s": 60.0, "resend_max_s": 120.0})
    before = history.manifest
    wanted = history.step(only=range(3))
    standin.wait(lambda: standin.state() == "fetching")
    agent.kill()
    assert cached(agent) == before
    agent.start()
    wait_for_update(standin, 1, accepted=2)
    assert cached(agent) == wanted
    assert [update.base_version for update in standin.updates()] == [0, 1]


def test_killed_while_it_writes_the_sum_it_holds_the_version_before(
    standin: Standin, begin: Callable[..., tuple[Agent, History]]
) -> None:
    agent, history = begin()
    before = history.manifest
    # A pipe where the new file is written: it takes 64 KB of 96, and then the agent hangs in mid-write.
    pipe = agent.state_dir / "cache" / "model.part"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        wanted = history.step()
        ready = select.poll()
        ready.register(reader, select.POLLIN)
        assert ready.poll(1000 * PATIENCE_S), "the agent never wrote"
        agent.kill()
    finally:
        os.close(reader)
    assert cached(agent) == before
    assert "from=0" in agent.text()
    agent.start()
    wait_for_update(standin, 1, accepted=2)
    assert cached(agent) == wanted
    assert not pipe.exists()
    assert [update.base_version for update in standin.updates()] == [0, 1]


def test_a_fleet_learns_from_steps_through_kills(broker: EmbeddedBroker, tmp_path: Path) -> None:
    chance = random.Random(1)
    with Federation(tmp_path, broker.port, delta_codec="int8") as federation:
        federation.start_aggregator()
        for number in range(3):
            federation.start_agent(number)
        federation.wait_for_version(5)
        for _ in range(6):
            name = chance.choice(["aggregator", "device-0", "device-1", "device-2"])
            accepted = len(federation.accepted())
            federation.kill(name)
            if name == "aggregator":
                federation.start_aggregator()
            else:
                federation.start_agent(int(name[-1]))
            wait_until(lambda n=accepted: len(federation.accepted()) > n + 3, "more updates")  # type: ignore[misc]
        federation.wait_for_versions_more(10)
        for number in range(3):  # a device that is slow finds the whole when it comes; some time it will be in time
            wait_until(
                lambda n=number: federation.agent_counters(n).get("models_from_delta", 0) > 0,  # type: ignore[misc]
                f"a step that device-{number} has taken",
            )
        federation.stop_all()

        federation.check(agents=3)
        digests = dict(federation.query("SELECT version, digest FROM versions"))
        for number in range(3):
            held = ModelCache(tmp_path / f"device-{number}-state").find()
            assert held is not None
            assert held.parameters == digests[held.version]
            counters = federation.agent_counters(number)
            assert counters["models_from_delta"] < counters["models_received"]
            assert "unusable delta" not in counters["refusals"]
