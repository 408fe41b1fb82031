"""What crosses machines is the same on each, whatever its processor, NumPy and BLAS: against values written down.

The values come from x86-64, and held on (emulated) 64-bit and 32-bit ARM. Where a test fails after a change, devices of
the version before disagree with this one; where it fails on a new kind of machine, that machine computes otherwise.

To the bit: seeds, digests, codecs, versions made from deltas, messages, signatures. To rounding: features and training.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from aggregator.configuration import DownlinkTable
from aggregator.downlink import render
from models import Dataset, Pipeline, TrainingPlan, build, local_train
from models.features import FEATURE_NAMES, Block, feature
from protocol import tensors
from protocol.messages import SealedUpdate
from protocol.packing import decode_manifest, decode_up, encode
from protocol.sampling import is_asked, participates
from protocol.sealing import Opener
from protocol.signing import Signer, verified_body
from tests.protocol.samples import MANIFEST, UPDATE

SEED = [11, 0xFEDC_BA98, 2**40, 3]
"""Of a device: its own seed, the checksum of its name (above 2**31), the version, the contribution."""

ENCODED = {
    ("extreme", "f32"): ("0f70c0324d3e8973", "0f70c0324d3e8973"),
    ("extreme", "f16"): ("4d2ad346464cd798", "17b8614c94271f20"),
    ("extreme", "int8"): ("81ea1ef322b7cab0", "68f34022746c9550"),
    ("ordinary", "f32"): ("4c642189da206992", "4c642189da206992"),
    ("ordinary", "f16"): ("2925505b2d59c904", "70fcf5909e1a0fb1"),
    ("ordinary", "int8"): ("7684b3bbbaa7cf9d", "656df802cd2bcbaa"),
}
MADE_FROM_DELTA = {
    "extreme": ("c3b56e5f23ca2052", "5e536b161a2a4d42"),
    "ordinary": ("e5b1eab4342eebb8", "4ae02a50be0f7ffc"),
}
FEATURES = {
    "mean": 0.1804085224866867,
    "deviation": 1.6136979233516258,
    "minimum": -2.7667974829673767,
    "maximum": 2.8118332624435425,
    "range": 5.578630745410919,
    "median": 0.21932390332221985,
    "first": -0.9470182061195374,
    "last": -0.3136679530143738,
    "rms": 1.6638415674923261,
    "energy": 0.9230893204680828,
    "change": 1.9011495767101168,
    "slope": 0.011908370029192167,
    "zero_crossings": 1.6451612903225807,
    "mean_crossings": 1.5806451612903225,
    "skewness": -0.3458627132126373,
    "kurtosis": -3.1471667181734544,
    "fft_mean": 39.35356436788935,
    "fft_peak": 50.0,
    "quantile:0.9": 2.338452476263047,
    "fft:0.1-0.3": 0.3753761305811164,
    "fft:5-12.5Hz": 0.18001106347405305,
    "logfft:0.1-0.3": -6.325995369874886,
    "logfft:5-12.5Hz": -8.472944523117427,
}
TRAINED = [0.04077565, 0.02723053, -0.00866917, 0.07335022, -0.08200079, 0.06866609, -0.2299349, -0.32038325, 0.3049576]
SIGNED = "4f58fed5889ec38b"
SEALED = bytes.fromhex(
    "89a474797065a67365616c6564aa66656465726174696f6ea464656d6fa565706f6368b030313233343536373839616263646566a9646576"
    "6963655f6964a870726573732d3037ab696e6361726e6174696f6eb030313233343536373839616263646566a873657175656e636503ac62"
    "6173655f76657273696f6e02a36b6579b061616138666666373033623530623232a67365616c6564c4f77278e62f35c0d5fc75b593f0a7e5"
    "354e964eaa46954a4a90f4634956340d0a2619979d835d592b5f37334daefc8ab0526c09a3a22554855812272fffd682a1b6749ca560167c"
    "4a0d7c26a7ed4aa70801a9ab019ac7db1a03f6f8e0c3bb0bedce90621dc1401cf1ff1fddb5c2cabef85822748a62fd21e1579825e5fb6205"
    "c22c13085a1610d34d2aeef8cabf75068ba04448f21a2fdbf59b39946395adf7f0ee6fcd8ac6229bae8898d8490769182debeaf3bb364079"
    "a5b6abd5c473af62f92ed0d24235a26a885769368446a5bd7751800ef46c1ec5360cc03632442e559dac7afba568154b493bd7e736e9e6ae"
    "40f2988d35849778e3"
)


def extreme(size: int = 1000) -> NDArray[np.float32]:
    """Return values of many magnitudes, subnormal ones too: some processors take those for zero."""
    whole = np.random.default_rng(5).integers(-(2**24), 2**24, size)
    return np.ldexp(whole.astype(np.float64), np.arange(size) % 150 - 165).astype(np.float32)


def ordinary(size: int = 1000) -> NDArray[np.float32]:
    """Return values between -1 and 1."""
    return (np.random.default_rng(6).integers(-(2**24), 2**24, size) / 2**24).astype(np.float32)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def test_a_seed_draws_the_same() -> None:
    rng = np.random.default_rng(SEED)
    drawn = int(rng.integers(0, 2**63)), rng.permutation(9).tolist(), rng.integers(2**33, size=2).tolist()
    assert (*drawn, float(rng.random(dtype=np.float32))) == (
        1409335255546437357,
        [5, 4, 2, 3, 7, 6, 8, 1, 0],
        [3441777768, 8011167416],
        0.2016637921333313,
    )


def test_a_layout_and_a_pipeline_have_the_same_digest() -> None:
    model = build({"kind": "mlp", "inputs": 4, "hidden": [3], "outputs": 2})
    pipeline = Pipeline.from_data({"channels": ["a", "b"], "window": 32, "compute": ["mean", "rms"], "max_gap_s": 1.1})
    assert (model.layout.digest[:16], pipeline.digest[:16]) == ("331eedd7ace93b7d", "9fc43a1b1380ee57")


@pytest.mark.parametrize("codec", tensors.CODECS)
@pytest.mark.parametrize("values", [extreme, ordinary])
def test_a_vector_has_the_same_bytes_and_comes_back_the_same(codec: str, values: Any) -> None:
    encoded = tensors.encode(codec, values(), np.random.default_rng(7))
    decoded = tensors.decode(codec, encoded, 1000)
    assert (sha(encoded), sha(decoded.tobytes())) == ENCODED[values.__name__, codec]


def test_a_vector_is_read_from_wherever_it_lies_in_a_message() -> None:
    for ahead in range(4):
        data = memoryview(bytes(ahead) + ordinary().tobytes())[ahead:]
        decoded = tensors.decode("f32", data, 1000)  # type: ignore[arg-type]  # of bytes, the object's head is aligned
        assert decoded.flags.aligned, "32-bit ARM ends a process (SIGBUS) for numbers that lie across its words"
        assert sha(decoded.tobytes()) == sha(ordinary().tobytes())
        assert tensors.squared_norm(decoded) == pytest.approx(tensors.squared_norm(ordinary()))


@pytest.mark.parametrize("base", [extreme, ordinary])
def test_a_version_made_from_a_delta_has_the_same_digest(base: Any) -> None:
    held = base()
    master = held + ordinary() * np.float32(2.0**-20)
    made = render(master, DownlinkTable(delta_codec="int8"), np.random.default_rng(8), (2**33, held))
    assert made.delta is not None
    assert (made.digest[:16], made.delta.blob.digest[:16]) == MADE_FROM_DELTA[base.__name__]


def test_the_same_devices_take_part() -> None:
    names = [f"device-{number}" for number in range(40)]
    chosen = [participates(name, "epoch", 2**40 + 1, 0.3) for name in names]
    asked = [is_asked(name, "survey", 0.3) for name in names]
    assert [int("".join("01"[one] for one in row), 2) for row in (chosen, asked)] == [294205276288, 705466485191]


def test_messages_with_large_numbers_have_the_same_bytes() -> None:
    update = replace(UPDATE, sequence=2**40, base_version=2**33, num_examples=2**31, num_steps=2**31 + 1)
    wire = encode(update)
    assert decode_up(wire) == update
    assert (sha(wire), sha(encode(MANIFEST))) == ("198a0d647e00485f", "b0b338c30afb6abd")


def test_what_another_machine_signed_is_believed_and_signed_alike() -> None:
    signer = Signer([b"o" * 32])
    wire = signer.sign("manifest", encode(MANIFEST))
    assert sha(wire) == SIGNED
    assert decode_manifest(verified_body(wire, "manifest", signer.public_keys)) == MANIFEST


def test_what_another_machine_sealed_opens() -> None:
    sealed = decode_up(SEALED)
    assert isinstance(sealed, SealedUpdate)
    assert Opener([("x25519", bytes(range(1, 33)))]).open(sealed) == UPDATE


@pytest.mark.parametrize("name", FEATURES)
def test_features_are_the_same_but_for_rounding(name: str) -> None:
    windows = Block(ordinary(96).astype(np.float64).reshape(3, 1, 32), 50.0)
    found = feature(name, 32, 50.0).kernel(windows).sum()
    np.testing.assert_allclose(found, FEATURES[name], rtol=1e-9)


def test_every_feature_is_written_down() -> None:
    assert {name.split(":")[0] for name in FEATURES} == {name.split(":")[0] for name in FEATURE_NAMES}


def test_training_is_the_same_but_for_rounding() -> None:
    model = build({"kind": "mlp", "inputs": 8, "hidden": [6], "outputs": 3})
    x = ordinary(8 * 60).reshape(60, 8)
    data = Dataset(x, np.abs(x[:, :3]).argmax(axis=1))
    plan = TrainingPlan.from_data({"epochs": 3, "batch_size": 8, "learning_rate": 0.1, "momentum": 0.9})
    start = ordinary(model.layout.size) * np.float32(0.5)
    found = local_train(model, start, data, plan, np.random.default_rng(SEED)).parameters - start
    np.testing.assert_allclose(found[::9], TRAINED, rtol=1e-4, atol=1e-6)
