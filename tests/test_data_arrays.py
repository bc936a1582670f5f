"""Arrays, files and tables -> samples in rows, or a clear error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from libraries import without
from posterior_collapse.data import Dataset, load, pairs
from posterior_collapse.data.about import about, columns_of
from posterior_collapse.errors import (
    CorruptFileError,
    DataError,
    InvalidArgumentError,
    MissingDependencyError,
    MissingFileError,
    UnknownDatasetError,
)

X = np.random.default_rng(0).standard_normal((6, 3))


@pytest.mark.parametrize("dtype", ["u1", "i2", "f2", "f4", "f8", "i8"])
def test_an_array_is_used_as_it_is(dtype: str) -> None:
    values = np.arange(6).reshape(3, 2).astype(dtype)
    dataset = load(values)
    assert dataset.x is values
    assert dataset.y is None
    assert dataset.note == f"3 x 2 {np.dtype(dtype)}, used as they are"


def test_booleans_become_zeros_and_ones() -> None:
    assert load(np.eye(2, dtype=bool)).x.tolist() == [[1, 0], [0, 1]]


def test_images_are_flattened_row_by_row() -> None:
    images = np.arange(5 * 4 * 6, dtype=np.uint8).reshape(5, 4, 6)
    dataset = load(images)
    assert dataset.image_shape == (4, 6)
    assert dataset.x.dtype == np.uint8
    assert all(
        dataset.x[n, 6 * r + c] == images[n, r, c]
        for n in range(5)
        for r in range(4)
        for c in range(6)
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros(3), r"a 1-D array of shape \(3,\);"),
        (np.float64(3.0), "a 0-D array"),
        (np.zeros((2, 2), complex), "complex128"),
        (np.array([["a", "b"]]), "Encode text"),
        (np.array([[None, 1.0]], dtype=object), "object"),
        (np.array([["2020-01-01"]], dtype="M8[D]"), "datetime64"),
        (np.zeros((0, 3)), "empty"),
        (np.zeros((3, 0)), "empty"),
        ([[1.0], [2.0, 3.0]], "inhomogeneous"),
    ],
)
def test_what_is_not_samples_is_refused(values: Any, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        load(values)
    assert "\n" not in str(caught.value)


def test_scaling_is_explicit_and_said() -> None:
    pixels = np.array([[0, 255], [51, 102]], np.uint8)
    dataset = load(pixels, scale=1 / 255)
    assert dataset.x.dtype == np.float32
    np.testing.assert_allclose(dataset.x, [[0, 1], [0.2, 0.4]], rtol=1e-6)
    assert dataset.note == "2 x 2 float32, multiplied by 0.00392157"


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, np.nan, "big"])
def test_a_scale_must_be_positive(scale: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="scale"):
        load(X, scale=scale)


def test_a_condition_makes_the_source_the_target() -> None:
    dataset = load(X, given=X[:, :2] + 1)
    np.testing.assert_array_equal(dataset.x, X[:, :2] + 1)
    assert dataset.y is X


def test_names_are_those_of_the_condition() -> None:
    target, condition = pd.DataFrame(X, columns=list("abc")), pd.DataFrame(X, columns=list("uvw"))
    assert load(target, given=condition).names == ("u", "v", "w")
    assert load(target, given=X[:, :2]).names is None


@pytest.mark.parametrize("size", [1e-160, 1e-300, 1.0, 1e149])
def test_numbers_of_any_size_are_standardized(size: float) -> None:
    found = load(X * size, standardize=True).x
    np.testing.assert_allclose(found, (X - X.mean(0)) / X.std(0), rtol=1e-12)


def test_what_varies_by_rounding_alone_is_constant() -> None:
    """Brought to a std of 1, it would be a mode of the data."""
    sums = np.array([0.3, 0.1 + 0.2, 0.3])
    assert np.ptp(sums) > 0
    found = load(np.stack([sums, np.add(sums, [0, 1e-10, 0])], axis=1), standardize=True)
    np.testing.assert_allclose(found.x.std(0), [0, 1], atol=1e-9)
    assert found.note.endswith("but for 1 constant column")


BAD_PARTS = {
    "masked": ({"x": np.ma.masked_less(X, 0)}, "^x: got masked values"),
    "objects": ({"x": X.astype(object)}, "^x: got dtype object"),
    "one dimension": ({"x": X[:, 0]}, "^x: got a 1-D array"),
    "other targets": ({"x": X, "y": X[:4]}, "^x and y: got 6 and 4 samples"),
    "flat targets": ({"x": X, "y": X[:, 0]}, "^y: got a 1-D array"),
    "other labels": ({"x": X, "labels": [1, 2]}, "^x and labels: got 6 and 2 samples"),
    "other names": ({"x": X, "names": ("a", "b")}, "^names: got 2; expected 3"),
    "other images": ({"x": X, "image_shape": (2, 2)}, "^image_shape: got .2, 2.; .* 3 numbers"),
}


@pytest.mark.parametrize("case", BAD_PARTS)
def test_a_dataset_is_checked_however_it_is_made(case: str) -> None:
    parts, words = BAD_PARTS[case]
    with pytest.raises(DataError, match=words):
        Dataset("mine", **parts)
    if set(parts) != {"x"}:
        with pytest.raises(DataError, match=words):
            replace(Dataset("mine", X), **parts)


def test_a_dataset_takes_whatever_holds_numbers() -> None:
    made = Dataset("mine", X.tolist(), labels=[0, 1, 1, 0, 2, 2])
    np.testing.assert_array_equal(made.x, X)
    assert made.select(1).x.shape == (2, 3)
    images = Dataset("mine", np.arange(24.0).reshape(2, 3, 4))
    assert images.image_shape == (3, 4)
    np.testing.assert_array_equal(images.x, np.arange(24.0).reshape(2, 12))


@pytest.mark.parametrize("seed", [-1, None, "a", 1.5])
def test_drawn_pairs_have_a_seed(seed: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^seed: got"):
        pairs(0.5, seed=seed)
    np.testing.assert_array_equal(pairs(np.float32(0.5)).x, pairs("1/2").x)


def test_a_condition_of_another_length_is_refused() -> None:
    with pytest.raises(DataError, match="the target and given: got 6 and 5 samples"):
        load(X, given=X[:5])


def test_a_condition_for_pairs_is_refused() -> None:
    with pytest.raises(DataError, match="a target of its own"):
        load("pairs:random", given=X)


def test_a_condition_and_a_label(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X, labels=[0, 1, 1, 0, 2, 2])
    dataset = load(tmp_path / "d.npz", given=X * 2, label=1)
    assert dataset.y is not None
    np.testing.assert_array_equal(dataset.x, 2 * dataset.y)
    np.testing.assert_array_equal(dataset.y, X[1:3])


def test_npy_stays_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, X.reshape(6, 3, 1))
    dataset = load(str(path))
    assert isinstance(dataset.x, np.memmap)
    assert not dataset.x.flags.writeable
    np.testing.assert_array_equal(dataset.x, X)
    assert (dataset.name, dataset.image_shape) == ("x.npy", (3, 1))


def test_npy_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.array([[{}]], dtype=object))
    with pytest.raises(DataError, match="Python objects"):
        load(path)


def test_npy_that_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, X)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CorruptFileError, match=r"x\.npy"):
        load(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".parquet"])
@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "an empty file"), (b"\n<!DOCTYPE html>\n<html></html>", "an HTML page")],
)
def test_files_that_hold_no_data(tmp_path: Path, suffix: str, content: bytes, words: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=words):
        load(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet"])
def test_files_of_noise(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(bytes(range(256)) * 4)
    with pytest.raises(CorruptFileError) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_npz_with_x_y_and_labels(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, x=X, y=X[:, :1], labels=np.arange(6))
    dataset = load(path)
    assert dataset.y is not None
    assert dataset.labels is not None
    np.testing.assert_array_equal(dataset.x, X)
    np.testing.assert_array_equal(dataset.y, X[:, :1])
    np.testing.assert_array_equal(dataset.labels, np.arange(6))


def test_npz_with_x_and_a_class_per_row(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X, y=np.arange(6) % 2)
    found = load(tmp_path / "d.npz")
    assert found.y is None
    np.testing.assert_array_equal(found.labels, np.arange(6) % 2)
    np.testing.assert_array_equal(load(tmp_path / "d.npz", label=1).x, X[1::2])
    np.savez(tmp_path / "d.npz", x=X, y=np.arange(4))
    with pytest.raises(DataError, match=r"x and y of d\.npz: got 6 and 4 samples"):
        load(tmp_path / "d.npz")


def test_npz_with_one_array_of_any_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", latents=X)
    np.testing.assert_array_equal(load(tmp_path / "d.npz").x, X)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": X, "b": X}, r"the arrays \['a', 'b'\]"),
        ({"x": X, "y": X[:4]}, r"x and y of d\.npz: got 6 and 4 samples"),
        ({"x": X, "labels": np.zeros(2)}, r"x and labels of d\.npz: got 6 and 2 samples"),
        ({"x": X, "labels": X}, r"one label per sample"),
        ({"x": np.array([[{}]], dtype=object)}, "Python objects"),
    ],
)
def test_npz_that_does_not_fit(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=words):
        load(tmp_path / "d.npz")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv(tmp_path: Path, delimiter: str, header: bool, mark: str) -> None:
    names = [delimiter.join("abc")] if header else []
    rows = names + [delimiter.join(map(repr, row)) for row in X.tolist()]
    path = tmp_path / "x.csv"
    path.write_text(mark + "\n".join(rows) + "\n\n", encoding="utf-8")
    dataset = load(path)
    np.testing.assert_array_equal(dataset.x, X)
    assert dataset.labels is None


@pytest.mark.parametrize(
    ("cells", "labels"), [("30", [3, 0]), (["1.5", "2"], [1.5, 2.0]), ("uv", ["u", "v"])]
)
def test_csv_with_labels(tmp_path: Path, cells: list[str], labels: list[object]) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f'"a, first",label,b\n1,{cells[0]},2\n3,{cells[1]},4\n')
    dataset = load(path)
    np.testing.assert_array_equal(dataset.x, [[1, 2], [3, 4]])
    assert dataset.labels is not None
    assert dataset.labels.tolist() == labels
    np.testing.assert_array_equal(load(path, label=labels[1]).x, [[3, 4]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,colour\n1,2\n3,red\n", r"column 'colour' of x\.csv: got 'red' in row 3"),
        ("1,2\n3,\n", r"column '2' of x\.csv: got an empty cell in row 2"),
        ("red,2\n", r"column '1' of x\.csv: got 'red' in row 1"),
        ("a,b\n", "a header alone"),
        ("label\n1\n", "no column but the label"),
        ("1,2\n3,4,5\n", "3 cells in row 2; expected 2"),
        ("a,label\n1,2\n3,4,5\n", "3 cells in row 3; expected 2"),
        ("a,label\n1,2\n3\n", "1 cells in row 3; expected 2"),
    ],
)
def test_csv_that_is_no_table_of_numbers(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        load(path)


def test_csv_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes("größe,b\n1,2\n".encode("utf-16"))
    with pytest.raises(CorruptFileError, match="UTF-8"):
        load(path)


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    columns = {"a": X[:, 0], "b": X[:, 1].astype("f4"), "label": list("uvuvuv")}
    parquet.write_table(pyarrow.table(columns), path)
    dataset = load(path, label="v")
    np.testing.assert_allclose(dataset.x, X[1::2, :2], rtol=1e-7)
    parquet.write_table(pyarrow.table({"a": X[:, 0], "on": [True, False] * 3}), path)
    assert load(path).x[:, 1].tolist() == [1, 0] * 3
    parquet.write_table(pyarrow.table({"a": X[:, 0], "on": [True, None] * 3}), path)
    with pytest.raises(DataError, match=r"column 'on' of x\.parquet: got nan at row 1"):
        load(path)
    parquet.write_table(pyarrow.table({"a": [1, 2], "colour": ["red", "blue"]}), path)
    with pytest.raises(DataError, match=r"column 'colour' of x\.parquet: got text"):
        load(path)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    without(monkeypatch, "pyarrow")
    with pytest.raises(
        MissingDependencyError, match=r"pip install 'posterior-collapse\[parquet\]'"
    ):
        load(tmp_path / "x.parquet")


def test_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "train.npy").touch()
    with pytest.raises(MissingFileError, match=r"no such file.*Did you mean 'train\.npy'"):
        load(tmp_path / "trian.npy")
    with pytest.raises(FileNotFoundError):
        load("elsewhere/x.csv")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(DataError, match=r"x\.csv: got a folder"):
        load(tmp_path / "x.csv")


def test_an_unknown_suffix(tmp_path: Path) -> None:
    (tmp_path / "x.mat").write_bytes(b"data")
    with pytest.raises(DataError, match=r"the suffix '\.mat'; expected one of \.npy, \.npz"):
        load(tmp_path / "x.mat")


@pytest.mark.parametrize(
    ("name", "meant"), [("minst", "mnist"), ("digit", "digits"), ("fashion", "fashion-mnist")]
)
def test_an_unknown_name(name: str, meant: str) -> None:
    with pytest.raises(UnknownDatasetError, match=f"Did you mean '{meant}'"):
        load(name)


@pytest.mark.parametrize("source", ["digits", "pairs:random", X])
def test_a_split_that_is_not_there(source: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="split"):
        load(source, split="test")


def test_a_dataset_passes_through() -> None:
    dataset = Dataset("mine", X, labels=np.arange(6))
    assert load(dataset) is dataset
    assert load(dataset, scale=2.0).note == "6 x 3 float64, multiplied by 2"


def test_features_are_called_by_the_columns_that_are_features() -> None:
    frame = pd.DataFrame(X, columns=list("abc"))
    frame.insert(0, "label", list("uvuvuv"))
    for data in (frame, frame.reset_index(), frame.drop(columns="label").reset_index()):
        assert load(data).names == about(data).features == ("a", "b", "c")
        assert columns_of(data) == (("a", "b", "c"),)


def test_a_lazy_frame_is_not_asked_for_its_columns() -> None:
    class Lazy:
        """That of polars, as far as it is looked at, which warns of what that may cost."""

        collect_schema = None

        @property
        def columns(self) -> list[str]:
            pytest.fail("asked for its columns")

    assert about(Lazy()).features is None


def test_columns_of_the_same_name_are_columns_each() -> None:
    frame = pd.DataFrame(X, columns=["a", "b", "a"])
    np.testing.assert_array_equal(load(frame).x, X)


def test_data_frames_and_tensors() -> None:
    class Frame:
        """The part of a data frame that is used, so that no such library is needed."""

        columns = ("a", "label")

        def __getitem__(self, name: str) -> Frame:
            return self

        def to_numpy(self) -> np.ndarray[Any, Any]:
            return np.arange(3)

    dataset = load(Frame())
    assert dataset.x.tolist() == [[0], [1], [2]]
    assert dataset.labels is not None
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(load(torch.tensor(X)).x, X)
    np.testing.assert_array_equal(load(torch.tensor(X, requires_grad=True)).x, X)
