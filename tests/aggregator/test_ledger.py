"""The numbers: what versions are made of, and that a restart makes them of the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aggregator.commands import SaveAggregation
from aggregator.configuration import AggregationTable, AggregatorSettings, DownlinkTable, ScheduleTable
from aggregator.downlink import vector_of
from aggregator.events import ScheduleDue
from aggregator.manifests import check_manifest_fits, largest_manifest_bytes
from aggregator.recording import first_version
from aggregator.records import MAX_INCARNATIONS
from models import Model, build
from protocol.messages import MAX_MANIFEST_BYTES
from protocol.settings import ConfigurationError
from tests.aggregator.harness import SIZE, Bench, only, settings_with

WHEN_ASKED = ScheduleTable(goal=0, interval_s=60.0)
EXACT = AggregationTable(staleness="constant")


def bench_of(**aggregation: Any) -> Bench:
    return Bench(settings_with(schedule=WHEN_ASKED, aggregation=AggregationTable(**aggregation)))


def deltas(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0.0, 0.1, (count, SIZE)).astype(np.float32)


def parameters(bench: Bench) -> NDArray[np.float32]:
    return vector_of(bench.core.ledger.version.parameters)


@settings(max_examples=30, deadline=None)
@given(
    parts=st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 4)), min_size=1, max_size=8),
    seed=st.integers(0, 10**6),
)
def test_a_version_is_the_weighted_mean_of_the_paper(parts: list[tuple[int, int]], seed: int) -> None:
    bench = bench_of(max_staleness=10)
    for _ in range(4):
        bench.send(bench.update(delta=np.zeros(SIZE)))
        bench.feed(ScheduleDue())
    before = bench.core.ledger.server.master.astype(np.float64)
    sent = deltas(len(parts), seed)
    for (examples, age), delta in zip(parts, sent, strict=True):
        bench.send(bench.update(delta=delta, num_examples=examples, base_version=4 - age))

    bench.feed(ScheduleDue())

    weights = [examples / (1.0 + age) ** 0.5 for examples, age in parts]
    mean = [
        sum(weight * float(delta[i]) for weight, delta in zip(weights, sent, strict=True)) / sum(weights)
        for i in range(SIZE)
    ]
    np.testing.assert_allclose(parameters(bench), (before + mean).astype(np.float32), rtol=0, atol=1e-7)
    record = bench.core.ledger.version
    assert record.total_weight == pytest.approx(sum(weights))
    assert record.num_updates == len(parts)


def test_without_staleness_it_is_federated_averaging_of_the_models() -> None:
    bench = bench_of(staleness="constant")
    before = parameters(bench).astype(np.float64)
    counts = [5, 50, 20]
    models = [before + delta for delta in deltas(3).astype(np.float64)]
    for count, model in zip(counts, models, strict=True):
        bench.send(bench.update(delta=(model - before).astype(np.float32), num_examples=count))

    bench.feed(ScheduleDue())

    average = sum(count * model for count, model in zip(counts, models, strict=True)) / sum(counts)
    np.testing.assert_allclose(parameters(bench), average, rtol=0, atol=1e-7)


def test_a_device_that_learnt_nothing_still_counts_in_the_mean() -> None:
    bench = bench_of()
    before = parameters(bench).copy()
    bench.send(bench.update(delta=np.zeros(SIZE)))
    bench.send(bench.update(delta=np.ones(SIZE)))

    bench.feed(ScheduleDue())

    np.testing.assert_allclose(parameters(bench) - before, 0.5, atol=1e-6)


@pytest.mark.parametrize("codec", ["f32", "f16", "int8"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12))
def test_replaying_the_journal_gives_the_same_bits(codec: str, seed: int, count: int) -> None:
    bench = bench_of()
    chance = np.random.default_rng(seed)
    for delta in deltas(count, seed):
        bench.send(bench.update(delta=delta, codec=codec, num_examples=int(chance.integers(1, 10**6))))

    again = bench.restart()

    assert again.bits() == bench.bits()
    assert again.core.ledger.buffer.contributions == bench.core.ledger.buffer.contributions
    assert again.core.ledger.sequences == bench.core.ledger.sequences
    bench.feed(ScheduleDue())
    again.feed(ScheduleDue())
    assert again.core.ledger.version.parameters == bench.core.ledger.version.parameters


@pytest.mark.parametrize(
    "aggregation",
    [
        {"server_optimizer": "momentum", "server_learning_rate": 0.5},
        {"server_optimizer": "adam", "server_learning_rate": 0.05},
        {"damping": True, "staleness": "hinge", "hinge_versions": 0.0},
    ],
    ids=str,
)
def test_restarts_between_any_two_updates_change_no_bit(aggregation: dict[str, Any]) -> None:
    steady, shaken = bench_of(**aggregation), bench_of(**aggregation)
    for i, delta in enumerate(deltas(18)):
        for bench in (steady, shaken):
            bench.send(bench.update(delta=delta, base_version=max(0, bench.version - i % 3), sequence=i + 1))
            if i % 4 == 3:
                bench.feed(ScheduleDue())
        shaken = shaken.restart()

    assert shaken.bits() == steady.bits()
    assert steady.version == 4
    for kept, other in zip(shaken.core.ledger.server.vectors, steady.core.ledger.server.vectors, strict=True):
        assert kept.tobytes() == other.tobytes()


def test_server_momentum_against_a_straightforward_reference() -> None:
    bench = bench_of(staleness="constant", server_optimizer="momentum", server_learning_rate=0.5, server_momentum=0.9)
    expected, velocity = parameters(bench).astype(np.float64), np.zeros(SIZE)
    for delta in deltas(10):
        bench.send(bench.update(delta=delta))
        bench.feed(ScheduleDue())
        velocity = 0.9 * velocity + delta
        expected = expected + 0.5 * velocity

    np.testing.assert_allclose(parameters(bench), expected, rtol=0, atol=2e-6)


def test_damping_against_a_straightforward_reference() -> None:
    bench = bench_of(damping=True)
    for _ in range(3):
        bench.send(bench.update(delta=np.zeros(SIZE)))
        bench.feed(ScheduleDue())
    before = parameters(bench).astype(np.float64)
    old, new = deltas(2)
    bench.send(bench.update(delta=old, num_examples=30, base_version=0))
    bench.send(bench.update(delta=new, num_examples=10))

    bench.feed(ScheduleDue())

    weights = 30 * 0.5, 10.0
    mean = (weights[0] * old.astype(np.float64) + weights[1] * new) / sum(weights)
    np.testing.assert_allclose(parameters(bench), before + mean * sum(weights) / 40, rtol=0, atol=1e-7)


def test_the_lineage_says_what_a_version_is_made_of() -> None:
    bench = bench_of()
    bench.send(bench.update("a", num_examples=3, metrics={"loss": 0.5}), "a")
    bench.send(bench.update("b", num_examples=4), "b")

    (saved,) = only(bench.feed(ScheduleDue()), SaveAggregation)

    assert saved.version is not None
    assert [(c.device_id, c.num_examples, c.weight) for c in saved.aggregation.lineage] == [
        ("a", 3, 3.0),
        ("b", 4, 4.0),
    ]
    assert saved.aggregation.lineage[0].metrics == {"loss": 0.5}
    assert (saved.aggregation.base_version, saved.aggregation.version) == (0, 1)
    assert saved.version.kind == "aggregate"
    assert saved.version.created == bench.now


def test_the_seed_alone_makes_the_first_version() -> None:
    settings = settings_with()
    made = [first_version(settings, build(settings.model), created=0.0)[0] for _ in range(2)]

    assert made[0] == made[1]
    assert (made[0].version, made[0].kind) == (0, "initial")


# -- manifests ------------------------------------------------------------------------------------------------------


class Wordy:
    """A model whose description is long; nothing that can be built today is."""

    def __init__(self, model: Model, words: int) -> None:
        self.layout, self.task, self.outputs = model.layout, model.task, model.outputs
        self.spec = dict(model.spec) | {"notes": "w" * words}


DEEP: dict[str, Any] = {
    "kind": "mlp",
    "inputs": 2**10,
    "hidden": [1000] * 32,
    "outputs": 2**10,
    "activation": "tanh",
    "task": "regression",
    "loss": "huber",
}


def wide(spec: dict[str, Any]) -> AggregatorSettings:
    return settings_with(model=spec, downlink=DownlinkTable(delta_codec="int8", chunk_bytes=256))


def test_the_manifest_of_every_realistic_model_fits() -> None:
    for spec in ({"kind": "softmax", "inputs": 4, "outputs": 3}, DEEP):
        found = largest_manifest_bytes(wide(spec), build(spec))
        assert found < MAX_MANIFEST_BYTES - 300, "room for a signature"
        check_manifest_fits(wide(spec), build(spec))


def test_a_manifest_never_exceeds_what_was_foreseen() -> None:
    bench = Bench(settings_with(schedule=ScheduleTable(goal=1), downlink=DownlinkTable(delta_codec="int8")))
    for _ in range(3):
        bench.send(bench.update())

    found = len(bench.broker[bench.topics.current_model])
    # This bench's generation and number of issue are 0, and then they are left out; those foreseen are large.
    assert found <= largest_manifest_bytes(bench.settings, bench.model) <= found + 80


def test_a_manifest_that_devices_would_refuse_is_an_error_at_the_start() -> None:
    settings = settings_with()
    wordy: Any = Wordy(build(settings.model), 5000)

    with pytest.raises(ConfigurationError, match=r"manifest .* 4096 are allowed"):
        check_manifest_fits(settings, wordy)


def test_a_device_that_makes_new_incarnations_for_ever_is_remembered_in_bounded_memory() -> None:
    bench = Bench()
    for number in range(3 * MAX_INCARNATIONS):
        bench.send(bench.raw(incarnation=f"{number:016x}", sequence=1))

    assert bench.core.fleet.counters.accepted == 3 * MAX_INCARNATIONS
    assert list(bench.core.ledger.sequences) == [
        ("dev", f"{number:016x}") for number in range(2 * MAX_INCARNATIONS, 3 * MAX_INCARNATIONS)
    ]
