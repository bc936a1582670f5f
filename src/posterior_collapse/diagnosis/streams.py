"""Statistics of a stream of rows in bounded memory: exact moments and a random part of the rows."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterior_collapse import checks

__all__ = ["KEPT_NUMBERS", "LEAST_KEPT_ROWS", "PURPOSE", "Reservoir", "Running", "row_chooser"]

Array = NDArray[Any]
Float = NDArray[np.float64]

PURPOSE = 0xD1A6
"""Keeps what a seed draws here apart from what the same seed may have drawn elsewhere."""
KEPT_NUMBERS = 2**23
"""Numbers that a reservoir keeps: 64 MiB in float64, and up to twice that while it fills."""
LEAST_KEPT_ROWS = 1000


def row_chooser(seed: int) -> np.random.Generator:
    """Return the generator that chooses the rows of a `Reservoir`.

    Raises:
        InvalidArgumentError: The seed is not a whole number of at least 0.
    """
    return np.random.default_rng([checks.whole("seed", seed, least=0), PURPOSE])


class Running:
    """Mean and covariance of two arrays' columns, pair by pair, over all rows seen.

    Batches are combined as by Chan, Golub and LeVeque (1983): large means cost no digits.

    Example:
        >>> running = Running()
        >>> running.add(np.array([[1e9], [1e9 + 2]]))
        >>> running.add(np.array([[1e9 + 4]]))
        >>> running.mean - 1e9, running.error.round(3)
        (array([2.]), array([1.155]))
    """

    def __init__(self) -> None:
        self.n = 0
        self.mean: Float = np.zeros(())
        self._other: Float = np.zeros(())
        self._scatter: Float = np.zeros(())

    def add(self, values: Float, others: Float | None = None) -> None:
        """Take in (rows, columns); none: the values' own variance."""
        others = values if others is None else others
        rows, n = len(values), self.n + len(values)
        mean, other = values.mean(0), others.mean(0)
        shift, other_shift = mean - self.mean, other - self._other
        scatter = ((values - mean) * (others - other)).sum(0)
        self._scatter = self._scatter + scatter + shift * other_shift * (self.n * rows / n)
        self.mean = self.mean + shift * (rows / n)
        self._other = self._other + other_shift * (rows / n)
        self.n = n

    @property
    def covariance(self) -> Float:
        """Normalised by n, as the theory's."""
        return self._scatter / self.n

    @property
    def error(self) -> Float:
        """Standard error of `mean`; NaN for a single row."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sqrt(self._scatter / np.float64(self.n - 1) / self.n)


class Reservoir:
    """As many rows as fit, each row seen with the same chance of being there, in the order seen.

    Every row gets a random key, and the rows with the smallest keys stay.

    Args:
        rng: Source of the keys.
        numbers: How many to keep, about.
        least: Rows that stay whatever their width.
        most: Rows that are enough.

    Example:
        >>> reservoir = Reservoir(np.random.default_rng(0), numbers=0, least=1000)
        >>> for start in range(0, 9000, 3000):
        ...     reservoir.add(np.arange(start, start + 3000))
        >>> (kept,) = reservoir.rows()
        >>> reservoir.n, len(kept), bool((np.diff(kept) > 0).all())
        (9000, 1000, True)
    """

    def __init__(
        self,
        rng: np.random.Generator,
        numbers: int = KEPT_NUMBERS,
        least: int = LEAST_KEPT_ROWS,
        most: int = sys.maxsize,
    ) -> None:
        self.n = 0
        self._rng = rng
        self._numbers = numbers
        self._bounds = least, most
        self._capacity = least
        self._parts: list[list[Array]] = []
        self._highest = 1.0  # key from which a row cannot stay

    def add(self, *arrays: Array) -> None:
        """Take in the rows of arrays, (rows, ...) each."""
        keys = self._rng.random(len(arrays[0]))
        self.n += len(keys)
        stay = keys < self._highest
        self._parts.append([keys, *arrays] if stay.all() else [a[stay] for a in (keys, *arrays)])
        fitting = self._numbers // max(1, sum(array[:1].size for array in arrays))
        least, most = self._bounds
        self._capacity = max(least, min(fitting, most))
        if self._waiting > 2 * self._capacity:
            self._shrink()

    @property
    def kept(self) -> int:
        """Number of rows that `rows` returns."""
        return self.n if self._waiting == self.n else self._capacity

    def rows(self) -> list[Array]:
        """Return the kept rows of each array."""
        if self._waiting < self.n:
            self._shrink()
        return self._joined()[1:]

    @property
    def _waiting(self) -> int:
        return sum(len(part[0]) for part in self._parts)

    def _shrink(self) -> None:
        keys, *arrays = self._joined()
        if len(keys) > self._capacity:
            stay = np.sort(np.argpartition(keys, self._capacity)[: self._capacity])
            keys, *arrays = (array[stay] for array in (keys, *arrays))
            self._highest = float(keys.max())
        self._parts = [[keys, *arrays]]

    def _joined(self) -> list[Array]:
        return [np.concatenate(column) for column in zip(*self._parts, strict=True)]
