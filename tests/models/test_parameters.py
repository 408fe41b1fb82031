from __future__ import annotations

import hashlib

import numpy as np
import pytest

from models import Layout, build
from tests.models.examples import SPECS


def test_layout_digest_is_the_documented_text() -> None:
    model = build({"kind": "mlp", "inputs": 64, "hidden": [32], "outputs": 10})

    text = "fedmq layout 1\ndense0.weight 64x32\ndense0.bias 32\ndense1.weight 32x10\ndense1.bias 10\n"
    assert model.layout.digest == hashlib.sha256(text.encode()).hexdigest()
    assert model.layout.size == 64 * 32 + 32 + 32 * 10 + 10


def test_digest_tells_apart_names_shapes_and_order() -> None:
    layouts = [
        Layout((("a", (2, 3)), ("b", (3,)))),
        Layout((("b", (3,)), ("a", (2, 3)))),
        Layout((("a", (3, 2)), ("b", (3,)))),
        Layout((("a", (23,)), ("b", (3,)))),
        Layout((("a", (2, 3)), ("c", (3,)))),
    ]
    assert len({layout.digest for layout in layouts}) == len(layouts)
    assert layouts[0] == Layout((("a", (2, 3)), ("b", (3,))))


def test_views_share_the_vector_in_order() -> None:
    layout = Layout((("a", (2, 2)), ("b", (3,))))
    vector = np.arange(7, dtype=np.float32)

    views = layout.views(vector)
    views["b"][0] = 100.0

    np.testing.assert_array_equal(views["a"], [[0.0, 1.0], [2.0, 3.0]])
    assert vector[4] == 100.0
    assert layout.slices == {"a": slice(0, 4), "b": slice(4, 7)}


@pytest.mark.parametrize(
    "vector",
    [np.zeros(7), np.zeros(6, np.float32), np.zeros((7, 1), np.float32), np.zeros(14, np.float32)[::2]],
    ids=["float64", "short", "matrix", "strided"],
)
def test_views_want_a_vector_of_the_layout(vector: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    with pytest.raises(ValueError, match="wanted contiguous float32"):
        Layout((("a", (2, 2)), ("b", (3,)))).views(vector)


def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match="twice"):
        Layout((("a", (2,)), ("a", (3,))))


@pytest.mark.parametrize("name", SPECS)
def test_init_is_deterministic_and_of_the_layout(name: str) -> None:
    model = build(SPECS[name])
    first, again = (model.init(np.random.default_rng(7)) for _ in range(2))

    assert first.dtype == np.float32
    assert first.shape == (model.layout.size,)
    assert first.tobytes() == again.tobytes()


def test_init_has_the_variance_of_he_and_the_bounds_of_glorot() -> None:
    relu = build({"kind": "mlp", "inputs": 200, "hidden": [300], "outputs": 50})
    views = relu.layout.views(relu.init(np.random.default_rng(0)))
    assert views["dense0.weight"].std() == pytest.approx(np.sqrt(2 / 200), rel=0.02)
    assert not views["dense0.bias"].any()
    limit = np.sqrt(6 / 350)
    assert np.abs(views["dense1.weight"]).max() == pytest.approx(limit, rel=0.01)
    assert views["dense1.weight"].std() == pytest.approx(limit / np.sqrt(3), rel=0.02)

    tanh = build({"kind": "mlp", "inputs": 200, "hidden": [300], "outputs": 50, "activation": "tanh"})
    views = tanh.layout.views(tanh.init(np.random.default_rng(0)))
    assert np.abs(views["dense0.weight"]).max() <= np.sqrt(6 / 500) * 1.0001

    convex = build({"kind": "softmax", "inputs": 3, "outputs": 2})
    assert not convex.init(np.random.default_rng(0)).any()
