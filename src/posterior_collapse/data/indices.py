"""Columns that number or name the rows, as pandas and R write them beside the features."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["KEPT", "is_suspect", "is_unnamed", "left_out", "numbers_rows"]

UNNAMED = re.compile(r"|Unnamed: \d+(\.\d+)?|__index_level_\d+__")
"""Names of an index without a name: in a CSV file, read from one and written again, in parquet."""
RESET = re.compile(r"index|level_\d+")
"""Names that `DataFrame.reset_index` gives, and people too: an index if it counts from 0."""
KEPT = "column {} has no name and does not number the rows: kept as a feature"


def is_suspect(name: str) -> bool:
    """Say whether a column of this name may be an index.

    Example:
        >>> [is_suspect(name) for name in ("", "Unnamed: 0", "index", "height")]
        [True, True, True, False]
    """
    return is_unnamed(name) or bool(RESET.fullmatch(name))


def is_unnamed(name: str) -> bool:
    """Say whether a name is none, or what pandas makes of none."""
    return bool(UNNAMED.fullmatch(name))


def numbers_rows(name: str, values: NDArray[Any]) -> bool:
    """Say whether a column of a suspect name numbers or names the rows, rather than measures them.

    An index is text, whole numbers that are all different or that count up (perhaps from 0 anew,
    where tables were put below each other), or numbers that rise or fall from row to row.

    Example:
        >>> [numbers_rows("", np.array(v)) for v in ([0, 1, 2], ["b", "a"], [0.3, 0.1, 0.2])]
        [True, True, False]
    """
    if values.dtype.kind == "U":
        values = np.where(values == "", "nan", values)
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError):
        return not RESET.fullmatch(name)
    if RESET.fullmatch(name):
        return bool(np.array_equal(numbers, np.arange(len(numbers))))
    steps = np.diff(numbers)
    whole = bool((numbers == np.floor(numbers)).all())
    if whole and (len(np.unique(numbers)) == len(numbers) or _counts(numbers, steps)):
        return True
    return bool((steps > 0).all() or (steps < 0).all())


def _counts(numbers: NDArray[np.float64], steps: NDArray[np.float64]) -> bool:
    return bool(((steps == 1) | (numbers[1:] == 0)).all())


def left_out(shown: str, name: str, *, certain: bool = False) -> str:
    """Return the words for a column that was left out.

    Args:
        shown: What to call the column.
        name: Its name.
        certain: Whether the file itself says that it is an index.
    """
    if certain:
        return f"column {shown} left out, which the file calls an index (reset it to keep it)"
    action = "name it" if is_unnamed(name) else "give it another name"
    return f"column {shown} left out, an index ({action} to keep it)"
