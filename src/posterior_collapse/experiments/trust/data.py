"""Data that the study of trust adds: the counts of single cells, and drawn clusters."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.arrays import Float
from posterior_collapse.data import Dataset
from posterior_collapse.data.published import checksum, own_folders
from posterior_collapse.data.stored import require_h5py
from posterior_collapse.errors import CorruptFileError, MissingFileError

__all__ = ["NAMES", "cells", "clusters", "knows", "load"]

CELLS, CLUSTERS = "cells", "clusters"
NAMES = {
    CELLS: "single cells, log of 1 + counts per 10,000",
    f"{CELLS}:on": "single cells, genes on or off",
    f"{CELLS}:counts": "single cells, counts",
    CLUSTERS: "drawn clusters",
    f"{CLUSTERS}:counts": "counts from drawn clusters",
}
"""What `load` knows, in words."""

FILE = "10x_pbmc68k_reduced.h5ad"
SHA256 = "e71d41e737c941559b7c57c9243bdb3d2c889c2adfdf00e3422ac6b46783676f"
PACKAGE = "scanpy"
GENES = 200
"""The genes of most varied logs: fewer than the cells, so that not every direction is noise."""
PER_CELL = 10_000
"""Counts to which the published file scales each cell."""

CENTRES, DIM, ROWS = 8, 32, 2000


def knows(name: str) -> bool:
    """Whether a name is one of these data's.

    Example:
        >>> knows("clusters"), knows("cells:off")
        (True, False)
    """
    return name in NAMES


def load(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Return data by name.

    Args:
        name: One of `NAMES`.
        data_dir: Where to look for the file of single cells first.

    Raises:
        MissingFileError: The single cells are nowhere.
        CorruptFileError: Another file has their name.
        MissingDependencyError: h5py, which reads it, is not installed.

    Example:
        >>> len(load("clusters")), load("clusters").x.shape[1]
        (2000, 32)
    """
    kind, _, form = name.partition(":")
    if kind == CLUSTERS:
        return Dataset(name, clusters(counts=form == "counts"))
    x, steps = _form(cells(data_dir), form)
    return Dataset(name, x, steps=steps)


def clusters(*, counts: bool = False) -> Float:
    """Return rows about eight centres of 32 dimensions, in which a unit can serve two directions.

    Args:
        counts: Draw counts whose mean rates are exp of the rows' half, instead of the rows.

    Returns:
        Shape (2000, 32).
    """
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CENTRES, DIM))
    rows = centres[rng.integers(CENTRES, size=ROWS)] + 0.3 * rng.standard_normal((ROWS, DIM))
    return rng.poisson(np.exp(rows / 2)).astype(np.float64) if counts else rows


def cells(data_dir: str | os.PathLike[str] | None = None) -> NDArray[np.float64]:
    """Return the counts of 765 genes in 700 blood cells (Zheng et al. 2017, as in scanpy).

    The file keeps log(1 + count x 10,000 / total): in each cell the least above 0 is one count, so
    that the counts follow.

    Args:
        data_dir: Where to look first.

    Returns:
        Shape (700, 765), whole numbers.

    Raises:
        MissingFileError: The file is nowhere.
        CorruptFileError: Another file has its name.
        MissingDependencyError: h5py is not installed.
    """
    path = next(_places(data_dir), None)
    if path is None:
        raise MissingFileError(
            FILE, "nowhere", "the file that scanpy ships",
            "Run pip install --no-deps scanpy, or put the file into data_dir.",
        )  # fmt: skip
    if (found := checksum(path)) != SHA256:
        raise CorruptFileError(
            str(path), f"SHA-256 {found}", f"{SHA256}, that of the published file", "Get it again."
        )
    h5py = require_h5py()
    from scipy import sparse

    with h5py.File(path, "r") as file:
        data, indices, indptr = (file["raw.X"][part][()] for part in ("data", "indices", "indptr"))
        shape = (len(file["obs"]), len(file["raw.var"]))
    scaled = np.expm1(sparse.csr_matrix((data, indices, indptr), shape).toarray().astype(float))
    one = np.where(scaled > 0, scaled, np.inf).min(axis=1, keepdims=True)
    return np.asarray(np.rint(scaled / one))


def _places(data_dir: str | os.PathLike[str] | None) -> Iterator[Path]:
    folders = [place / sub for place in own_folders(data_dir) for sub in (CELLS, ".")]
    package = importlib.util.find_spec(PACKAGE)
    if package is not None and package.origin is not None:
        folders.append(Path(package.origin).parent / "datasets")
    return (path for folder in folders if (path := folder / FILE).is_file())


def _form(counts: Float, form: str) -> tuple[Float, tuple[str, ...]]:
    logs = np.log1p(PER_CELL * counts / counts.sum(axis=1, keepdims=True))
    chosen = np.sort(np.argsort(-logs.var(axis=0), kind="stable")[:GENES])
    steps = (f"the {GENES} genes of most varied logs",)
    if form == "counts":
        return counts[:, chosen], steps
    if form == "on":
        return (counts[:, chosen] > 0).astype(np.float64), (*steps, "1 where counted")
    return logs[:, chosen], (*steps, f"log of 1 + counts per {PER_CELL:,}")
