"""Whatever holds numbers -> a checked array of real ones, not copied where NumPy can make a view.

NumPy arrays, memory maps and nested lists; tensors of torch and jax, told by what they can do;
matrices of scipy.sparse, whose rows become dense a piece at a time; arrays of dask, as they are.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.errors import DataError, first_line

Array = NDArray[Any]
Float = NDArray[np.float64]
ImageShape = tuple[int, ...]

CHUNK_BYTES = 12 << 20
"""Size of the float64 buffer that a chunk of rows is converted into."""
SQUARED_FITS = 1e150
"""Largest number whose square, and sums of such squares, fit a float64."""
CONSTANT = 1e-13
"""Range, of the largest number, up to which a column varies by the rounding of float64 alone: the
shares of a row sum to 1 so."""


class SparseRows:
    """A sparse matrix that gives dense arrays: the rows and columns asked for, or all of it.

    Args:
        matrix: Of scipy.sparse, in any format.
    """

    ndim = 2

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix.tocsr()
        self.shape: tuple[int, int] = self.matrix.shape
        self.dtype: np.dtype[Any] = self.matrix.dtype
        self.size = self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Array:
        found: Array = self.matrix[index].toarray()
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        found: Array = self.matrix.astype(dtype or self.dtype).toarray()
        return found


def is_sparse(values: Any) -> bool:
    """Return whether values are a matrix of scipy.sparse (without importing it)."""
    return hasattr(values, "tocsr") and hasattr(values, "toarray")


def is_lazy(values: Any) -> bool:
    """Return whether values are a dask collection (without importing dask)."""
    return type(values).__module__.startswith("dask.")


def as_array(name: str, values: Any) -> Any:
    """Return values as an array of real numbers, of any number of dimensions.

    Args:
        name: What to call them in an error.
        values: Whatever holds numbers.

    Returns:
        An array of NumPy (booleans as 0 and 1), or of dask where it was one, or a sparse matrix
        that gives dense rows.

    Raises:
        DataError: Ragged, masked, complex, text, dates or objects.
    """
    array: Any = values
    if is_sparse(values):
        array = SparseRows(values)
    elif is_lazy(values):
        array = values.to_dask_array(lengths=True) if hasattr(values, "to_dask_array") else values
    elif not isinstance(values, (np.ndarray, SparseRows)):
        if isinstance(values, (list, tuple)):  # of rows, whose masks NumPy would drop
            for row in values:
                if hasattr(row, "dtype"):
                    refuse_masked(name, row)
        try:
            array = np.asarray(_readable(name, values))
        except DataError:
            raise
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                name,
                f"what does not form a matrix ({first_line(error)})",
                "an array of real numbers",
                "Pass rows of equal length.",
            ) from error
    _refuse_unreal(name, array.dtype)
    refuse_masked(name, array)
    if is_lazy(array) and np.isnan(array.shape).any():
        array = array.compute_chunk_sizes()
    whole = isinstance(array, SparseRows)
    return array.view(np.uint8) if array.dtype.kind == "b" and not whole else array


def as_samples(
    name: str, values: Any, *, empty_ok: bool = False
) -> tuple[Array, ImageShape | None]:
    """Return values as (samples, features), and the shape of one sample if it is an image.

    Args:
        name: What to call the values in an error.
        values: Real numbers, shape (samples, features) or (samples, ...) for images.
        empty_ok: Accept samples of no features (an empty condition).

    Raises:
        DataError: Fewer than two dimensions, empty, or not real: see `as_array`.

    Example:
        >>> samples, image_shape = as_samples("x", np.zeros((10, 28, 28), np.uint8))
        >>> samples.shape, samples.dtype, image_shape
        ((10, 784), dtype('uint8'), (28, 28))
    """
    array = as_array(name, values)
    check_shape(name, array.shape, empty_ok=empty_ok)
    if array.ndim == 2:
        return array, None
    return array.reshape((len(array), int(np.prod(array.shape[1:])))), tuple(array.shape[1:])


def check_shape(name: str, shape: tuple[int, ...], *, empty_ok: bool = False) -> None:
    """Refuse what is not samples in rows.

    Raises:
        DataError: Fewer than two dimensions, no rows, or no features.
    """
    if len(shape) > 0 and (shape[0] == 0 or (0 in shape and not empty_ok)):
        raise DataError(
            name,
            f"an empty array of shape {tuple(shape)}",
            "at least one row and one column",
            "Check how the array was made.",
        )
    if len(shape) < 2:
        raise DataError(
            name,
            f"a {len(shape)}-D array of shape {tuple(shape)}",
            "samples in rows, shape (samples, features)",
            "Use np.asarray(x).reshape(-1, 1) for one feature, .reshape(1, -1) for one sample.",
        )


def same_length(first: str, n_first: int, second: str, n_second: int) -> None:
    """Refuse two arrays whose rows cannot belong together.

    Example:
        >>> same_length("x", 3, "y", 4)
        Traceback (most recent call last):
        posterior_collapse.errors.DataError: x and y: got 3 and 4 samples; expected as many of ...
    """
    if n_first != n_second:
        raise DataError(
            f"{first} and {second}",
            f"{n_first:,} and {n_second:,} samples",
            "as many of one as of the other",
            "Pass matching rows.",
        )


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


def refuse_non_finite(name: str, rows: Array, first_row: int = 0, first_column: int = 0) -> None:
    """Say where the first NaN or infinity is, if there is one.

    Raises:
        DataError: A value is not finite, or so large that sums of such values are not.
    """
    if rows.dtype.kind == "f":
        finite = np.isfinite(rows)
        if not finite.all():
            row, column = (int(i) for i in np.argwhere(~finite)[0])
            raise DataError(
                name,
                f"{rows[row, column]} at row {first_row + row}, column {first_column + column} "
                "(counted from 0)",
                "finite numbers",
                "Remove or impute it.",
            )
    refuse_overflow(name, rows)


def refuse_masked(name: str, values: Any) -> None:
    """Refuse masked values, below whose mask stand numbers that mean nothing.

    Raises:
        DataError: There are some, or may be: of an array of dask nobody knows before it is made.
    """
    lazy = is_lazy(values) and np.ma.isMaskedArray(getattr(values, "_meta", None))
    if lazy or np.ma.is_masked(values):
        raise DataError(
            name,
            "a dask array of masked arrays" if lazy else "masked values",
            "a value everywhere",
            "Impute them (numpy.ma.filled does) or drop their rows.",
        )


def refuse_overflow(name: str, rows: Array) -> None:
    """Say so if the squares of `rows` do not fit a float64.

    Raises:
        DataError: They do not.
    """
    if rows.dtype.kind != "f" or rows.dtype.itemsize < 8 or rows.size == 0:
        return
    rows = np.asarray(rows)
    largest = float(max(rows.max(), -rows.min()))
    if largest > SQUARED_FITS:
        raise DataError(
            name,
            f"values up to {largest:.3g}",
            "values whose squares fit a float64",
            "Rescale the data.",
        )


def _readable(name: str, values: Any) -> Any:
    """Return a torch tensor as one that NumPy can read, without importing torch; all else as is."""
    if not (hasattr(values, "detach") and hasattr(values, "numpy")):
        return values
    values = values.detach().cpu()
    if "sparse" in str(values.layout).lower():
        raise DataError(
            name,
            f"a sparse tensor of torch ({values.layout})",
            "a dense tensor, or a matrix of scipy.sparse",
            "Pass tensor.to_dense().",
        )
    # NumPy has no bfloat16; as float64 it counts as no more rounded than it is.
    return values.double() if str(values.dtype) == "torch.bfloat16" else values


def _refuse_unreal(name: str, dtype: np.dtype[Any]) -> None:
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


def _release(array: Array) -> None:
    if isinstance(array, np.memmap) and array.mode == "r":
        pages = getattr(array, "_mmap", None)
        if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
            pages.madvise(mmap.MADV_DONTNEED)
