"""A federation that leaves the head to its devices: real processes, a real broker, and every byte that goes over it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from device_agent.adapters.belongings import OwnedFile
from device_agent.adapters.model_cache import ModelCache, read_model
from device_agent.owned import AFTER, BEFORE, of_state
from models import Personal, build
from protocol import tensors
from protocol.errors import ProtocolError
from protocol.link import Received
from protocol.messages import ModelUpdate
from protocol.packing import decode_update
from tests.support.federation import Federation, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from fedmq.embedded_broker import EmbeddedBroker
    from tests.support.links import Links

MLP = {"kind": "mlp", "inputs": 64, "hidden": [16], "outputs": 10}
PRIVATE = '[personal]\nprivate = ["dense1.*"]\n'
SPLIT = Personal.from_data({"private": ["dense1.*"]}).split(build(MLP))
AGENTS = 2


def states(directory: Path, number: int) -> list[bytes]:
    """What one device has of its own, before and after its last training; nothing before there is a file."""
    found = OwnedFile(directory / f"device-{number}-state").read()
    if found is None:
        return []
    return [of_state(found[1], state)["private"] for state in (BEFORE, AFTER)]


def pieces(vector: bytes, begun: bytes) -> set[bytes]:
    """Four weights each that a training has moved: the initial ones are the version's, and known to everybody."""
    size = 16
    return {
        vector[at : at + size]
        for at in range(0, len(vector) - size, size)
        if vector[at : at + size] != begun[at : at + size]
    }


def updates(payloads: list[bytes]) -> list[ModelUpdate]:
    found = []
    for payload in payloads:
        try:
            message = decode_update(payload)
        except ProtocolError:
            continue
        if isinstance(message, ModelUpdate):
            found.append(message)
    return found


def test_no_private_parameter_leaves_its_device_and_none_is_lost(
    broker: EmbeddedBroker, links: Links, tmp_path: Path
) -> None:
    peer = links(broker.port, "listener")
    peer.up()
    peer.subscribe("fedmq/v1/test/#")
    own: dict[int, list[bytes]] = {number: [] for number in range(AGENTS)}
    with Federation(tmp_path, broker.port, model=MLP, codec="f32", more=PRIVATE, delta_codec="int8") as federation:
        federation.start_aggregator()
        for number in range(AGENTS):
            federation.start_agent(number)
        for version in (1, 3, 5):
            federation.wait_for_version(version)
            for number in range(AGENTS):
                own[number] += states(tmp_path, number)
        wait_until(lambda: all(states(tmp_path, number) for number in range(AGENTS)), "something of each device's own")
        federation.kill("device-0")
        at_the_kill = states(tmp_path, 0)
        federation.start_agent(0)
        wait_until(lambda: states(tmp_path, 0)[1] not in at_the_kill, "the killed device to go on with what it has")
        federation.wait_for_versions_more(2)
        for number in range(AGENTS):
            own[number] += states(tmp_path, number)
        federation.stop_all()
        federation.check(agents=AGENTS)
        begun = SPLIT.private_of(np.frombuffer(initial(federation), np.float32)).tobytes()
        last = [row[0] for row in federation.query("SELECT vector FROM parameters")]
        assert all(SPLIT.private_of(np.frombuffer(one, np.float32)).tobytes() == begun for one in last)
        assert "begin as a new device's" not in federation.log("device-0")

    peer.publish("fedmq/v1/test/end", b"")
    peer.inbox.wait(Received, lambda event: event.topic == "fedmq/v1/test/end")
    payloads = [event.payload for event in peer.inbox.all(Received)]
    sent = updates(payloads)
    assert {update.device_id for update in sent} == {"device-0", "device-1"}
    assert {update.layout for update in sent} == {SPLIT.shared.digest}
    assert {len(tensors.decode("f32", update.delta, SPLIT.shared.size)) for update in sent} == {SPLIT.shared.size}
    secret = {piece for found in own.values() for vector in found for piece in pieces(vector, begun)}
    assert len(secret) > 100
    everywhere = b"\0".join([*payloads, *others(tmp_path)])
    assert begun[:16] in everywhere, "the search finds what is there"
    assert not [piece for piece in secret if piece in everywhere]
    assert own[0][-1] != own[1][-1], "each device has its own"


NETWORK = {
    "kind": "network",
    "input_shape": [8, 8, 1],
    "task": "classification",
    "layers": [
        {"kind": "conv2d", "name": "conv1", "filters": 8, "kernel": 3},
        {"kind": "group_norm", "name": "norm1", "groups": 2, "activation": "relu"},
        {"kind": "max_pool", "size": 2},
        {"kind": "flatten"},
        {"kind": "dense", "name": "head", "outputs": 10},
    ],
}
NORMS = '[personal]\nprivate = ["norm*.*"]\n'


def layers_toml() -> str:
    """The layers, which may stand behind other tables."""
    tables = NETWORK["layers"]
    assert isinstance(tables, list)
    return "".join(
        "[[model.layers]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
        for table in tables
    )


def test_private_normalization_is_trained_kept_and_used_and_the_rest_is_shared(
    broker: EmbeddedBroker, links: Links, tmp_path: Path
) -> None:
    """FedBN (Li et al. 2021), with the group normalization that there is."""
    model = build(NETWORK)
    split = Personal.from_data({"private": ["norm*.*"]}).split(model)
    assert [name for name, _ in split.private.entries] == ["norm1.weight", "norm1.bias"]
    spec = {key: value for key, value in NETWORK.items() if key != "layers"}
    peer = links(broker.port, "listener")
    peer.up()
    peer.subscribe("fedmq/v1/test/#")
    with Federation(tmp_path, broker.port, model=spec, codec="f32", more=NORMS + layers_toml()) as federation:
        federation.start_aggregator()
        for number in range(AGENTS):
            federation.start_agent(number)
        federation.wait_for_version(2)
        federation.kill("device-0")
        wait_until(lambda: all(states(tmp_path, number) for number in range(AGENTS)), "norms of each device's own")
        at_the_kill = states(tmp_path, 0)
        federation.start_agent(0)
        wait_until(lambda: states(tmp_path, 0)[1] not in at_the_kill, "the killed device to go on with what it has")
        federation.wait_for_versions_more(2)
        federation.stop_all()
        federation.check(agents=AGENTS)
        vectors = [np.frombuffer(row[0], np.float32) for row in federation.query("SELECT vector FROM parameters")]
        figures = [json.loads(row[0]) for row in federation.query("SELECT metrics FROM lineage")]

    begun = split.private_of(vectors[0])
    assert begun.tolist() == [1.0] * 8 + [0.0] * 8
    assert all((split.private_of(vector) == begun).all() for vector in vectors)
    assert not np.array_equal(split.shared_of(vectors[0]), split.shared_of(vectors[-1]))
    own = [np.frombuffer(states(tmp_path, number)[-1], np.float32) for number in range(AGENTS)]
    assert all((vector != begun).sum() > 8 for vector in own), "they are trained"
    assert not np.array_equal(own[0], own[1])
    assert {update.layout for update in updates([event.payload for event in peer.inbox.all(Received)])} == {
        split.shared.digest
    }
    assert all("holdout_accuracy_personal" in each for each in figures)


def initial(federation: Federation) -> bytes:
    return bytes(federation.query("SELECT vector FROM parameters WHERE version = 0")[0][0])


def others(directory: Path) -> list[bytes]:
    """Everything on disk that others than the device's own agent write or are to read: databases, logs, its outbox."""
    with ModelCache(directory / "device-0-state").open() as file:
        _, cached = read_model(file)
    files = [*directory.glob("aggregator-state/**/*"), *directory.glob("*.log"), *directory.glob("*/agent.sqlite*")]
    return [cached, *(path.read_bytes() for path in files if path.is_file())]
