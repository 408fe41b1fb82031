"""The aggregator of a federation that leaves parameters to its devices: it folds the others, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aggregator.adapters.errors import StoreRefused
from aggregator.adapters.opening import open_store
from aggregator.adapters.preparing import prepare
from aggregator.configuration import AggregationTable, DownlinkTable, EvaluationTable, RegistryTable, ScheduleTable
from aggregator.downlink import vector_of
from models import Personal, build
from protocol.packing import decode_manifest
from tests.aggregator.harness import Bench, settings_with
from tests.aggregator.test_service_preparing import fault_of
from tests.support.aggregators import write_config

if TYPE_CHECKING:
    from pathlib import Path

MLP = {"kind": "mlp", "inputs": 4, "hidden": [5], "outputs": 3}
PRIVATE = {"private": ["dense1.*"]}
SPLIT = Personal.from_data(PRIVATE).split(build(MLP))


def bench(**tables: Any) -> Bench:
    return Bench(settings_with(model=MLP, personal=PRIVATE, schedule=ScheduleTable(goal=3), **tables))


def delta(seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=SPLIT.shared.size).astype(np.float32)


def send(found: Bench, count: int = 3, **fields: Any) -> None:
    for number in range(count):
        update = found.update(
            f"dev-{number}", delta=delta(number), num_examples=10 + number, layout=SPLIT.shared.digest, **fields
        )
        assert found.answer(update, f"dev-{number}").status == "accepted"


def vector(found: Bench) -> Any:
    return vector_of(found.core.ledger.version.parameters)


def test_what_is_shared_is_the_average_and_what_is_private_stays() -> None:
    found = bench()
    before = vector(found).copy()
    send(found)

    weights = np.array([10.0, 11.0, 12.0])
    mean = (weights[:, None] * np.array([delta(n) for n in range(3)], np.float64)).sum(axis=0) / weights.sum()
    expected = (SPLIT.shared_of(before).astype(np.float64) + mean).astype(np.float32)
    assert found.version == 1
    assert np.array_equal(SPLIT.shared_of(vector(found)), expected)
    assert np.array_equal(SPLIT.private_of(vector(found)), SPLIT.private_of(before))
    manifest = decode_manifest(found.broker[found.topics.current_model])
    assert manifest.personal == Personal.from_data(PRIVATE).to_data()
    assert manifest.layout == build(MLP).layout.digest, "the blob goes on holding everything"


@pytest.mark.parametrize("optimizer", ["plain", "momentum", "adam"])
@pytest.mark.parametrize("codec", ["", "int8"])
def test_no_optimizer_and_no_delta_moves_what_is_private(optimizer: Any, codec: Any) -> None:
    found = bench(aggregation=AggregationTable(server_optimizer=optimizer), downlink=DownlinkTable(delta_codec=codec))
    before = vector(found).copy()
    for _ in range(4):
        send(found)
    assert found.version == 4
    assert np.array_equal(SPLIT.private_of(vector(found)), SPLIT.private_of(before))
    assert not np.array_equal(SPLIT.shared_of(vector(found)), SPLIT.shared_of(before))


def test_an_update_of_everything_is_refused() -> None:
    found = bench()
    whole = found.update("dev", delta=np.ones(found.model.layout.size, np.float32))
    receipt = found.answer(whole)
    assert (receipt.status, receipt.reason.partition(":")[0]) == ("rejected", "other-layout")
    short = found.update("dev", delta=np.ones(3, np.float32), layout=SPLIT.shared.digest)
    assert found.answer(short).reason.startswith("bad-delta")


def test_a_restart_replays_what_is_shared() -> None:
    found = bench()
    send(found, 2)
    assert found.restart().bits() == found.bits()


def test_a_rollback_leads_to_what_was() -> None:
    found = bench()
    begun = found.core.ledger.version.parameters
    send(found)
    found.core.ledger.roll_back(0, begun, 1.0)
    assert found.core.ledger.version.parameters == begun


def personal(*keys: str) -> str:
    return "\n".join(["[personal]", *keys])


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (['private = ["tail.*"]'], "private 'tail.*' matches no parameter; there are dense0.weight, dense0.bias"),
        (['private = ["*"]'], "matches every parameter"),
        (['private = ["*.bias"]', "private_epochs = -1"], "private_epochs is -1"),
        (['hidden = ["*.bias"]'], "unknown key 'hidden'"),
    ],
)
def test_what_does_not_fit_the_model_is_found_at_the_start(tmp_path: Path, keys: list[str], text: str) -> None:
    fault = fault_of(write_config(tmp_path, more=personal(*keys)))
    assert "[personal]: personal: " in fault
    assert text in fault


def test_another_private_list_in_a_living_federation_is_refused(tmp_path: Path) -> None:
    limits = RegistryTable()

    def start(*keys: str) -> None:
        prepared = prepare(write_config(tmp_path, more=personal(*keys)))
        open_store(prepared.state_dir, prepared.founding, limits).close()

    start('private = ["*.bias"]')
    start('private = ["dense?.bias"]', "private_epochs = 2", "compare_local = true")
    for other in ('private = ["*.weight"]', "compare_local = true"):
        with pytest.raises(StoreRefused, match=r"private is another list than it was\. Set it back, or choose another"):
            start(other)


def test_an_evaluation_that_could_withhold_good_versions_is_warned_of() -> None:
    settings = settings_with(model=MLP, personal=PRIVATE, evaluation=EvaluationTable(path="x.npz"))
    assert any("private parameters as they were in the beginning" in line for line in settings.warnings())
