"""Arrays and columns of data frames -> a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.arrays import as_samples, same_length
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

LABEL = "label"
"""The column that holds the classes."""
LONGEST = 1_000
"""Characters of a label; an array of texts gives each the room of the longest."""


def as_labels(name: str, values: Any, samples: int) -> NDArray[Any]:
    """Return one label per sample.

    Raises:
        DataError: Not one-dimensional, or not as many as there are samples.
    """
    labels = np.asarray(values)
    if labels.ndim != 1:
        raise DataError(name, f"shape {labels.shape}", "one label per sample", "Flatten it.")
    same_length("x", samples, name, len(labels))
    return labels


def from_array(name: str, values: Any) -> Dataset:
    """Return a data set of an array, a list, a tensor or a data frame.

    Raises:
        DataError: See `as_samples`; a column of a data frame is text.

    Example:
        >>> from_array("array", [[1, 2], [3, 4]])
        <Dataset 'array': 2 x 2 int64, used as they are>
    """
    if hasattr(values, "columns") and hasattr(values, "to_numpy"):
        columns = [(str(c), _column(values[c])) for c in dict.fromkeys(values.columns)]
        return from_columns(name, columns)
    x, image_shape = as_samples("x" if name == "array" else name, values)
    return Dataset(name, x, image_shape=image_shape)


def _column(series: Any) -> NDArray[Any]:
    """Return a column, with NaN where one of pandas' own types of numbers has no value."""
    values: NDArray[Any] = series.to_numpy()
    lacking = values.dtype.kind == "O" and getattr(series.dtype, "kind", "O") in "biuf"
    return np.asarray(series, np.float64) if lacking else values


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
        if values.dtype.kind not in "biuf":
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
