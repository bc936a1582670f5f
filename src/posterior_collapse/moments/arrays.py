"""Checks and chunks of the arrays that moments are made from."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from posterior_collapse.errors import DataError

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float64]

CHUNK_BYTES = 12 << 20
"""Size of the float64 buffer that a chunk of rows is converted into."""


def as_matrix(name: str, value: Any, *, empty_ok: bool = False) -> Array:
    """Return `value` as a 2-D real array without copying it, or say why it is not one.

    Args:
        name: What to call the array in an error.
        value: Array, data frame or nested list, shape (samples, features).
        empty_ok: Accept an array of no features (an empty condition).

    Raises:
        DataError: Wrong number of dimensions, empty, complex, text or objects.
    """
    for column, dtype in getattr(value, "dtypes", {}).items() if hasattr(value, "columns") else ():
        if getattr(dtype, "kind", "O") not in "biuf":
            raise DataError(
                name,
                f"the column {column!r} of type {dtype}",
                "numeric columns only",
                "Drop the column or encode it as numbers.",
            )
    try:
        array = value if isinstance(value, np.ndarray) else np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError(
            name, f"rows that do not form a matrix ({error})", "a 2-D array", "Pad or cut the rows."
        ) from error
    if array.dtype.kind == "c":
        raise DataError(
            name,
            f"complex numbers ({array.dtype})",
            "real numbers",
            "Pass real and imaginary parts as separate features.",
        )
    if array.dtype.kind not in "biuf":
        raise DataError(
            name, f"dtype {array.dtype}", "real numbers", "Encode text or objects as numbers."
        )
    if array.ndim != 2:
        fix = ".reshape(-1, 1)" if array.ndim == 1 else ".reshape(len(array), -1)"
        raise DataError(
            name,
            f"a {array.ndim}-D array of shape {array.shape}",
            "a 2-D array, samples x features",
            f"Use array{fix}.",
        )
    if array.shape[0] == 0 or (array.shape[1] == 0 and not empty_ok):
        raise DataError(
            name,
            f"an empty array of shape {array.shape}",
            "at least one row and one column",
            "Check how the array was made.",
        )
    return array


def chunks(*arrays: Array) -> Iterator[tuple[int, list[Array]]]:
    """Yield (first row, the rows of every array) in pieces that fit `CHUNK_BYTES` in float64.

    Pages of read-only memory maps are handed back after each piece, so that a stream of any
    length is read in constant memory.
    """
    width = sum(array.shape[1] for array in arrays)
    rows = max(256, CHUNK_BYTES // (8 * max(width, 1)))
    for start in range(0, arrays[0].shape[0], rows):
        yield start, [array[start : start + rows] for array in arrays]
        for array in arrays:
            _release(array)


def _release(array: Array) -> None:
    if isinstance(array, np.memmap) and array.mode == "r":
        pages = getattr(array, "_mmap", None)
        if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
            pages.madvise(mmap.MADV_DONTNEED)


def refuse_non_finite(name: str, rows: Array, first_row: int) -> None:
    """Raise a `DataError` that says where the first NaN or infinity is.

    Raises:
        DataError: Always when a value is not finite, or when float64 sums overflow.
    """
    if rows.dtype.kind == "f":
        where = np.argwhere(~np.isfinite(rows))
        if len(where):
            row, column = (int(i) for i in where[0])
            raise DataError(
                name,
                f"{rows[row, column]} at row {first_row + row}, column {column}",
                "finite numbers",
                "Remove or impute it.",
            )
        if len(rows) and np.abs(rows).max() > 1e150:
            raise DataError(
                name,
                f"values up to {np.abs(rows).max():.3g}",
                "values whose squares fit a float64",
                "Rescale the data.",
            )
