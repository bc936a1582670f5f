"""Tensors and single-cell data in files: what they hold, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import sparse

import posterior_collapse as pc
from commands import command
from libraries import without
from posterior_collapse.arrays import SparseRows
from posterior_collapse.data import load
from posterior_collapse.errors import (
    CorruptFileError,
    DataError,
    InvalidArgumentError,
    MissingDependencyError,
    MissingFileError,
)

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((6, 3))
GREY = RANDOM.integers(0, 256, (5, 4, 6), np.uint8)


# Tensors.


def test_tensors_in_safetensors_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file = pytest.importorskip("safetensors.numpy").save_file
    path = tmp_path / "x.safetensors"
    save_file({"weights": X.astype("f4")}, path)
    np.testing.assert_array_equal(load(path).x, X.astype("f4"))
    save_file({"a": X, "images": GREY}, path)
    found = load(path, key="images")
    np.testing.assert_array_equal(found.x, GREY.reshape(5, 24))
    assert found.image_shape == (4, 6)
    with pytest.raises(DataError, match=r"the arrays \['a', 'images'\].*key='NAME'"):
        load(path)
    save_file({"x": X, "y": X[:, :1], "labels": np.arange(6)}, path)
    assert load(path).y is not None
    for content in (path.read_bytes()[:-9], bytes(range(256)), b"\xff" * 8 + b"{}"):
        path.write_bytes(content)
        with pytest.raises(CorruptFileError, match=r"x\.safetensors"):
            load(path)
    without(monkeypatch, "safetensors")
    with pytest.raises(MissingDependencyError, match="pip install safetensors"):
        load(path)


def test_kinds_of_numbers_that_numpy_lacks_are_said(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "x.safetensors"
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file({"x": torch.ones(3, 2, dtype=torch.bfloat16)}, path)
    with pytest.raises(CorruptFileError, match="bfloat16 as float32"):
        load(path)


class Bomb:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was run",))


@pytest.mark.parametrize("kind", ["pickle", "archive of torch"])
@pytest.mark.parametrize("ending", [".pt", ".pth", ".pkl"])
def test_no_file_that_may_run_code_is_read(tmp_path: Path, capsys, ending: str, kind: str) -> None:
    import pickle

    path = tmp_path / f"model{ending}"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    else:
        pytest.importorskip("torch").save({"bomb": Bomb()}, path)
    with pytest.raises(DataError, match=r"a pickle, .*numpy\.save\('x\.npy', x\.numpy\(\)\)"):
        load(path)
    with pytest.raises(MissingFileError):
        load(tmp_path / f"other{ending}")
    for name, action in (("forecast", "numpy.save("), ("diagnose", "pc.diagnose(model, data)")):
        code, said = command(capsys, name, path)
        assert code == 2
        assert "got a pickle, which may run code when it is read" in said
        assert action in said


# Single-cell data.

COUNTS = np.arange(240).reshape(6, 40)


class Group(dict):  # type: ignore[type-arg]
    """A group of an HDF5 file, as far as it is looked at; arrays stand for its data sets."""

    def __init__(self, **members: Any) -> None:
        super().__init__(members)
        self.attrs: dict[str, Any] = {}


def filled(group: Any, x: Any, new: Any) -> Any:
    """Write a matrix, and beside it a layer and columns, as AnnData does."""

    def put(where: Any, name: str, matrix: Any) -> None:
        if not sparse.issparse(matrix):
            where[name] = matrix
            return
        inner = new(where, name)
        inner.attrs.update({"encoding-type": f"{matrix.format}_matrix", "shape": matrix.shape})
        for part in ("data", "indices", "indptr"):
            inner[part] = getattr(matrix, part)

    put(group, "X", x)
    put(new(group, "layers"), "counts", COUNTS)
    var = new(group, "var")
    var.attrs["_index"] = "names"
    var["names"] = np.array([f"gene{i}".encode() for i in range(40)], "S8")
    obs = new(group, "obs")
    kind = new(obs, "kind")
    kind["categories"] = np.array([b"B cell", b"T cell"], "S8")
    kind["codes"] = np.array([0, 1, 0, 0, 1, -1], np.int8)
    obs["batch"] = np.array([1, 1, 1, 2, 2, 2])
    return group


def inner_of_dict(group: Any, name: str) -> Group:
    return group.setdefault(name, Group())


@pytest.fixture(params=["a stand-in", "h5py"])
def h5ad(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a matrix as an .h5ad file, or what a stand-in for h5py gives for one."""
    path = tmp_path / "cells.h5ad"

    def write(x: Any, change: Any = None) -> Path:
        if request.param == "h5py":
            with pytest.importorskip("h5py").File(path, "w") as file:
                filled(file, x, lambda group, name: group.create_group(name))
                if change is not None:
                    change(file)
            return path
        path.write_bytes(b"\x89HDF stands for it")
        root = filled(Group(), x, inner_of_dict)
        if change is not None:
            change(root)

        class File:
            def __init__(self, *_: Any) -> None:
                pass

            def __enter__(self) -> Any:
                return root

            def __exit__(self, *_: Any) -> None:
                pass

        monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=File))
        return path

    return write


SPARSE = sparse.random_array((6, 40), density=0.2, random_state=np.random.default_rng(3))


@pytest.mark.parametrize("kind", ["dense", "csr", "csc"])
def test_h5ad(h5ad: Any, kind: str) -> None:
    x = SPARSE.toarray()
    path = h5ad(x if kind == "dense" else SPARSE.asformat(kind))
    found = load(path, label_column="kind")
    np.testing.assert_array_equal(np.asarray(found.x), x)
    assert found.labels is not None
    assert found.labels.tolist() == ["B cell", "T cell", "B cell", "B cell", "T cell", None]
    np.testing.assert_array_equal(load(path, label_column="batch", label=2).x, x[3:])
    assert pc.forecast(load(path), pc.VAESpec(2)).n_active == pc.forecast(x, pc.VAESpec(2)).n_active
    assert load(path, standardize=True).x.shape == (6, 40)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "dia"])
@pytest.mark.parametrize("make", [sparse.csr_array, sparse.csr_matrix])
def test_npz_of_a_sparse_matrix(tmp_path: Path, capsys, kind: str, make: Any) -> None:
    path = tmp_path / "x.npz"
    sparse.save_npz(path, make(SPARSE).asformat(kind))
    found = load(path)
    assert isinstance(found.x, SparseRows)
    np.testing.assert_array_equal(np.asarray(found.x), SPARSE.toarray())
    few = load(path, columns="3,1", label_column="2")
    np.testing.assert_array_equal(np.asarray(few.x), SPARSE.toarray()[:, [0, 2]])
    np.testing.assert_array_equal(few.labels, SPARSE.toarray()[:, 1])
    assert command(capsys, "forecast", path, "--latents", "2")[0] == 0


def test_labels_of_h5ad_some_of_which_lack(h5ad: Any) -> None:
    def nullable(file: Any) -> None:
        column = file["obs"].create_group("day") if hasattr(file, "create_group") else Group()
        column["values"], column["mask"] = np.arange(6), np.arange(6) == 4
        if not hasattr(file, "create_group"):
            file["obs"]["day"] = column

    found = load(h5ad(SPARSE.tocsr(), nullable), label_column="day")
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2, 3, None, 5]
    assert "labels 0, 1, 2, 3, 5" in repr(found)
    with pytest.raises(DataError, match="label: got 9; expected one of 0, 1, 2, 3, 5"):
        load(h5ad(SPARSE.tocsr(), nullable), label_column="day", label=9)


def test_layers_and_columns_of_h5ad(h5ad: Any) -> None:
    path = h5ad(SPARSE.tocsr())
    found = load(path, key="counts")
    np.testing.assert_array_equal(found.x, COUNTS)
    assert "layer 'counts'" in found.note
    assert found.names == load(path).names == tuple(f"gene{i}" for i in range(40))
    assert load(path, columns="gene2,gene0").names == ("gene0", "gene2")
    with pytest.raises(InvalidArgumentError, match=r"key: got 'count'.*Did you mean 'counts'"):
        load(path, key="count")
    with pytest.raises(InvalidArgumentError, match=r"label_column: got 'knid'.*mean 'kind'"):
        load(path, label_column="knid")
    with pytest.raises(InvalidArgumentError, match=r"columns: got 'a'; .* 'gene2'"):
        load(path, columns="a")
    np.testing.assert_array_equal(
        np.asarray(load(path, columns="gene2,gene0", label_column="kind").x),
        SPARSE.toarray()[:, [0, 2]],
    )


def test_h5ad_that_is_damaged(h5ad: Any, tmp_path: Path) -> None:
    def beyond(file: Any) -> None:
        file["X"]["indices"][0] = 4_000_000

    def kindless(file: Any) -> None:
        file["X"].attrs["encoding-type"] = "other"

    def headless(file: Any) -> None:
        del file["X"]

    def nameless(file: Any) -> None:
        del file["var"]

    def misnamed(file: Any) -> None:
        del file["var"]["names"]
        file["var"]["names"] = np.array([b"gene0"], "S8")

    assert load(h5ad(SPARSE.tocsr(), nameless)).names is None
    for change in (beyond, kindless, headless, misnamed):
        with pytest.raises(CorruptFileError, match=r"cells\.h5ad"):
            load(h5ad(SPARSE.tocsr(), change))


def test_h5ad_without_h5py_and_of_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.h5ad"
    path.write_bytes(bytes(range(256)) * 9)
    if "h5py" in sys.modules:
        with pytest.raises(CorruptFileError, match=r"x\.h5ad"):
            load(path)
    without(monkeypatch, "h5py")
    with pytest.raises(MissingDependencyError, match="pip install h5py"):
        load(path)


def test_annotated_objects() -> None:
    class Annotated:
        X, layers, obs = SPARSE.tocsr(), {"counts": SPARSE.tocsr() * 2}, None
        var_names = tuple(f"gene{i}" for i in range(40))

        def __getitem__(self, index: Any) -> Any:  # NumPy would ask for items without end
            raise AssertionError("asked for items")

    values: Any = Annotated()
    np.testing.assert_array_equal(np.asarray(load(values).x), SPARSE.toarray())
    np.testing.assert_array_equal(np.asarray(load(values, key="counts").x), 2 * SPARSE.toarray())
    np.testing.assert_array_equal(
        np.asarray(load(values, columns=["gene3"]).x), SPARSE.toarray()[:, [3]]
    )
    values.obs = pytest.importorskip("pandas").DataFrame({"kind": list("aabbcc")})
    np.testing.assert_array_equal(
        load(values, label_column="kind", label="b").x, SPARSE.toarray()[2:4]
    )
    with pytest.raises(InvalidArgumentError, match="key: got 'raw'"):
        load(values, key="raw")
