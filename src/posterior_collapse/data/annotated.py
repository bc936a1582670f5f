"""Single-cell data in .h5ad files: the matrix X or a layer, dense or sparse, and a label of obs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.arrays import as_samples
from posterior_collapse.data import checking
from posterior_collapse.data.arrays import annotation, as_labels, chosen, refuse_key
from posterior_collapse.data.checking import check_size
from posterior_collapse.data.dataset import Dataset
from posterior_collapse.data.hdf5 import require_h5py
from posterior_collapse.data.reading import Reading
from posterior_collapse.data.sparse import stored_sparse

__all__ = ["read_annotated"]


def read_annotated(path: Path, reading: Reading) -> Dataset:
    """Return the matrix of an .h5ad file, which stays sparse if it is.

    Args:
        path: The file.
        reading: Which layer is meant (None: X), which features by their names in `var`, and which
            column of `obs` holds the labels.

    Raises:
        CorruptFileError: It is damaged, or no .h5ad file.
        DataError: It takes too much memory.
        InvalidArgumentError: It has no such layer or no such column.
        MissingDependencyError: h5py is not installed.
    """
    h5py = require_h5py()
    with (
        checking.reading(path, "an .h5ad file", "Write it again with AnnData."),
        h5py.File(path, "r") as file,
    ):
        return _read(path, file, reading)


def _read(path: Path, file: Any, reading: Reading) -> Dataset:
    key, steps = reading.key, reading.labelled
    if key is None:
        stored = file["X"]
    else:
        layers = file.get("layers", {})
        if key not in layers:
            refuse_key(key, f"a layer of {path.name}", sorted(layers))
        stored, steps = layers[key], (f"layer {key!r}", *steps)
    matrix = _sparse(path, stored) if hasattr(stored, "keys") else _dense(path, stored)
    x, _ = as_samples(path.name, matrix)
    obs = file["obs"]
    names = list(obs.dtype.names or ()) if hasattr(obs, "dtype") else list(obs)
    stored = annotation(path.name, obs, names, reading)
    labels = None if stored is None else as_labels(reading.label, _labels(path, stored), len(x))
    dataset = Dataset(path.name, x, labels=labels, steps=steps)
    if not (reading.columns or reading.drop):
        return dataset
    return chosen(dataset, reading, _features(path, file["var"]), labels=False)


def _features(path: Path, var: Any) -> list[str]:
    """Return the names of the columns of X, as older and newer files hold them."""
    if hasattr(var, "dtype"):
        return [str(name) for name in _labels(path, var[var.dtype.names[0]])]
    index = var.attrs.get("_index", "_index")
    return [str(name) for name in _labels(path, var[index])]


def _dense(path: Path, stored: Any) -> NDArray[Any]:
    check_size(path, stored.size * stored.dtype.itemsize)
    values: NDArray[Any] = stored[()]
    return values


def _sparse(path: Path, stored: Any) -> Any:
    attributes = dict(stored.attrs)
    kind = str(attributes.get("encoding-type", attributes.get("h5sparse_format")))
    shape = attributes.get("shape", attributes.get("h5sparse_shape"))
    return stored_sparse(path, kind[:3], shape, stored)


def _labels(path: Path, stored: Any) -> NDArray[Any]:
    if hasattr(stored, "keys"):  # a category: its names, and a number for each row
        names, codes = _labels(path, stored["categories"]), _labels(path, stored["codes"])
        found: NDArray[Any] = np.array([*names.astype(object), None], dtype=object)[codes]
        return found
    check_size(path, stored.size * stored.dtype.itemsize)
    values = stored[()]
    if values.dtype.kind in "OS":
        values = np.array([v.decode() if isinstance(v, bytes) else v for v in values], object)
    return np.asarray(values)
