"""What figures and pages say of data beside their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from posterior_collapse.arrays import ImageShape
from posterior_collapse.data.arrays import feature_names, is_frame
from posterior_collapse.data.dataset import Dataset
from posterior_collapse.errors import DataError

MOST_CHANNELS = 4
"""Of an image; an array with more along either end is no image."""


@dataclass(frozen=True)
class About:
    """What is known of data that someone may want to look at.

    Attributes:
        name: What they are called; "" where nobody named them.
        image_shape: Shape of what is decoded, if it is an image; of the quarter task's targets that
            of the whole image.
        features: What the features that are decoded are called, where they have names.
    """

    name: str = ""
    image_shape: ImageShape | None = None
    features: tuple[str, ...] | None = None


UNKNOWN = About()
Names = tuple[str, ...]
Columns = tuple[Names | None, ...]
"""What the features of data, or of both parts of a pair, are called; None: they have no names."""


def columns_in(kept: Mapping[str, Any]) -> Columns:
    """Return the columns that a file of a run has kept; none where it has not.

    Example:
        >>> columns_in({"columns": [["age", "income"], None]}), columns_in({})
        ((('age', 'income'), None), ())
    """
    found = kept.get("columns")
    parts = found if isinstance(found, list) else []
    return tuple(tuple(map(str, names)) if isinstance(names, list) else None for names in parts)


def columns_of(data: Any) -> Columns:
    """Return what the features of data, or of both parts of a pair, are called.

    Example:
        >>> import numpy as np
        >>> columns_of((Dataset("toy", np.zeros((4, 2)), names=("a", "b")), np.zeros((4, 1))))
        (('a', 'b'), None)
    """
    if isinstance(data, tuple):
        return tuple(name for part in data for name in columns_of(part))
    return (data.names if isinstance(data, Dataset) else about(data).features,)


def refuse_reordered(name: str, data: Any, expected: Columns) -> None:
    """Refuse columns that are those of other data in another order: a model tells them by place.

    Raises:
        DataError: They are.
    """
    for got, wanted in zip(columns_of(data), expected, strict=False):
        if got and wanted and got != wanted and sorted(got) == sorted(wanted):
            place = next(
                i for i, pair in enumerate(zip(got, wanted, strict=True)) if len({*pair}) > 1
            )
            raise DataError(
                name, f"column {got[place]!r} in place {place + 1}",
                f"{wanted[place]!r} there, as in the data of the model",
                "Bring the columns into that order, e.g. frame[train.columns].",
            )  # fmt: skip


def about(data: Any, *, conditional: bool = False) -> About:
    """Return what data in memory say of themselves.

    Args:
        data: Of any kind.
        conditional: Whether y is decoded, of data that are a pair.

    Example:
        >>> from posterior_collapse.data import load
        >>> about(load("digits")).image_shape
        (8, 8)
        >>> about([[1.0, 2.0]])
        About(name='', image_shape=None, features=None)
    """
    if isinstance(data, Dataset):
        name = "" if data.name == "array" else data.name
        if (data.y is not None) != conditional:
            return About(name)
        whole = data.image_shape if data.task == "quarter" else None
        return About(name, data.decoded_shape or whole, data.decoded_names)
    if isinstance(data, tuple):
        return about(data[1]) if conditional and len(data) == 2 else UNKNOWN
    lazy = hasattr(data, "collect_schema")  # of polars, which warns when its columns are asked for
    columns = None if lazy and not hasattr(data, "shape") else getattr(data, "columns", None)
    if is_frame(data):  # the label and an index are columns, and no features
        columns = feature_names(data)
    shape = getattr(data, "shape", None)
    row = tuple(shape[1:]) if isinstance(shape, tuple) else ()
    is_image = len(row) == 2 or (len(row) == 3 and min(row[0], row[2]) <= MOST_CHANNELS)
    features = None if columns is None else tuple(map(str, columns))
    return About("", row if is_image else None, features)
