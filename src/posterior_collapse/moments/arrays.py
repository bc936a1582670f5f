"""Checks and chunks of the arrays that moments are made from."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from posterior_collapse import checks
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
    array = value if isinstance(value, np.ndarray) else _converted(name, value)
    refuse_unreal(name, array.dtype)
    if np.ma.is_masked(array):
        raise DataError(
            name, "masked values", "a value everywhere", "Impute them or drop their rows."
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


def matrices(x: Any, y: Any = None) -> tuple[tuple[str, ...], list[Array]]:
    """Return the names and the arrays of x, or of x and y, checked to belong together.

    Raises:
        DataError: One is not a matrix, or they have different numbers of samples.
    """
    if y is None:
        return ("x",), [as_matrix("x", x)]
    arrays = [as_matrix("x", x, empty_ok=True), as_matrix("y", y)]
    refuse_unmatched(len(arrays[0]), len(arrays[1]))
    return ("x", "y"), arrays


def batched(batches: Iterable[Any]) -> Iterator[tuple[int, tuple[str, ...], list[Array]]]:
    """Yield (first row, names, arrays) of batches, each an array x or a pair (x, y).

    Raises:
        DataError: A batch cannot be used, or does not fit the first one.
    """
    shape: list[int] = []
    row = 0
    for batch in batches:
        pair = batch if isinstance(batch, (tuple, list)) and len(batch) in (1, 2) else (batch,)
        names, arrays = matrices(*pair)
        widths = [a.shape[1] for a in arrays]
        shape = shape or widths
        if widths != shape:
            raise DataError(
                f"batch starting at row {row}",
                f"features {widths}",
                f"{shape}, as in the first batch",
                "Check the loader.",
            )
        yield row, names, arrays
        row += len(arrays[0])


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


def _converted(name: str, value: Any) -> Array:
    dtypes: Any = getattr(value, "dtypes", None)
    for column, dtype in dtypes.items() if hasattr(dtypes, "items") else ():
        if getattr(dtype, "kind", "O") not in "biuf":
            raise DataError(
                name,
                f"the column {column!r} of type {dtype}",
                "numeric columns only",
                "Drop the column or encode it as numbers.",
            )
    try:
        value = checks.readable(value)
        # A frame of mixed numeric columns would become an array of objects.
        return np.asarray(value, dtype=np.float64 if dtypes is not None else None)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            name,
            f"what does not form a matrix ({error})",
            "a 2-D array of numbers",
            "Pass rows of equal length.",
        ) from error


def _release(array: Array) -> None:
    if isinstance(array, np.memmap) and array.mode == "r":
        pages = getattr(array, "_mmap", None)
        if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
            pages.madvise(mmap.MADV_DONTNEED)


def refuse_unreal(name: str, dtype: np.dtype[Any]) -> None:
    """Refuse a dtype that does not stand for real numbers.

    Raises:
        DataError: Complex, text, dates or objects.
    """
    if dtype.kind == "c":
        raise DataError(
            name,
            f"complex numbers ({dtype})",
            "real numbers",
            "Pass real and imaginary parts as separate features.",
        )
    if dtype.kind not in "biuf":
        raise DataError(
            name, f"dtype {dtype}", "real numbers", "Encode text or objects as numbers."
        )


def refuse_unmatched(samples_x: int, samples_y: int) -> None:
    """Refuse inputs and targets of different numbers of samples.

    Raises:
        DataError: The numbers differ.
    """
    if samples_x != samples_y:
        raise DataError(
            "x and y",
            f"{samples_x} and {samples_y} samples",
            "as many of one as of the other",
            "Pass matching rows.",
        )


def refuse_non_finite(name: str, rows: Array, first_row: int, first_column: int = 0) -> None:
    """Say where the first NaN or infinity is, if there is one.

    Raises:
        DataError: A value is not finite, or so large that sums of such values are not.
    """
    if rows.dtype.kind == "f":
        where = np.argwhere(~np.isfinite(rows))
        if len(where):
            row, column = (int(i) for i in where[0])
            raise DataError(
                name,
                f"{rows[row, column]} at row {first_row + row}, column {first_column + column}",
                "finite numbers",
                "Remove or impute it.",
            )
    refuse_overflow(name, rows)


def refuse_overflow(name: str, rows: Array) -> None:
    """Say so if the squares of `rows` do not fit a float64.

    Raises:
        DataError: They do not.
    """
    largest = float(np.abs(rows).max(initial=0.0)) if rows.dtype.kind == "f" else 0.0
    if largest > 1e150:
        raise DataError(
            name,
            f"values up to {largest:.3g}",
            "values whose squares fit a float64",
            "Rescale the data.",
        )
