"""Whatever holds numbers -> samples in rows, or an error that says why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from posterior_collapse import checks
from posterior_collapse.data import indices
from posterior_collapse.data.dataset import Dataset
from posterior_collapse.errors import DataError

__all__ = [
    "LABEL",
    "LONGEST",
    "as_labels",
    "as_samples",
    "from_array",
    "from_columns",
    "refuse_column",
    "same_length",
]

REAL_KINDS = "iuf"
LABEL = "label"
"""The column that holds the classes."""
LONGEST = 1_000
"""Characters of a label; an array of texts gives each the room of the longest."""


def as_samples(name: str, values: Any) -> tuple[NDArray[Any], tuple[int, ...] | None]:
    """Return ``values`` as (samples, features), and the shape of one sample if it is an image.

    Nothing is copied where NumPy can make a view: a memory map stays one, and uint8 stays uint8.

    Args:
        name: What to call the values in an error.
        values: Real numbers, shape (samples, features) or (samples, ...) for images.

    Raises:
        DataError: Empty, fewer than two dimensions, complex, text or objects.

    Example:
        >>> samples, image_shape = as_samples("x", np.zeros((10, 28, 28), np.uint8))
        >>> samples.shape, samples.dtype, image_shape
        ((10, 784), dtype('uint8'), (28, 28))
    """
    array = _array(name, values)
    if array.dtype.kind == "b":
        array = array.view(np.uint8)
    if array.dtype.kind not in REAL_KINDS:
        raise DataError(name, f"{array.dtype} values", "real numbers", _remedy(array.dtype))
    if array.ndim < 2:
        raise DataError(
            name,
            f"{array.ndim} dimension{'s' * (array.ndim != 1)}",
            "samples in rows, shape (samples, features)",
            "Reshape it with .reshape(samples, features).",
        )
    if array.size == 0:
        raise DataError(
            name, f"an empty array of shape {array.shape}", "samples", "Pass some data."
        )
    if array.ndim == 2:
        return array, None
    return array.reshape(len(array), -1), array.shape[1:]


def _array(name: str, values: Any) -> NDArray[Any]:
    try:
        array = (
            values
            if isinstance(values, (np.memmap, np.ma.MaskedArray))
            else np.asarray(checks.readable(values))
        )
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            name, f"'{reason}'", "an array of real numbers", "Convert it with numpy.asarray."
        ) from error
    if np.ma.is_masked(array):
        raise DataError(
            name, "masked values", "a value everywhere", "Impute them or drop their rows."
        )
    return array


def _remedy(dtype: np.dtype[Any]) -> str:
    remedies = {"c": "Pass the real and imaginary parts as features.", "U": "Encode the text."}
    return remedies.get(dtype.kind, "Convert it with .astype(float).")


def as_labels(name: str, values: Any, samples: int) -> NDArray[Any]:
    """Return one label per sample.

    Raises:
        DataError: Not one-dimensional, or not as many as there are samples.
    """
    labels = _array(name, values)
    if labels.ndim != 1:
        raise DataError(name, f"shape {labels.shape}", "one label per sample", "Flatten it.")
    same_length("x", samples, name, len(labels))
    return labels


def same_length(first: str, n_first: int, second: str, n_second: int) -> None:
    """Refuse two arrays whose rows cannot belong together.

    Raises:
        DataError: The numbers of samples differ.

    Example:
        >>> same_length("x", 3, "y", 4)
        Traceback (most recent call last):
        posterior_collapse.errors.DataError: y: got 4 samples; expected 3, as many as x. Pass ...
    """
    if n_first != n_second:
        raise DataError(
            second,
            f"{n_second:,} samples",
            f"{n_first:,}, as many as {first}",
            "Pass one row per sample in both.",
        )


def from_array(name: str, values: Any) -> Dataset:
    """Return a data set of an array, a list, a tensor or a data frame.

    Raises:
        DataError: See `as_samples`; a column of a data frame is text.

    Example:
        >>> from_array("array", [[1, 2], [3, 4]])
        <Dataset 'array': 2 x 2 int64, used as they are>
    """
    if hasattr(values, "columns") and hasattr(values, "to_numpy"):
        columns = [(str(c), values[c].to_numpy()) for c in dict.fromkeys(values.columns)]
        return from_columns(name, columns)
    x, image_shape = as_samples("x" if name == "array" else name, values)
    return Dataset(name, x, image_shape=image_shape)


def from_columns(
    name: str, columns: Sequence[tuple[str, NDArray[Any]]], index: Sequence[str] = ()
) -> Dataset:
    """Return a data set of named columns; one called ``label`` holds the labels.

    Columns that number the rows, as pandas writes them, are left out, and `Dataset.steps` says so.

    Args:
        name: Of the data set.
        columns: Names and values, in order.
        index: Names of columns that the source itself calls an index, and that were left out.

    Raises:
        DataError: No column of numbers, two called ``label``, or a column of something else (named
            in the message).

    Example:
        >>> from_columns("toy", [("a", np.arange(3)), ("label", np.array(["u", "v", "u"]))])
        <Dataset 'toy': 3 x 1 int64, used as they are; labels u, v>
        >>> from_columns("toy", [("Unnamed: 0", np.arange(3)), ("a", np.arange(3.0))]).note
        "3 x 1 float64, column 'Unnamed: 0' left out, an index (name it to keep it)"
    """
    labels = [values for key, values in columns if key == LABEL]
    if len(labels) > 1:
        raise DataError(name, f"{len(labels)} columns named {LABEL!r}", "one", "Rename the others.")
    features, steps = [], [indices.left_out(repr(key), key, certain=True) for key in index]
    for key, values in columns:
        if key == LABEL:
            continue
        if indices.is_suspect(key) and indices.numbers_rows(key, values):
            steps.append(indices.left_out(repr(key), key))
            continue
        if indices.is_unnamed(key):
            steps.append(indices.KEPT.format(repr(key)))
        if values.dtype.kind not in REAL_KINDS + "b":
            text = values.dtype.kind in "OUS"
            refuse_column(name, key, "text" if text else str(values.dtype))
        features.append(values)
    if not features:
        raise DataError(name, "no column of numbers", "at least one feature", "Add a column.")
    x, _ = as_samples(name, np.column_stack(features))
    return Dataset(
        name,
        x,
        labels=as_labels(LABEL, labels[0], len(x)) if labels else None,
        steps=tuple(steps),
    )


def refuse_column(name: str, column: str, kind: str) -> NoReturn:
    """Refuse a column of a data set whose values, of a kind such as "string", are no numbers.

    Raises:
        DataError: Always.
    """
    raise DataError(
        f"column {column!r} of {name}",
        "text" if kind in ("text", "string", "large_string", "string_view") else f"{kind} values",
        "numbers",
        f"Remove or encode the column, or name it {LABEL!r}.",
    )
