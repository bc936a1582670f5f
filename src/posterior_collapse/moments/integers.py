"""Sums of products of 8-bit integers, each exact, so that it does not matter which library sums."""

from __future__ import annotations

import functools
import sys
from timeit import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas

from posterior_collapse.arrays import CHUNK_BYTES, Array, Float

SIGN = 0x80
"""Bit that makes of an unsigned number of 8 bits a signed one that is less by 128."""
ROWS = 4096
"""Gathered for one product: fewer cost time, more take memory."""
SINGLE_ROWS = 1024
"""Rows whose sums of products, at most 128^2 each, are below 2^24: a float32 holds them all."""


class Integers:
    """Samples whose features are all 8-bit integers.

    Beside their features stands a column of ones, whose products are the sums.

    Args:
        dtypes: Of each array, uint8 or int8.
        widths: Features of each.
        products: Of zeros, in Fortran order, where products are summed.

    Attributes:
        dtypes: Of each array.
        n: Number of samples so far.
    """

    def __init__(self, dtypes: list[np.dtype[Any]], widths: list[int], products: Float) -> None:
        self.dtypes, self.n = dtypes, 0
        unsigned = np.array([dtype == np.uint8 for dtype in dtypes])
        self._less = np.repeat(np.where(unsigned, 128.0, 0.0), widths)
        self._ends = np.cumsum(widths)
        width = len(self._less)
        torch: Any = sys.modules.get("torch")
        self._torch, rows = None, SINGLE_ROWS
        if torch is not None and _pays(torch):
            self._torch, rows = torch, min(ROWS, max(SINGLE_ROWS, CHUNK_BYTES // width))
        self._rows = np.empty((rows, width + 1), np.int8)
        self._rows[:, -1] = 1
        self._filled = 0
        self._sums, self._products = np.zeros(width), products

    def add(self, parts: list[Array]) -> None:
        """Take in rows of every array, side by side."""
        done = 0
        while done < len(parts[0]):
            if self._filled == len(self._rows):
                self._flush()
            some = [part[done : done + len(self._rows) - self._filled] for part in parts]
            done += len(some[0])
            rows = self._rows[self._filled : self._filled + len(some[0])]
            for part, end in zip(some, self._ends, strict=True):
                out = rows.view(part.dtype)[:, end - part.shape[1] : end]
                np.bitwise_xor(part, SIGN if part.dtype == np.uint8 else 0, out=out)
            self._filled += len(rows)
            self.n += len(rows)

    def total(self) -> tuple[int, Float, Float]:
        """Return the number of samples, their mean and, in its upper triangle, their scatter.

        What was summed becomes the scatter: nothing can be added after it.
        """
        self._flush()
        sums, scatter = self._sums, self._products
        # About whole numbers next to the mean all is exact, so that constants come out as 0.
        near = np.rint(sums / self.n)
        blas.dsyr2(-1.0, sums - self.n * near / 2, near, a=scatter, overwrite_a=1)
        further = (sums - self.n * near) / self.n
        blas.dsyr(-self.n, further, a=scatter, overwrite_a=1)
        return self.n, self._less + near + further, scatter

    def _flush(self) -> None:
        rows = self._rows[: self._filled]
        many = len(rows) > SINGLE_ROWS  # gathered for torch alone
        product = _by_torch(self._torch, rows) if many else _in_single(rows)
        self._sums += product[-1, :-1]
        self._products += product[:-1, :-1].T  # in the same order in memory
        self._filled = 0


def _in_single(rows: NDArray[np.int8]) -> Array:
    numbers = rows.astype(np.float32)
    found: Array = numbers.T @ numbers
    return found


def _by_torch(torch: Any, rows: NDArray[np.int8]) -> Array:
    tensor = torch.from_numpy(rows)
    found: Array = torch._int_mm(tensor.T, tensor).numpy()
    return found


@functools.cache
def _pays(torch: Any) -> bool:
    """Say whether torch, where it is imported anyway, multiplies 8-bit integers well.

    That is twice as fast on processors with instructions for it. On some others sums of two
    products overflow, and on others it is slow: hence one small product is tried.
    """
    rows = np.full((SINGLE_ROWS, 256), 127, np.int8)
    rows[:, ::3], rows[::2, ::5] = -128, 1
    try:
        if not np.array_equal(_by_torch(torch, rows), _in_single(rows)):
            return False
    except (AttributeError, RuntimeError):  # a torch without such products
        return False
    by_torch, in_single = lambda: _by_torch(torch, rows), lambda: _in_single(rows)
    return min(repeat(by_torch, number=1, repeat=3)) < min(repeat(in_single, number=1, repeat=3))
