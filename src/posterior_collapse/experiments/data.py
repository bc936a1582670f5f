"""The data of runs: by name as everywhere, matrix problems, and what the study of trust adds.

The study adds the counts of single cells, and drawn clusters.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from posterior_collapse import checks
from posterior_collapse.arrays import Float
from posterior_collapse.data import Dataset, load
from posterior_collapse.data.published import checksum, own_folders
from posterior_collapse.data.stored import require_h5py
from posterior_collapse.errors import (
    CorruptFileError,
    DataError,
    MissingFileError,
)
from posterior_collapse.moments import Moments
from posterior_collapse.runs import RunData
from posterior_collapse.theory.verification import CASES

MATRIX = "matrix:"
HELD_OUT = 5
"""One row in so many is kept for testing where a data set has no test split."""
CELLS, CLUSTERS = "cells", "clusters"
STUDY = (CELLS, f"{CELLS}:on", f"{CELLS}:counts", CLUSTERS, f"{CLUSTERS}:counts")
"""Single cells: logs of 1 + counts per 10,000, on or off, counts; clusters, and counts of them."""
FILE = "10x_pbmc68k_reduced.h5ad"
SHA256 = "e71d41e737c941559b7c57c9243bdb3d2c889c2adfdf00e3422ac6b46783676f"
PACKAGE = "scanpy"
GENES = 200
"""The genes of most varied logs: fewer than the cells, so that not every direction is noise."""
PER_CELL = 10_000
"""Counts to which the published file scales each cell."""
CENTRES, DIM, ROWS = 8, 32, 2000


TRAINING = {"mnist": 60_000, "fashion-mnist": 60_000, "digits": 1437, "pairs": 1000}
TRAINING |= {CELLS: 700, CLUSTERS: ROWS}
"""Rows of the training split, by what a name has before its colon."""


def training_rows(data: RunData) -> int:
    """Return how many rows there are to train on, or, of one class, that there are at most.

    Example:
        >>> training_rows(RunData("clusters:counts"))
        2000
    """
    return TRAINING[data.name.partition(":")[0]]


@lru_cache(maxsize=2)  # the splits of the data that is being trained on
def read_samples(
    data: RunData, split: Literal["train", "test"] = "train", data_dir: str | None = None
) -> Dataset:
    """Return the samples of a run's data, the same on every machine.

    Args:
        data: The data.
        split: `"train"` or `"test"`: the published split of MNIST, every fifth row of `digits`,
            the training rows themselves for drawn data.
        data_dir: As for `posterior_collapse.data.load`.

    Raises:
        DataError: The data cannot be found or used.

    Example:
        >>> len(read_samples(RunData("digits"))), len(read_samples(RunData("digits"), "test"))
        (1437, 360)
    """
    if data.name.startswith(MATRIX):
        raise DataError(
            data.name, "a matrix problem, which has moments and no rows", "data of rows",
            "Look at it with collapse verify.",
        )  # fmt: skip
    if data.name == "digits":
        found = load("digits")
        test = np.arange(len(found)) % HELD_OUT == 0
        found = found.rows(test if split == "test" else ~test)
    elif data.name.startswith("pairs:"):
        found = load(data.name)
    elif data.name in STUDY:
        found = study_data(data.name, data_dir)
    else:
        found = load(data.name, split=split, data_dir=data_dir, progress=True)
    y = None if found.y is None else found.y.astype(np.float32)
    found = replace(found, x=found.x.astype(np.float32, copy=False), y=y)
    found = load(found, label=data.label)
    if data.size is not None:
        found = _resized(found, data.size)
    if data.rows is not None and split == "train":
        found = found.rows(np.arange(len(found)) < data.rows)
    return load(found, task=data.task)


@lru_cache(maxsize=2)
def read_moments(data: RunData, center: bool, data_dir: str | None = None) -> Moments:
    """Return the moments of the training split, central or raw.

    Those of a matrix problem are drawn as `collapse verify` draws them with its default seed.
    """
    if data.name.startswith(MATRIX):
        names, name = [case.name for case in CASES], data.name.removeprefix(MATRIX)
        checks.one_of("data", name, names, "Name a case.")
        index = names.index(name)
        return CASES[index].draw(np.random.default_rng([0, index, 0]))[0]
    dataset = read_samples(data, "train", data_dir)
    return Moments.from_arrays(dataset.x, dataset.y, center=center)


def _resized(dataset: Dataset, size: int) -> Dataset:
    """Images of another size, by linear interpolation."""
    height, width = dataset.image_shape or (0, 0)
    images = dataset.x.reshape(-1, height, width)
    resized = zoom(images, (1, size / height, size / width), order=1)
    step = f"resized to {size} x {size}"
    x = resized.reshape(len(images), -1).astype(np.float32)
    return replace(dataset, x=x, image_shape=(size, size), steps=(*dataset.steps, step))


def study_data(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Return data that the study of trust adds, one of `STUDY`; see `cells`.

    Example:
        >>> len(study_data("clusters")), study_data("clusters").x.shape[1]
        (2000, 32)
    """
    kind, _, form = name.partition(":")
    if kind == CLUSTERS:
        return Dataset(name, clusters(counts=form == "counts"))
    counts = cells(data_dir)
    logs = np.log1p(PER_CELL * counts / counts.sum(axis=1, keepdims=True))
    chosen = np.sort(np.argsort(-logs.var(axis=0), kind="stable")[:GENES])
    step = f"the {GENES} genes of most varied logs"
    if form == "counts":
        return Dataset(name, counts[:, chosen], steps=(step,))
    if form == "on":
        x = (counts[:, chosen] > 0).astype(np.float64)
        return Dataset(name, x, steps=(step, "1 where counted"))
    return Dataset(name, logs[:, chosen], steps=(step, f"log of 1 + counts per {PER_CELL:,}"))


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
    that the counts follow. It is looked for in `data_dir` first.
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
