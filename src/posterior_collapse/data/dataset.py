"""Samples in rows, in words what was done to them; the conditional tasks, and drawn pairs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from posterior_collapse import checks
from posterior_collapse.arrays import (
    CONSTANT,
    Array,
    as_samples,
    chunks,
    is_lazy,
    refuse_non_finite,
    same_length,
)
from posterior_collapse.data.checking import check_room
from posterior_collapse.errors import DataError, InvalidArgumentError, count_of, nearest

MOST_LISTED = 12
TINIEST = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Samples in rows, with targets and labels where there are any.

    Args:
        name: The registry name, the file name, or ``"array"``.
        x: Inputs, shape (samples, d_x), any real dtype; the condition where there is a target.
        y: Targets, shape (samples, d_y); None means y = x, an autoencoder.
        labels: The class of each sample, shape (samples,).
        image_shape: Shape of one whole image, before a task cut it; None if not images.
        task: The cut that made x and y out of images: ``"quarter"``, ``"half"`` or None.
        steps: What was done to the numbers, in order, in words.
        names: What the columns of x are called, one each; None: they have no names.
        asked: With which arguments `load` reads them again; None: values were passed, or changed
            since.

    Raises:
        DataError: x or y are no samples of real numbers, or the parts do not belong together.

    Example:
        >>> Dataset("toy", np.zeros((4, 2)), labels=np.array([0, 1, 0, 1]))
        <Dataset 'toy': 4 x 2 float64, used as they are; labels 0, 1>
    """

    name: str
    x: NDArray[Any]
    y: NDArray[Any] | None = None
    labels: NDArray[Any] | None = None
    image_shape: tuple[int, ...] | None = None
    task: Literal["quarter", "half"] | None = None
    steps: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None
    asked: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        x, shape = as_samples("x", self.x, empty_ok=self.y is not None)
        object.__setattr__(self, "x", x)
        if self.y is not None:
            object.__setattr__(self, "y", as_samples("y", self.y)[0])
            same_length("x", len(x), "y", len(self.y))
        if self.labels is not None:
            object.__setattr__(self, "labels", np.asarray(self.labels))
            same_length("x", len(x), "labels", len(self.labels))
        if self.image_shape is None and self.y is None:
            object.__setattr__(self, "image_shape", shape)
        self._check_columns()

    def _check_columns(self) -> None:
        """Refuse names and an image's shape of another number of columns than there are."""
        columns = self.x.shape[1]
        if self.names is not None and len(self.names) != columns:
            raise DataError(
                "names", f"{len(self.names)}", f"{columns}, one per column", "Check them."
            )
        if self.task is not None and self.y is not None:
            columns += self.y.shape[1]
        elif self.y is not None:
            return  # of which x and y have a part that is their own affair
        if self.image_shape is not None and math.prod(self.image_shape) != columns:
            raise DataError(
                "image_shape", f"{self.image_shape}", f"the sides of {columns} numbers",
                "Check the shape of one image.",
            )  # fmt: skip

    @property
    def note(self) -> str:
        """The size of the numbers and what was done to them, in one line.

        Example:
            >>> Dataset("toy", np.zeros((4, 2)), steps=("pixels divided by 16",)).note
            '4 x 2 float64, pixels divided by 16'
        """
        size = _size(self.x)
        if self.y is not None:
            size = f"x {size}, y {_size(self.y)}"
        return ", ".join([size, *(self.steps or ("used as they are",))])

    @property
    def decoded_shape(self) -> tuple[int, ...] | None:
        """Shape of what is decoded, if it is an image: three quarters of one are none.

        Example:
            >>> Dataset("toy", np.zeros((4, 6)), image_shape=(2, 3)).decoded_shape
            (2, 3)
        """
        shape = self.image_shape
        if shape is None or (self.y is not None and self.task != "half"):
            return None
        if self.task == "half":  # of images with one channel, first or last
            height, width = _without_channel(shape)
            return height // 2, width
        return shape

    @property
    def decoded_names(self) -> tuple[str, ...] | None:
        """What is decoded by name: the columns of x, where there is no other target."""
        return self.names if self.y is None else None

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        parts = [self.note]
        if self.labels is not None:
            parts.append(f"labels {_listing(self.labels)}")
        if self.image_shape is not None:
            parts.append(f"images {' x '.join(map(str, self.image_shape))}")
        return f"<Dataset {self.name!r}: {'; '.join(parts)}>"

    def select(self, label: object) -> Dataset:
        """Return the samples of one class.

        Args:
            label: The class, as it stands in ``labels``; its text form works too.

        Raises:
            DataError: There are no labels, or no sample has this one.

        Example:
            >>> Dataset("toy", np.eye(3), labels=np.array([0, 1, 1])).select(1)
            <Dataset 'toy': 2 x 3 float64, label 1 only; labels 1>
        """
        if self.labels is None:
            raise DataError(
                "label", repr(label), f"labels in {self.name!r}", "Leave the label away."
            )
        keep = _equal(self.labels, label)
        if not keep.any():
            present = _listing(self.labels)
            raise DataError("label", repr(label), f"one of {present}", "Pass a label that occurs.")
        return replace(self.rows(keep), steps=(*self.steps, f"label {label} only"))

    def rows(self, kept: NDArray[np.bool_]) -> Dataset:
        """Return some of the samples."""
        y, labels = (None if v is None else v[kept] for v in (self.y, self.labels))
        return replace(self, x=self.x[kept], y=y, labels=labels, asked=None)

    def scaled(self, factor: float) -> Dataset:
        """Return all numbers times ``factor``; integers of 8 or 16 bits become float32.

        Raises:
            InvalidArgumentError: The factor is not a positive number.

        Example:
            >>> Dataset("toy", np.full((2, 2), 255, np.uint8)).scaled(0.5)
            <Dataset 'toy': 2 x 2 float32, multiplied by 0.5>
        """
        number = checks.positive("scale", factor)
        return self._mapped(np.multiply, number, f"multiplied by {number:g}")

    def divided(self, divisor: float) -> Dataset:
        """Return images whose pixels are divided by ``divisor``, the largest pixel value.

        Example:
            >>> Dataset("toy", np.full((2, 2), 255, np.uint8)).divided(255)
            <Dataset 'toy': 2 x 2 float32, pixels divided by 255>
        """
        return self._mapped(np.divide, divisor, f"pixels divided by {divisor:g}")

    def standardized(self, like: Dataset | None = None) -> Dataset:
        """Return columns less their mean, divided by their std; constant ones become 0.

        Args:
            like: Whose means and stds are taken, such as the data trained on; None: its own.

        Raises:
            DataError: A value is not finite, or the result takes too much memory.

        Example:
            >>> found = Dataset("toy", np.array([[1.0, 5], [3, 5]])).standardized()
            >>> found.x.tolist(), found.steps
            ([[-1.0, 0.0], [1.0, 0.0]], ('standardized, but for 1 constant column',))
        """
        like = self if like is None else like
        x, constant = _standardized("x", self.x, like.x)
        y = None
        if self.y is not None and like.y is not None:
            y, more = _standardized("y", self.y, like.y)
            constant += more
        step = "standardized"
        if constant:
            step += f", but for {count_of(constant, 'constant column')}"
        return replace(self, x=x, y=y, steps=(*self.steps, step), asked=None)

    def at_hand(self) -> Dataset:
        """Return the data themselves where they are dask arrays, which only say how to get them.

        Raises:
            DataError: They take too much memory.
        """
        lazy = [v for v in (self.x, self.y) if v is not None and is_lazy(v)]
        if not lazy:
            return self
        check_room(self.name, sum(values.nbytes for values in lazy))
        y = None if self.y is None else np.asarray(self.y)
        return replace(self, x=np.asarray(self.x), y=y)

    def _mapped(self, operation: np.ufunc, number: float, step: str) -> Dataset:
        def apply(values: NDArray[Any]) -> NDArray[Any]:
            dtype = np.result_type(values.dtype, np.float32)
            if not is_lazy(values):
                check_room(self.name, len(values) * values.shape[1] * dtype.itemsize)
            result: NDArray[Any] = operation(values, dtype.type(number), dtype=dtype)
            return result

        y = None if self.y is None else apply(self.y)
        return replace(self, x=apply(self.x), y=y, steps=(*self.steps, step), asked=None)


def _standardized(name: str, values: Array, like: Array) -> tuple[Array, int]:
    """Return columns by the means and stds of others, and how many of these are constant.

    The data, perhaps on disk, are read a piece at a time; the result is in memory.
    """
    dtype = np.result_type(values.dtype, np.float32)
    check_room(name, len(values) * values.shape[1] * dtype.itemsize)
    least = np.full(like.shape[1], np.inf)
    most, total, squares = -least, np.zeros(like.shape[1]), np.zeros(like.shape[1])
    for row, (piece,) in chunks(like):
        piece = np.asarray(piece)
        refuse_non_finite(name, piece, row)
        least, most = np.minimum(least, piece.min(0)), np.maximum(most, piece.max(0))
        total += piece.sum(0, dtype=np.float64)
    mean = total / len(like)
    # The mean of equal numbers may differ from them in the last digit.
    constant = most - least <= CONSTANT * np.maximum(np.abs(least), np.abs(most))
    # Squares of numbers of any size fit a float64; a power of 2 does not round them.
    size = np.where(constant, 1, np.exp2(np.floor(np.log2(np.maximum(most - least, TINIEST)))))
    for _, (piece,) in chunks(like):
        squares += (((np.asarray(piece) - mean) / size) ** 2).sum(0)
    std = np.where(constant, 1, np.sqrt(squares / len(like)) * size)
    found = np.empty(values.shape, dtype)
    for row, (piece,) in chunks(values):
        found[row : row + len(piece)] = (np.asarray(piece) - np.where(constant, least, mean)) / std
    return found, int(constant.sum())


def _equal(labels: NDArray[Any], label: object) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = labels.astype(str) == str(label)
    if not same.any():  # 7 for 7.0
        with contextlib.suppress(ValueError):
            same = labels.astype(float) == float(str(label))
    return same


def _size(values: NDArray[Any]) -> str:
    return f"{len(values):,} x {values.shape[1]:,} {values.dtype}"


def _listing(labels: NDArray[Any]) -> str:
    # One that lacks is None, which has no place among the others.
    values = np.unique([label for label in labels.tolist() if label is not None])
    shown = ", ".join(map(str, values[:MOST_LISTED]))
    return shown if len(values) <= MOST_LISTED else f"{shown}, ... ({len(values)} in all)"


def quarter(dataset: Dataset) -> Dataset:
    """Give the bottom-left quarter of each image (x) and ask for the other three (y).

    y holds the top-left, the top-right and the bottom-right quarter, each flattened row by row,
    in that order: 196 and 588 numbers for images of 28 x 28.

    Source: the conditional experiments of Dang et al. 2024 (arXiv:2306.05023).

    Raises:
        DataError: No images, colour images, an odd height or width, or a task was cut before.

    Example:
        >>> image = np.arange(16.0).reshape(1, 16)
        >>> cut = quarter(Dataset("toy", image, image_shape=(4, 4)))
        >>> cut.x
        array([[ 8.,  9., 12., 13.]])
        >>> cut.y
        array([[ 0.,  1.,  4.,  5.,  2.,  3.,  6.,  7., 10., 11., 14., 15.]])
    """
    images, h, w = _images(dataset, "quarter", even_width=True)
    x = _flat(images[:, h:, :w])
    parts = (images[:, :h, :w], images[:, :h, w:], images[:, h:, w:])
    y = np.concatenate([_flat(part) for part in parts], axis=1)
    steps = (*dataset.steps, "quarter task")
    return replace(dataset, x=x, y=y, task="quarter", steps=steps, asked=None)


def half(dataset: Dataset) -> Dataset:
    """Give the top half of each image (x) and ask for the bottom half (y).

    Raises:
        DataError: No images, colour images, an odd height, or a task was cut before.

    Example:
        >>> cut = half(Dataset("toy", np.arange(4.0).reshape(1, 4), image_shape=(2, 2)))
        >>> cut.x, cut.y
        (array([[0., 1.]]), array([[2., 3.]]))
    """
    images, h, _ = _images(dataset, "half", even_width=False)
    x, y = _flat(images[:, :h]), _flat(images[:, h:])
    steps = (*dataset.steps, "half task")
    return replace(dataset, x=x, y=y, task="half", steps=steps, asked=None)


TASKS = {"quarter": quarter, "half": half}


def _flat(images: NDArray[Any]) -> NDArray[Any]:
    return images.reshape(len(images), -1)


def _without_channel(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return (height, width) where the one channel stands first or last."""
    if len(shape) == 3 and 1 in (shape[0], shape[2]):
        return shape[1:] if shape[0] == 1 else shape[:2]
    return shape


def _images(dataset: Dataset, task: str, *, even_width: bool) -> tuple[NDArray[Any], int, int]:
    """Return the images, shape (samples, height, width), and half their height and width."""
    if dataset.y is not None:
        raise DataError(
            dataset.name, "data with a target already", "images alone", f"Leave task={task!r} away."
        )
    if dataset.image_shape is None:
        raise DataError(
            dataset.name,
            "samples of no image shape",
            f"images to cut for the {task} task",
            "Pass an array of shape (samples, height, width).",
        )
    shape = _without_channel(dataset.image_shape)
    odd = len(shape) != 2 or shape[0] % 2 or (even_width and shape[1] % 2)
    if odd:
        sides = "an even height and width" if even_width else "an even height"
        raise DataError(
            dataset.name,
            f"images of shape {dataset.image_shape}",
            f"one channel with {sides} for the {task} task",
            "Crop or pad the images.",
        )
    height, width = shape
    return dataset.x.reshape(-1, height, width), height // 2, width // 2


KINDS = ("identical", "1/2", "1/4", "1/8", "random", "quadratic")
"""The rows of the paper's experiment; any other correlation works too."""


def pairs(kind: str | float = "identical", n: int = 1000, dim: int = 128, seed: int = 4) -> Dataset:
    """Draw pairs (condition x, target y) with y ~ N(0, I), of known correlation.

    One seed gives the same y for every kind. `x = rho y + sqrt(1 - rho^2) noise` has unit
    variance and correlation rho with y, unit by unit: 1 is ``"identical"``, 0 ``"random"``.
    ``"quadratic"`` is `x = y^2 - 1`: uncorrelated with y, and yet not independent of it.

    Source: the correlation experiment of Dang et al. 2024 (arXiv:2306.05023).

    Args:
        kind: ``"identical"``, ``"random"``, ``"quadratic"`` or a correlation in [-1, 1], as a
            number or as text such as ``"1/8"``.
        n: Number of samples.
        dim: Features of x and of y.
        seed: Seed of the one generator that y and then the noise are drawn from.

    Raises:
        InvalidArgumentError: An unknown kind, a correlation out of range, no samples.

    Example:
        >>> pairs("1/8")
        <Dataset 'pairs:1/8': x 1,000 x 128 float64, y 1,000 x 128 float64, drawn with seed 4>
    """
    n, dim = checks.count("n", n), checks.count("dim", dim)
    seed = checks.whole("seed", seed, least=0)
    generator = np.random.default_rng(seed)
    y = generator.standard_normal((n, dim))
    if kind == "quadratic":
        x = y**2 - 1
    else:
        rho = _correlation(kind)
        x = rho * y + math.sqrt(1 - rho**2) * generator.standard_normal((n, dim))
    return Dataset(f"pairs:{kind}", x, y, steps=(f"drawn with seed {seed}",))


def _correlation(kind: str | float) -> float:
    named = {"identical": 1.0, "random": 0.0}
    try:
        if isinstance(kind, str):
            rho = named[kind] if kind in named else float(Fraction(kind))
        else:
            rho = float(kind)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        rho = math.nan
    if not -1 <= rho <= 1:
        raise InvalidArgumentError(
            "pairs",
            repr(kind),
            "'identical', 'random', 'quadratic' or a correlation from -1 to 1",
            f"Pass e.g. '1/8'.{nearest(str(kind), KINDS)}",
        )
    return rho
