from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from aggregator.configuration import DownlinkTable, ScheduleTable
from aggregator.downlink import Rendition, render, vector_of
from protocol import tensors
from protocol.chunks import digest_of
from protocol.settings import ConfigurationError, settings_from
from tests.aggregator.harness import Bench, settings_with

F32, F16, INT8 = DownlinkTable(), DownlinkTable(encoding="f16"), DownlinkTable(delta_codec="int8")
SIZE = 700
"""Three blocks of int8 scales, the last one short."""

any_float = st.floats(width=32, allow_nan=False, allow_infinity=False)
vectors = hnp.arrays(np.float32, SIZE, elements=any_float)


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def on_device(made: Rendition) -> NDArray[np.float32]:
    """What a device has that fetches the whole."""
    return tensors.decode(made.blob.encoding, made.blob_bytes, SIZE)


def from_delta(made: Rendition, base: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a device has that holds the base: the rule of the protocol, in float32."""
    assert made.delta
    return base + tensors.decode(made.delta.blob.encoding, made.delta_bytes, SIZE)


def digest(vector: NDArray[np.float32]) -> str:
    return digest_of(vector.astype("<f4").tobytes())


@settings(max_examples=40)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("table", [F32, F16, INT8], ids=["f32", "f16", "int8"])
@given(master=vectors, base=vectors)
def test_whichever_way_a_device_takes_it_gets_the_bits_of_the_digest(
    table: DownlinkTable, master: NDArray[np.float32], base: NDArray[np.float32]
) -> None:
    made = render(master, table, rng(), (4, base))

    assert digest(on_device(made)) == made.digest
    assert digest_of(made.parameters) == made.digest
    assert digest(vector_of(made.parameters)) == digest(made.vector) == made.digest
    assert np.isfinite(made.vector).all()
    assert (made.blob.digest, made.blob.total_bytes) == (digest_of(made.blob_bytes), len(made.blob_bytes))
    if made.delta:
        assert made.delta.base_version == 4
        assert digest(from_delta(made, base)) == made.digest
        assert made.delta.blob.digest == digest_of(made.delta_bytes)


def test_float32_is_the_master_itself() -> None:
    master = rng().normal(size=SIZE).astype(np.float32)

    made = render(master, F32, rng(), (1, master))

    assert made.parameters == master.tobytes()
    assert made.delta is None


def test_a_first_version_has_no_delta() -> None:
    assert render(np.zeros(SIZE, np.float32), INT8, rng()).delta is None


def test_a_delta_is_small() -> None:
    master = rng().normal(size=SIZE).astype(np.float32)

    made = render(master, INT8, rng(), (1, np.zeros(SIZE, np.float32)))

    assert len(made.delta_bytes) < 0.27 * len(made.blob_bytes)


@pytest.mark.filterwarnings("error")
def test_a_step_that_overflows_is_not_offered() -> None:
    huge = np.full(SIZE, 3e38, np.float32)

    made = render(huge, INT8, rng(), (1, -huge))

    assert made.delta is None
    assert made.parameters == huge.tobytes()


@pytest.mark.parametrize("table", [F16, INT8], ids=["f16", "int8"])
def test_what_rounding_takes_away_goes_down_with_a_later_version(table: DownlinkTable) -> None:
    """Steps far below the encoding's resolution add up in the master, and the published versions follow it."""
    chance = np.random.default_rng(1)
    master = chance.normal(size=SIZE).astype(np.float32)
    start = master.copy()
    published = render(master, table, np.random.default_rng(0)).vector
    errors = []
    for number in range(1, 400):
        master = master + np.float32(2e-5)
        published = render(master, table, np.random.default_rng(number), (number - 1, published)).vector
        errors.append(float(np.abs(published - master).max()))

    moved = float(np.mean(published - start))
    assert moved == pytest.approx(399 * 2e-5, rel=0.05)
    assert max(errors[-50:]) <= max(errors[:50]) * 1.5, "the distance to the master grows: it drifts"


def test_the_same_seed_gives_the_same_bytes() -> None:
    master, base = rng().normal(size=SIZE).astype(np.float32), np.zeros(SIZE, np.float32)

    assert render(master, INT8, rng(), (1, base)).delta_bytes == render(master, INT8, rng(), (1, base)).delta_bytes


def test_a_lossy_whole_and_deltas_do_not_go_together() -> None:
    with pytest.raises(ConfigurationError, match="delta_codec 'int8' needs encoding 'f32'"):
        settings_from({"encoding": "f16", "delta_codec": "int8"}, DownlinkTable, "aggregator.toml")


# -- through the core -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [{"encoding": "f16"}, {"delta_codec": "int8"}], ids=str)
def test_published_versions_follow_the_master_through_many_rounds_and_restarts(table: dict[str, Any]) -> None:
    one_each = ScheduleTable(goal=1)
    model = {"kind": "softmax", "inputs": 60, "outputs": 3}
    bench = Bench(settings_with(schedule=one_each, downlink=DownlinkTable(**table), model=model))
    size = bench.model.layout.size
    held = vector_of(bench.core.ledger.version.parameters).copy()
    expected = bench.core.ledger.server.master.astype(np.float64)
    chance = np.random.default_rng(5)
    for number in range(1, 60):
        step = chance.normal(0.0, 1e-3, size).astype(np.float32)
        expected += step
        bench.send(bench.update(delta=step.tobytes()))
        if number % 10 == 0:
            bench = bench.restart()
        version = bench.core.ledger.version
        if version.delta:
            assert version.delta.base_version == number - 1
            held = held + tensors.decode("int8", version.delta_bytes, size)
            assert digest(held) == version.digest
        assert version.version == number

    np.testing.assert_allclose(bench.core.ledger.server.master, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(vector_of(bench.core.ledger.version.parameters), expected, rtol=0, atol=1e-3)
