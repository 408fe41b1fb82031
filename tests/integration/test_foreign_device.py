"""docs/protocol.md is enough to write a device: one that was written from it alone takes part in a real federation."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import msgpack
import numpy as np
import pytest

from fedmq.embedded_broker import EmbeddedBroker
from models import Dataset, TrainingPlan, build, local_train
from tests.support.federation import Federation
from tests.support.foreign_device import ForeignDevice, Trained, decoded, encoded, layout_digest, train

INPUTS, CLASSES = 64, 10


def samples(count: int) -> tuple[list[list[float]], list[int]]:
    rng = random.Random(7)
    return [[rng.random() for _ in range(INPUTS)] for _ in range(count)], [rng.randrange(CLASSES) for _ in range(count)]


@pytest.fixture
def federation(broker: EmbeddedBroker, tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path, broker.port, goal=1, interval_s=0.0) as running:
        yield running


@pytest.mark.parametrize("codec", ["f32", "f16", "int8"])
def test_a_device_from_the_document_moves_the_model(federation: Federation, codec: str) -> None:
    federation.codec = codec
    federation.start_aggregator()
    x, y = samples(40)
    with ForeignDevice("test", "alien-1", federation.port) as device:
        first = device.manifest(0)
        assert first["layout"] == layout_digest(INPUTS, CLASSES)
        before = device.parameters(first)
        update = device.update(first, train(first, before, x, y), 1)
        device.send(update)
        receipt = device.receipt(1)
        after = device.parameters(device.manifest(1))
        device.send(update)
        again = device.receipt(1)

    assert (receipt["status"], receipt["version"], receipt["epoch"]) == ("accepted", 0, first["epoch"])
    assert (again["status"], again["reason"], again["version"]) == ("duplicate", "", 1)
    delta = decoded(codec, msgpack.unpackb(update)["delta"], len(before))
    assert any(delta)
    assert after == pytest.approx([b + d for b, d in zip(before, delta, strict=True)], rel=1e-5, abs=1e-7)
    federation.stop_all()
    assert federation.accepted() == [("alien-1", device.incarnation, 1)]


def test_chunks_may_come_in_pieces_and_a_probe_tells_what_is_missing(federation: Federation) -> None:
    federation.codec = "f32"
    federation.start_aggregator()
    with ForeignDevice("test", "alien-1", federation.port) as device:
        first = device.manifest(0)
        update = device.update(first, train(first, device.parameters(first), *samples(8)), 1)
        count = -(-len(update) // 256)
        device.probe(1)
        nothing = device.receipt(1)
        for index in range(2, count):
            device.send_chunk(update, 1, index, 256)
        device.probe(1)
        some = device.receipt(1)
        for index in reversed(some["missing"]):
            device.send_chunk(update, 1, index, 256)
        accepted = device.receipt(1)
        device.probe(1)
        known = device.receipt(1)

    assert (nothing["status"], nothing["missing"]) == ("retry", [])
    assert (some["status"], some["missing"]) == ("retry", [0, 1])
    assert accepted["status"] == "accepted"
    assert known["status"] == "duplicate"


def test_refusals_say_why(federation: Federation) -> None:
    federation.goal = 2
    federation.start_aggregator()
    nothing = Trained([0.0] * (INPUTS + 1) * CLASSES, 1, 1)
    with ForeignDevice("test", "alien-1", federation.port) as device:
        first = device.manifest(0)

        def answer(sequence: int, **changes: object) -> tuple[str, str]:
            device.send(device.update(first, nothing, sequence, **changes))
            receipt = device.receipt(sequence)
            return receipt["status"], receipt["reason"].partition(":")[0]

        assert answer(1, epoch="0" * 16) == ("rejected", "other-epoch")
        assert answer(2, layout="0" * 64) == ("rejected", "other-layout")
        assert answer(3, base_version=1) == ("rejected", "unknown-version")
        assert answer(4, delta=b"\0") == ("rejected", "bad-delta")
        assert answer(5, device_id="alien-2") == ("rejected", "wrong-device")
        assert answer(6, federation="other") == ("rejected", "other-federation")
        assert answer(7, num_examples=2_000_000) == ("rejected", "examples")
        assert answer(8, num_examples=True) == ("rejected", "malformed")
        assert answer(9, surplus=1) == ("rejected", "malformed")
        assert answer(10) == ("accepted", "")
        # A device sends in order: what is below the last accepted sequence counts as said.
        assert answer(9) == ("duplicate", "")
        device.send(device.update(first, nothing, 11))
        receipt = device.receipt(11)
        assert (receipt["status"], receipt["reason"].partition(":")[0]) == ("retry", "one-per-version")
        assert receipt["next_after_s"] > 0


@pytest.mark.parametrize("weights", [[], [0.5, 1.5, 4.0]], ids=["alike", "weighted"])
def test_the_documented_training_is_the_training(weights: list[float]) -> None:
    """With one batch that holds all examples no shuffling can make a difference."""
    spec = {"kind": "softmax", "inputs": 5, "outputs": 3, "l2": 0.1}
    plan = TrainingPlan.from_data(
        {"epochs": 6, "batch_size": 50, "learning_rate": 0.3, "momentum": 0.5, "proximal": 0.2, "clip_norm": 0.4}
        | {"class_weights": weights}
    )
    rng = np.random.default_rng(1)
    model = build(spec)
    start = rng.normal(size=model.layout.size).astype(np.float32)
    x, y = rng.normal(size=(50, 5)).astype(np.float32), rng.integers(0, 3, 50)

    ours = local_train(model, start, Dataset.for_model(model, x, y), plan, rng)
    theirs = train({"model": model.spec, "training": plan.to_data()}, start.tolist(), x.tolist(), y.tolist())

    assert (theirs.steps, theirs.examples) == (ours.num_steps, ours.num_examples)
    assert theirs.delta == pytest.approx((ours.parameters - start).tolist(), rel=1e-3, abs=1e-5)


def test_codecs_from_the_document_decode_to_what_was_encoded() -> None:
    rng = random.Random(3)
    vector = [rng.gauss(0.0, 1.0) for _ in range(600)]
    for codec, tolerance in (("f32", 1e-6), ("f16", 1e-3), ("int8", 5e-2)):
        assert decoded(codec, encoded(codec, vector, rng), 600) == pytest.approx(vector, abs=tolerance)
