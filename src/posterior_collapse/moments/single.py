"""Rows in single precision, gathered for one product: half the time of one in double precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.arrays import CHUNK_BYTES, Array, Float

ROUNDING = 1e-5
"""Error of moments by float32 products, as a share of the largest variance, at most: that of noise
is 1e-7, of MNIST 1e-6, and of a few values only, whose rounding adds up, 7e-6; less beside a row
so far from all others that their squares are hardly seen beside its own."""
LEAST_ROWS, MOST_ROWS = 1024, 4096
"""Rows of one product: fewer cost time, more add up more rounding."""
BLOCK_BYTES = 1 << 20
"""Of the rows that are shifted and summed at a time, in the processor's cache."""
FAR = 0.5
"""Squared distance of a shift from the mean, over the variance, that costs digits."""
OFTEN = 16
"""A value that one in so many rows has is no accident."""
LEAST_SQUARES = 1e-25
"""A sum of squares below it may have lost some that are too small for a float32."""


class Group:
    """Rows less a shift in float32, gathered for one product.

    Features of two values are divided by what lies between these: sums of 0 and 1 are exact, where
    one product that is added again and again is rounded the same way each time.

    Attributes:
        shift: What was taken off them.
        two: Which features have two values, for all that is known.
    """

    def __init__(self, width: int) -> None:
        self.filled = 0
        self.shift = self._sums = np.zeros(width)
        self.two = np.zeros(width, bool)
        self._single = np.zeros(width, np.float32)
        self._unit = np.ones(width, np.float32)
        self._known = self._divides = False
        self._step = max(256, BLOCK_BYTES // (4 * width))
        self.enlarge(0)

    def enlarge(self, rows: int) -> None:
        """Make room for so many rows; those that are here are gone."""
        self._rows = np.empty((rows, len(self.shift)), np.float32)
        self._ones = np.ones(min(self._step, rows), np.float32)

    @property
    def capacity(self) -> int:
        """How many rows fit."""
        return len(self._rows)

    @property
    def room(self) -> int:
        """How many rows may be added at once."""
        return min(self._step, self.capacity - self.filled)

    @property
    def sums(self) -> Float:
        """Sum of the rows less the shift."""
        return self._sums * self._unit

    def begin(self, near: Array) -> None:
        """Shift rows from now on by what is near them."""
        self._sums = np.zeros(len(self.shift))
        self._single = near.astype(np.float32)
        self.shift = self._single.astype(np.float64)

    def add(self, parts: list[Array]) -> bool:
        """Take in rows, (rows, features) side by side; refuse them where sums are not finite."""
        rows = self._rows[self.filled : self.filled + len(parts[0])]
        column = 0
        with np.errstate(invalid="ignore", over="ignore"):
            for part in parts:
                columns = slice(column, column + part.shape[1])
                np.subtract(part, self._single[columns], out=rows[:, columns])
                column = columns.stop
            if not self._known:
                self._unit, self.two = _between_two(rows)
                self._known, self._divides = True, bool((self._unit != 1).any())
            if self._divides:
                rows /= self._unit
            if self.filled == 0 and self.two.any():
                self.two &= ((rows == 0) | (np.abs(rows) == 1)).all(axis=0)
            sums = self._ones[: len(rows)] @ rows
        if not np.isfinite(sums).all():
            return False
        self._sums += sums
        self.filled += len(rows)
        return True

    def is_far(self) -> bool:
        """Whether a feature's mean is far from the shift, for what the features vary by."""
        mean, variance = self._apart()
        # Twice as far as rows of later groups are shifted to anyway: those stay as they are.
        return bool(np.square(mean).max() > 2 * FAR * variance / len(mean))

    def recentre(self) -> None:
        """Shift the rows by a row near their mean, or else by that; not those of two values."""
        mean, variance = self._apart()
        row, variance = self._rows[self.filled // 2] * self._unit, variance / len(mean)
        # Frequent values become 0, whose products do not round.
        near = np.square(row - mean) <= FAR * variance
        more = np.where(near, row, coarse(mean, variance)) / self._unit
        more = np.where(self.two, 0, more).astype(np.float32)
        self.shift = self.shift + more.astype(np.float64) * self._unit
        self._sums = np.zeros(len(more))
        for start in range(0, self.filled, self._step):
            some = self._rows[start : min(start + self._step, self.filled)]
            some -= more
            self._sums += self._ones[: len(some)] @ some

    def _apart(self) -> tuple[Float, float]:
        """Return the mean, 0 for features of two values, and the variance of all in sum."""
        rows, mean = self._rows[: self.filled], self.sums / self.filled
        with np.errstate(over="ignore"):
            if self._divides:
                square = np.einsum("ij,ij->j", rows, rows) @ self._unit.astype(np.float64) ** 2
            else:
                square = np.vdot(rows, rows)
        if square == np.inf:  # of numbers that a float32 holds, and their squares not
            square = np.square(rows * self._unit, dtype=np.float64).sum()
        return np.where(self.two, 0, mean), float(square) / self.filled - float(mean @ mean)

    def product(self) -> tuple[slice, Array]:
        """Return the columns from the first to the last that vary, and their outer products."""
        rows = self._rows[: self.filled]
        vary = self._varying(rows)
        rows, unit = rows[:, vary], self._unit[vary].astype(np.float64)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            # NumPy takes this for the symmetric product that it is.
            product: Array = np.matmul(rows.T, rows)
            squares = product.diagonal() @ unit**2
        if not LEAST_SQUARES < squares < np.inf:
            product = rows.T.astype(np.float64) @ rows.astype(np.float64)
        return vary, product * unit * unit[:, None] if self._divides else product

    def _varying(self, rows: Array) -> slice:
        """Return the columns that are not all 0; margins whose sums alone are 0 count too."""
        found = np.flatnonzero(self._sums)
        if not len(found):
            return slice(None)
        first, last = found[0], found[-1] + 1
        if rows[:, :first].any() or rows[:, last:].any():
            return slice(None)
        return slice(first, last)


def rows_at_once(width: int) -> int:
    """Return the rows of a product that pays."""
    return min(MOST_ROWS, max(LEAST_ROWS, CHUNK_BYTES // (4 * width)))


def coarse(mean: Float, variance: Float | float) -> Float:
    """Return the mean in steps of a quarter to a half of the std, but where nothing varies.

    Less such a step, frequent values such as 0 have few digits, and sums of their products are
    exact.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.exp2(np.floor(np.log2(variance) / 2)) / 2
        return np.where(step > 0, np.rint(mean / step) * step, mean)


def is_single(dtype: np.dtype[np.generic]) -> bool:
    """Return whether a type is float32, in any order of bytes."""
    return dtype.kind == "f" and dtype.itemsize == 4


def _between_two(rows: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Return the other value of features that are else 0, or 1; and which features are so."""
    other = rows.min(axis=0) + rows.max(axis=0)
    zero = rows == 0
    often = np.abs(zero.mean(axis=0) - 0.5) <= 0.5 - 1 / OFTEN
    two = (zero | (rows == other)).all(axis=0) & often & np.isfinite(other)
    return np.where(two, other, np.float32(1)), two
