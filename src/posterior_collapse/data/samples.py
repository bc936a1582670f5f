"""What data are: rows at hand, or batches that pass by. Asked once, for all that take data.

Libraries are told by what their objects can do, so that none is imported here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from posterior_collapse.arrays import (
    Array,
    ImageShape,
    as_array,
    as_samples,
    check_shape,
    same_length,
)
from posterior_collapse.data.arrays import from_array, is_frame
from posterior_collapse.data.dataset import Dataset
from posterior_collapse.data.loaders import seeded
from posterior_collapse.errors import DataError, listed
from posterior_collapse.specs import Spec, are_specs

Pair = tuple[Any, Any]
Source = Callable[[int, int], Iterator[Any]]
ROWS = 1000
MOST_CLASSES = 10_000
"""Class numbers beyond this are taken for something else."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Rows at hand, in memory or on disk.

    Attributes:
        x: Shape (samples, d_x); the condition where there is a target.
        y: The target, shape (samples, d_y); None: y = x, an autoencoder.
        image_shape: Shape of what is decoded, where it is an image.
        condition_shape: Likewise of x where it is a condition.
    """

    x: Array
    y: Array | None = None
    image_shape: ImageShape | None = None
    condition_shape: ImageShape | None = None

    def batches(self, size: int = ROWS, seed: int = 0) -> Iterator[Pair]:
        """Yield x and y of `size` rows at a time, in order."""
        for start in range(0, len(self.x), size):
            rows = slice(start, start + size)
            yield self.x[rows], None if self.y is None else self.y[rows]

    def collected(self) -> Samples:
        """Return these rows, which are at hand; see `Stream.collected`."""
        return self


class Stream:
    """Batches that pass by: of a loader, a generator, or a library's data set.

    Args:
        data: Where they come from.
        source: Gives an iterator of batches of about so many rows, in the order of a seed.
        conditional: Whether a target is wanted; None: take one where there is one.
        classes: Number of classes, where labels may be the condition; None: found out.

    Attributes:
        is_loader: Whether it is a torch DataLoader, which trains in batches of its own.
    """

    def __init__(
        self, data: Any, source: Source, conditional: bool | None, classes: int | None = None
    ) -> None:
        self.data, self._source = data, source
        self._conditional, self._known = conditional, classes
        self.is_loader = _is_torch(data, "DataLoader")

    def batches(self, size: int = ROWS, seed: int = 0) -> Iterator[Pair]:
        """Yield x and y (None: an autoencoder) as they come, tensors or arrays, not flattened."""
        for x, y in self._pairs(size, seed):
            yield (one_hot(y, self._classes), x) if _is_label(x, y) else (x, y)

    def collected(self) -> Samples:
        """Return all batches, in memory."""
        pairs = list(self._pairs(ROWS, 0))
        if not pairs:
            raise DataError("data", "no rows", "at least one batch", "Check the loader.")
        xs, ys = zip(*pairs, strict=True)
        x = np.concatenate([as_array("x", part) for part in xs])
        y = None if ys[0] is None else np.concatenate([as_array("y", part) for part in ys])
        return as_pair(x, y, self._conditional, self._known)

    @cached_property
    def _classes(self) -> int:
        names = getattr(getattr(self.data, "dataset", self.data), "classes", None)
        if self._known is None and names is not None:
            self._known = len(names)
        if self._known is not None:
            return self._known
        if isinstance(self.data, Iterator):
            raise DataError(
                "labels",
                "an iterator, which can be read once",
                "data that can be read twice, to count the classes",
                "Pass a list or a loader, or pairs (one-hot label, x).",
            )
        # One pass, since a batch need not have all classes.
        counts = [one_hot(y).shape[1] for _, y in self._pairs(ROWS, 0)]
        return int(max(counts))

    def _pairs(self, size: int, seed: int) -> Iterator[Pair]:
        """Yield x and y, labels as they are, or without them for an autoencoder."""
        row, widths, empty = 0, None, None
        for item in self._source(size, seed):
            x, y = _parts(item)
            x = _numbers("x", x)
            if _is_label(x, y):
                y = y if self._conditional else None
            elif y is not None:
                y = _numbers("y", y)
                one_column = int(np.prod(y.shape[1:])) == 1
                if self._conditional is False and (one_column or "float" not in str(y.dtype)):
                    y = None  # beside an autoencoder's data, no target
            if x.ndim > 1 and len(x) == 0 and (y is None or len(y) == 0):
                empty = x
                continue
            check_shape("x", x.shape, empty_ok=y is not None)
            found = [int(np.prod(x.shape[1:]))]
            if y is not None and not _is_label(x, y):
                check_shape("y", y.shape)
                same_length("x", len(x), "y", len(y))
                found.append(int(np.prod(y.shape[1:])))
            widths = widths or found
            if found != widths:
                raise DataError(
                    f"batch starting at row {row}",
                    f"features {found}",
                    f"{widths}, as in the first batch",
                    "Check the loader.",
                )
            yield x, y
            row += len(x)
        if row == 0 and empty is not None:
            check_shape("x", empty.shape)


def read(
    data: Any, conditional: bool | None = False, classes: int | None = None
) -> Samples | Stream:
    """Say what data are: the kinds that `forecast`, `fit` and `diagnose` all take.

    * rows: an array (samples, features), or (samples, ...) of images; nested lists; a tensor of
      torch or jax; a data frame of pandas or polars, whose column `label` is no feature; a matrix
      of scipy.sparse; an AnnData, for its `.X`; a dask array; a `Dataset`, as `pc.load` returns;
    * a pair (x, y) of them: condition (or input) and target;
    * a torch Dataset or DataLoader, a Hugging Face dataset, or any other iterable of batches, each
      x, a pair, or a dict that holds one array (or `x` and `y`), or a table's columns of numbers. A
      list of arrays is a list of batches, but of two arrays of unlike widths, or for a conditional
      model, a pair; a Bunch of scikit-learn has `data` and `target`.

    One number (or name) per row beside x is a label. Autoencoders ignore it, likewise one column of
    whole numbers, and whatever whole numbers or single column is beside the batches of a stream; of
    a conditional model it is the condition, one column of 0 and 1 per class, and x the target.

    Args:
        data: Of any of these kinds.
        conditional: Whether the model is; None: unknown, so that any target counts.
        classes: Number of classes, where it is known; None: as many as the labels say.

    Raises:
        DataError: They are of no such kind, or cannot be used.

    Example:
        >>> found = read((np.zeros((3, 2, 2)), [0, 2, 1]), conditional=True)
        >>> found.x.tolist(), found.y.shape, found.image_shape
        ([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]], (3, 4), (2, 2))
    """
    if isinstance(data, (Samples, Stream)):
        return data
    if data is None:
        raise DataError("x", "None", "numbers", "Pass e.g. pc.load(name).")
    if type(data).__name__ == "Moments":
        raise DataError(
            "x",
            "Moments, which say nothing of single rows",
            "samples in rows",
            "Pass the data that were measured; moments alone are enough for a forecast.",
        )
    if isinstance(data, (str, bytes, os.PathLike)) or are_specs(data):
        raise DataError(
            "x",
            f"a {type(data).__name__}" if isinstance(data, Spec) else repr(data),
            "numbers",
            "Pass e.g. pc.load(name)." if not are_specs(data) else "Pass data, then spec.",
        )
    if hasattr(data, "lazy") and hasattr(data, "collect"):  # a lazy frame of polars
        data = data.collect()
    data = tuple(map(_plain, data)) if isinstance(data, tuple) else _plain(data)
    if names := getattr(getattr(data, "dtype", None), "names", None):  # an array of records
        data = {name: data[name] for name in names}
    if is_frame(data):
        data = from_array("x", data)
    if isinstance(data, Dataset):
        if data.y is None and conditional and data.labels is not None:
            return as_pair(data, data.labels, conditional, classes)
        return Samples(data.x, data.y, None if data.task else data.image_shape)
    if hasattr(data, "obs") and hasattr(data, "X"):
        return read(data.X, conditional, classes)
    source = _source_of(data, conditional)
    if source is not None:
        return Stream(data, source, conditional, classes)
    x, y = _columns(data) if isinstance(data, Mapping) else (data, None)
    if _is_pair(data, conditional):
        x, y = data
    elif _is_of_two(data) and _dims(data[1]) > 1 and _is_label(data[1], data[0]):
        raise DataError(
            "x",
            f"one number or name per row, beside y of shape {tuple(data[1].shape)}",
            "rows, shape (samples, features), or labels after the array they are beside",
            "Pass (x.reshape(-1, 1), y), or of class labels (y, x), which become one-hot columns.",
        )
    return as_pair(x, y, conditional, classes)


def as_pair(
    x: Any, y: Any = None, conditional: bool | None = False, classes: int | None = None
) -> Samples:
    """Return what holds numbers as samples, checked to belong together; see `read`.

    Of a conditional model x may be what labels y are beside; where it is unknown whether it is
    one, labels are no target.
    """
    x, image = _rows("x", x, empty_ok=y is not None)
    y = _plain(y)
    is_label = y is not None and _is_label(x, y)
    if conditional and is_label:
        return Samples(one_hot(y, classes), x, image)
    aside = conditional is False and (is_label or _is_column_of_labels(y))
    if y is None or aside:
        return Samples(x, None, image)
    y, target = _rows("y", y)
    same_length("x", len(x), "y", len(y))
    return Samples(x, y, target, image)


def one_hot(labels: Any, classes: int | None = None) -> Array:
    """Return a column of 0 and 1 per class.

    Args:
        labels: Whole numbers from 0, or names, which are sorted; shape (rows,).
        classes: How many there are; None: as many as occur.

    Example:
        >>> one_hot(["cat", "dog", "cat"]).tolist()
        [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    """
    if not hasattr(labels, "detach"):
        labels = np.asarray(labels)
        if labels.dtype.kind in "OSU":
            names, labels = np.unique(labels, return_inverse=True)
            classes = len(names) if classes is None else classes
            if len(names) != classes:
                raise DataError(
                    "labels",
                    f"{len(names)} names",
                    f"{classes} classes, as the model has",
                    "Number the classes from 0.",
                )
    numbers = as_array("labels", labels)
    found = numbers.astype(np.int64)
    wrong = (found != numbers) | (found < 0) | (found >= (classes or MOST_CLASSES))
    if wrong.any():
        raise DataError(
            "labels",
            f"{numbers[wrong][0]}",
            f"whole numbers from 0 to {(classes or MOST_CLASSES) - 1}",
            "Number the classes from 0; a target of one number per row is y.reshape(-1, 1).",
        )
    columns: Array = found[:, None] == np.arange(classes or found.max() + 1)
    return columns.astype(np.float32)


def _rows(name: str, values: Any, *, empty_ok: bool = False) -> tuple[Array, ImageShape | None]:
    """Return rows and image shape; a data frame is read as `pc.load` reads it."""
    if is_frame(values):
        values = from_array(name, values)
    if isinstance(values, Dataset):
        return values.x, None if values.task else values.image_shape
    return as_samples(name, values, empty_ok=empty_ok)


def _source_of(data: Any, conditional: bool | None) -> Source | None:
    """Return what gives the batches of a stream; None: it is none."""
    if hasattr(data, "with_format") and hasattr(data, "iter"):  # of Hugging Face
        return lambda size, seed: iter(data.with_format("numpy").iter(batch_size=size))
    if _is_torch(data, "DataLoader"):
        return lambda size, seed: seeded(data, seed)
    if _is_torch(data, "Dataset"):
        loader = sys.modules["torch"].utils.data.DataLoader
        return lambda size, seed: seeded(loader(data, batch_size=size), seed)
    if isinstance(data, (tuple, list)):
        each = (_dims(d) > 1 or isinstance(d, Mapping) or _is_pair(d, True) for d in data)
        if not data or _is_pair(data, conditional) or not all(each):
            return None
    elif isinstance(data, Mapping) or not isinstance(data, Iterable) or _dims(data) > 0:
        return None
    return lambda size, seed: iter(data)


def _is_torch(data: Any, name: str) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(data, getattr(torch.utils.data, name))


def _is_of_two(data: Any) -> bool:
    return isinstance(data, (tuple, list)) and len(data) == 2


def _is_pair(data: Any, conditional: bool | None) -> bool:
    """Whether data are x and y; of a list of two arrays of one width a condition must say so."""
    if not _is_of_two(data):
        return False
    x, y = data
    if isinstance(data, tuple):
        return _dims(x) > 1 or (isinstance(x, list) and bool(x) and isinstance(x[0], list))
    return _dims(x) > 1 and (bool(conditional) or x.shape[1:] != getattr(y, "shape", ())[1:])


def _plain(values: Any) -> Any:
    """Return a column of polars or Arrow, which do not count dimensions, as an array."""
    is_column = hasattr(values, "to_numpy") and not hasattr(values, "ndim")
    return np.asarray(values) if is_column and not is_frame(values) else values


def _dims(values: Any) -> int:
    return int(getattr(values, "ndim", 0))


def _parts(item: Any) -> Pair:
    """Return x and perhaps y of a batch; what comes after them is left out."""
    if isinstance(item, Mapping):
        return _columns(item)
    if isinstance(item, (tuple, list)) and item and (len(item) <= 2 or _dims(item[0]) > 1):
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def _columns(columns: Mapping[Any, Any]) -> Pair:
    """Return x and y of a dict: so called, or the one array and the labels beside it.

    Or, of a table, its columns of numbers side by side, and the labels.
    """
    columns = {key: _plain(values) for key, values in columns.items()}
    arrays = {key: values for key, values in columns.items() if _dims(values) > 1}
    if "x" in arrays:
        return arrays["x"], arrays.get("y")
    if "data" in arrays and "target" in columns:  # scikit-learn's: `images` are the same rows
        return arrays["data"], columns["target"]
    table = [values for key, values in columns.items() if key != "label"]
    if table and "x" not in columns and all(map(_is_column, table)):
        first, *others = (key for key in columns if key != "label")
        for other in others:
            same_length(str(first), len(columns[first]), str(other), len(columns[other]))
        return np.stack([np.asarray(values) for values in table], axis=1), columns.get("label")
    if len(arrays) != 1:
        first = next(iter(arrays or columns), "x")
        raise DataError(
            "data",
            f"a dict of {listed(sorted(map(str, columns)))}",
            "one with one array of samples in rows, x and y, or columns of numbers",
            f"Keep one of them, e.g. data[{first!r}], or pass pairs (x, y).",
        )
    labels = [values for values in columns.values() if _dims(values) == 1]
    named = columns.get("label", labels[0] if len(labels) == 1 else None)
    return next(iter(arrays.values())), named


def _is_column(values: Any) -> bool:
    """Whether values are one number per row, in an array or a list."""
    flat = isinstance(values, (list, tuple)) and not any(map(np.ndim, values))
    return (flat or _dims(values) == 1) and np.asarray(values).dtype.kind in "biuf"


def _numbers(name: str, part: Any) -> Any:
    """Return a part of a batch as an array, or the tensor that it is."""
    return part if hasattr(part, "detach") else as_array(name, part)


def _is_label(x: Any, y: Any) -> bool:
    """Whether y is one number or name per row."""
    flat = isinstance(y, (list, tuple)) and not any(np.ndim(one) for one in y[:1])
    return (flat or _dims(y) == 1) and len(y) == len(x)


def _is_column_of_labels(y: Any) -> bool:
    """Whether y is a column of whole numbers, as classes are written below each other."""
    whole = "int" in str(getattr(y, "dtype", "")) or "bool" in str(getattr(y, "dtype", ""))
    return whole and _dims(y) == 2 and y.shape[1] == 1
