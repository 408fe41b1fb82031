from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from device_agent.adapters.data import DataFileError, drawn, load_samples, row_hashes
from device_agent.settings import DataSettings
from models import build

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = build({"kind": "softmax", "inputs": 2, "outputs": 3})
UNLABELLED = build({"kind": "autoencoder", "inputs": 2, "hidden": [1]})
VALUES = build({"kind": "linear", "inputs": 2, "outputs": 2})
RNG = np.random.default_rng(3)


def csv(path: Path, text: str) -> Path:
    (path / "samples.csv").write_text(text, encoding="utf-8")
    return path / "samples.csv"


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path / "samples.npz", **arrays)
    return path / "samples.npz"


def load(path: Path, model: Any = CLASSES, **fields: Any) -> Any:
    return load_samples(path, DataSettings(path=str(path), **({"holdout_fraction": 0.0} | fields)), model)


def test_csv_columns_are_features_in_order_save_the_label(tmp_path: Path) -> None:
    samples = load(csv(tmp_path, "\ufeffa, label ,b\n1,2,3.5\n-4e1,0,5\n\n"))
    assert samples.train.x.tolist() == [[1.0, 3.5], [-40.0, 5.0]]
    assert samples.train.x.dtype == np.float32
    assert samples.train.y.tolist() == [2, 0]
    assert samples.holdout is None


def test_csv_with_several_values_to_predict(tmp_path: Path) -> None:
    samples = load(csv(tmp_path, "y1,a,b,y2\n1,2,3,4\n5,6,7,8\n"), VALUES, label=["y2", "y1"])
    assert samples.train.x.tolist() == [[2.0, 3.0], [6.0, 7.0]]
    assert samples.train.y.tolist() == [[4.0, 1.0], [8.0, 5.0]]


def test_csv_and_npz_with_the_same_rows_are_the_same(tmp_path: Path) -> None:
    x, y = np.array([[1, 2.5], [3, 4]], np.float32), np.array([0, 2])
    one = load(npz(tmp_path, x=x, y=y), holdout_fraction=0.5)
    two = load(csv(tmp_path, "a,b,label\n1,2.5,0\n3,4,2\n"), holdout_fraction=0.5)
    assert one.train.x.tolist() == two.train.x.tolist()
    assert one.train.y.tolist() == two.train.y.tolist()


def test_where_no_labels_are_needed_there_may_be_none(tmp_path: Path) -> None:
    x = np.array([[1, 2.5], [3, 4]], np.float32)
    assert load(npz(tmp_path, x=x), UNLABELLED).train.y.tolist() == x.tolist()
    assert load(csv(tmp_path, "a,b\n1,2.5\n3,4\n"), UNLABELLED).train.y.tolist() == x.tolist()
    assert load(csv(tmp_path, "a,label,b\n1,9,2.5\n3,9,4\n"), UNLABELLED).train.x.tolist() == x.tolist()
    with pytest.raises(DataFileError, match="has no array 'x'"):
        load(npz(tmp_path, y=x), UNLABELLED)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "samples.csv: is empty"),
        ("a,b,label\n", "has a header and no rows"),
        ("a,b\n1,2\n", "0 columns are called 'label'"),
        ("label,b,label\n1,2,3\n", "2 columns are called 'label'"),
        ("a,b,label\n1,2,0\n1,x,0\n", "line 3, column 'b': 'x' is no number"),
        ("a,b,label\n1,2,0\n1,2\n", "line 3 has 2 values where the header names 3"),
        ("a,b,label\n1,2,0\n1,nan,0\n", "samples.csv: .*row"),
        ("a,b,label\n1,2,0\n1,2,3\n", "samples.csv: .*row"),
        ("a,b,label\n1,2,0.5\n", "samples.csv: .*row"),
        ("a,label\n1,0\n", "samples.csv: "),
    ],
)
def test_csv_faults_name_file_line_and_column(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(DataFileError, match=fault):
        load(csv(tmp_path, text))


def test_a_csv_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "samples.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DataFileError, match=r"cannot be read as \.csv"):
        load(tmp_path / "samples.csv")


@pytest.mark.parametrize(
    ("arrays", "fault"),
    [
        ({"x": np.zeros((2, 2))}, r"has no array 'y'; it has \['x'\]"),
        ({"x": np.zeros((2, 2)), "y": np.zeros(3)}, "2 rows in 'x', 3 in 'y'"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0)}, "'x' has no rows"),
        ({"x": np.array([["a", "b"]]), "y": np.zeros(1)}, "'x' holds <U1, not numbers"),
        ({"x": np.full((2, 2), np.inf), "y": np.zeros(2)}, "samples.npz: .*row"),
        ({"x": np.zeros((2, 5)), "y": np.zeros(2)}, "samples.npz: "),
        ({"x": np.zeros((2, 2)), "y": np.full(2, 7)}, "samples.npz: .*row"),
    ],
)
def test_npz_faults_are_named(tmp_path: Path, arrays: dict[str, Any], fault: str) -> None:
    with pytest.raises(DataFileError, match=fault):
        load(npz(tmp_path, **arrays))


def test_a_pickle_in_an_npz_is_not_opened(tmp_path: Path) -> None:
    path = npz(tmp_path, x=np.array([{"a": 1}, None], dtype=object), y=np.zeros(2))
    with pytest.raises(DataFileError, match=r"cannot be read as \.npz"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 rubbish", b"rubbish" * 100])
def test_a_damaged_npz_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "samples.npz").write_bytes(content)
    with pytest.raises(DataFileError, match=r"cannot be read as \.npz"):
        load(tmp_path / "samples.npz")


@pytest.mark.parametrize("name", ["samples.npz", "samples.csv"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataFileError, match="there is no such file"):
        load(tmp_path / name)


def test_too_few_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="2 examples to train on where min_examples is 3"):
        load(csv(tmp_path, "a,b,label\n1,2,0\n3,4,1\n"), min_examples=3)


def test_a_row_stays_on_its_side_whatever_rows_come_and_in_whatever_order() -> None:
    x, y = RNG.normal(size=(500, 4)).astype(np.float32), RNG.integers(0, 3, 500)
    before = drawn(row_hashes(x, y), 0.2)
    assert 60 < before.sum() < 140
    more = np.concatenate([RNG.normal(size=(300, 4)).astype(np.float32), x])
    labels = np.concatenate([RNG.integers(0, 3, 300), y])
    assert (drawn(row_hashes(more, labels), 0.2)[300:] == before).all()
    order = RNG.permutation(500)
    assert (drawn(row_hashes(x[order], y[order]), 0.2) == before[order]).all()
    assert not (drawn(row_hashes(x, y), 0.3) < before).any()  # a larger share only adds rows


def test_equal_rows_are_on_the_same_side() -> None:
    x, y = np.repeat(RNG.normal(size=(50, 3)), 4, axis=0), np.repeat(np.arange(50), 4)
    mask = drawn(row_hashes(x, y), 0.5).reshape(50, 4)
    assert (mask == mask[:, :1]).all()
