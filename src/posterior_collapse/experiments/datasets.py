"""From the choice of a run to its data, the same on every machine."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.ndimage import zoom

from posterior_collapse.data import Dataset, load, quarter
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.moments import Moments
from posterior_collapse.runs import Choice
from posterior_collapse.theory.verification import CASES

__all__ = ["Data", "moments", "read"]

MATRIX = "matrix:"
HELD_OUT = 5
"""One row in so many is kept for testing where a data set has no test split."""
Split = Literal["train", "test"]


@dataclass(frozen=True)
class Data:
    """Where data come from, for all runs of a sweep.

    Args:
        folder: As `data_dir` of `posterior_collapse.data.load`.
    """

    folder: str | os.PathLike[str] | None = None

    def read(self, choice: Choice, split: Split = "train") -> Dataset:
        """Return the samples of a split; both splits are one where there is nothing to hold out."""
        return read(choice, split, self._folder)

    def moments(self, choice: Choice, center: bool) -> Moments:
        """Return the training data's moments, or those of a matrix problem."""
        return moments(choice, center, self._folder)

    @property
    def _folder(self) -> str | None:
        return None if self.folder is None else os.fspath(self.folder)


@lru_cache(maxsize=2)  # the splits of the data that is being trained on
def read(choice: Choice, split: Split, folder: str | None) -> Dataset:
    """Return the samples that a choice names.

    Args:
        choice: The data.
        split: `"train"` or `"test"`: the published split of MNIST, every fifth row of `digits`,
            the training rows themselves for drawn data.
        folder: Where to look for files.

    Raises:
        DataError: The data cannot be found or used.

    Example:
        >>> len(read(Choice("digits"), "train", None)), len(read(Choice("digits"), "test", None))
        (1437, 360)
    """
    if choice.name == "digits":
        found = _held_out(load("digits"), split)
    elif choice.name.startswith("pairs:"):
        found = load(choice.name)
    else:
        found = load(choice.name, split=split, data_dir=folder, progress=True)
    found = _as_float32(found)
    if choice.label is not None:
        found = found.select(choice.label)
    if choice.size is not None:
        found = _resized(found, choice.size)
    if choice.rows is not None and split == "train":
        found = _rows(found, np.arange(min(choice.rows, len(found))))
    return quarter(found) if choice.task == "quarter" else found


@lru_cache(maxsize=2)
def moments(choice: Choice, center: bool, folder: str | None) -> Moments:
    """Return the moments of the training split, central or raw."""
    if choice.name.startswith(MATRIX):
        return _matrix_moments(choice)
    dataset = read(choice, "train", folder)
    return Moments.from_arrays(dataset.x, dataset.y, center=center)


def _matrix_moments(choice: Choice) -> Moments:
    """The problem of `collapse verify` with its default seed."""
    names = [case.name for case in CASES]
    name = choice.name.removeprefix(MATRIX)
    if name not in names:
        raise InvalidArgumentError("data", repr(choice.name), f"one of {names}", "Name a case.")
    index = names.index(name)
    moments, _ = CASES[index].draw(np.random.default_rng([0, index, 0]))
    return moments


def _held_out(dataset: Dataset, split: Split) -> Dataset:
    test = np.arange(len(dataset)) % HELD_OUT == 0
    return _rows(dataset, np.flatnonzero(test if split == "test" else ~test))


def _rows(dataset: Dataset, index: np.ndarray) -> Dataset:
    return replace(
        dataset,
        x=dataset.x[index],
        y=None if dataset.y is None else dataset.y[index],
        labels=None if dataset.labels is None else dataset.labels[index],
    )


def _as_float32(dataset: Dataset) -> Dataset:
    y = None if dataset.y is None else dataset.y.astype(np.float32)
    return replace(dataset, x=dataset.x.astype(np.float32, copy=False), y=y)


def _resized(dataset: Dataset, size: int) -> Dataset:
    """Images of another size, by linear interpolation."""
    height, width = dataset.image_shape or (0, 0)
    images = dataset.x.reshape(-1, height, width)
    resized = zoom(images, (1, size / height, size / width), order=1)
    step = f"resized to {size} x {size}"
    x = resized.reshape(len(images), -1).astype(np.float32)
    return replace(dataset, x=x, image_shape=(size, size), steps=(*dataset.steps, step))
