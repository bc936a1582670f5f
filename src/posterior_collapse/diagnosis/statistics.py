"""Statistics of a stream of rows in bounded memory, and what a unit knows of the rows.

Moments are exact, and a random part of the rows is kept.

The mutual information of a unit with the rows is taken under the aggregate posterior. With q_n =
N(mean_n, std_n^2) and their average q, `I = mean_n KL(q_n || q)`. The average is a mixture of as
many Gaussians as there are rows; it is computed on a grid by fast Fourier transform.
"""

from __future__ import annotations

import math
import sys
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from posterior_collapse import checks
from posterior_collapse.arrays import Array, Float

Which = NDArray[np.intp] | slice
"""Of rows: their indices, or all."""

PURPOSE = 0xD1A6
"""Keeps what a seed draws here apart from what the same seed may have drawn elsewhere."""
KEPT_NUMBERS = 2**23
"""Numbers that a reservoir keeps: 64 MiB in float64, and up to twice that while it fills."""
LEAST_KEPT_ROWS = 1000


def row_chooser(seed: int) -> np.random.Generator:
    """Return the generator that chooses the rows of a `Reservoir`."""
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
        rows, n = len(values), self.n + len(values)
        mean = other = values.mean(0)
        apart = others_apart = values - mean
        if others is not None and others is not values:
            other = others.mean(0)
            others_apart = others - other
        shift, other_shift = mean - self.mean, other - self._other
        scatter = (apart * others_apart).sum(0)
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

    Every row gets a random key, and the rows with the smallest keys stay. They are told by their
    keys alone, so that nothing need be computed of rows that go: `choose` before, and then `keep`.
    Where it is known how many rows will come, keys up to a bound stay, about as many as fit.

    Args:
        rng: Source of the keys.
        numbers: How many to keep, about.
        least: Rows that stay whatever their width.
        most: Rows that are enough.
        expected: How many rows will come, if that is known; of more, some that fit are lost.

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
        expected: int | None = None,
    ) -> None:
        self.n = 0
        self._rng = rng
        self._numbers, self._expected = numbers, expected or 0
        self._bounds = least, most
        self._capacity = 0
        self._kept: list[Array] = []  # keys, numbers of the rows, and arrays
        self._filled = 0
        self._full = False
        self._highest = 1.0  # key from which a row cannot stay
        self._chosen: list[Array] = []  # keys and numbers, once chosen
        self._which: Which = slice(None)

    def add(self, *arrays: Array) -> None:
        """Take in the rows of arrays, (rows, ...) each."""
        which = self._which if self._chosen else self.choose(len(arrays[0]))
        self.keep(*(array[which] for array in arrays))

    def choose(self, rows: int) -> Which:
        """Return which of so many more rows may stay: of `slice(None)`, all.

        Call `keep` with those next, or `add` with all.
        """
        keys = self._rng.random(rows)
        numbers = np.arange(self.n, self.n + rows)
        self.n += rows
        if self._highest == 1.0:
            self._which = slice(None)
        else:
            self._which = np.flatnonzero(keys < self._highest)
        self._chosen = [keys[self._which], numbers[self._which]]
        return self._which

    def keep(self, *arrays: Array) -> None:
        """Take in the rows that `choose` named, or others if it was not asked, (rows, ...) each."""
        if not self._chosen:
            return self.add(*arrays)
        rows, self._chosen = [*self._chosen, *arrays], []
        if not self._kept:
            fitting = self._numbers // max(1, sum(math.prod(array.shape[1:]) for array in arrays))
            least, most = self._bounds
            self._capacity = max(least, min(fitting, most))
            # Twice as many while they come; what is not filled takes no memory.
            self._kept = [
                np.empty((2 * self._capacity, *array.shape[1:]), array.dtype) for array in rows
            ]
            if self._capacity < self._expected:
                self._highest = self._capacity / self._expected
                stay = rows[0] < self._highest
                rows = [array[stay] for array in rows]
        if self._full:
            self._replace(rows)
            return
        filled, room = self._filled, len(self._kept[0]) - self._filled
        for mine, new in zip(self._kept, rows, strict=True):
            mine[filled : filled + len(new)] = new[:room]
        self._filled += min(room, len(rows[0]))
        if len(rows[0]) > room:
            beyond = [mine[self._capacity :] for mine in self._kept]
            self._kept = [mine[: self._capacity] for mine in self._kept]
            self._full, self._filled = True, self._capacity
            self._replace(beyond)
            self._replace([new[room:] for new in rows])

    @property
    def kept(self) -> int:
        """Number of rows that `rows` returns."""
        return self._filled

    def rows(self) -> list[Array]:
        """Return the kept rows of each array."""
        _, numbers, *arrays = (mine[: self._filled] for mine in self._kept)
        if not self._full:
            return arrays
        order = np.argsort(numbers)
        return [array[order] for array in arrays]

    def _replace(self, others: list[Array]) -> None:
        """Put rows of smaller keys in the places of those with the largest."""
        both = np.concatenate([self._kept[0], others[0]])
        stay = np.zeros(len(both), bool)
        stay[np.argpartition(both, self._capacity - 1)[: self._capacity]] = True
        places = np.flatnonzero(~stay[: self._capacity])
        better = np.flatnonzero(stay[self._capacity :])
        for mine, new in zip(self._kept, others, strict=True):
            mine[places] = new[better]
        self._highest = float(self._kept[0].max())


FINENESS = 4.0
"""Grid points per std of the narrowest posterior."""
COARSEST = 2.0
"""Grid points per std below which the grid no longer shows a posterior: it is widened to that."""
REACH = 7.0
"""Stds beyond which a posterior has no mass worth mention (3e-12)."""
LEAST_POINTS, MOST_POINTS = 2**14, 2**16
POINTS_PER_ROW = 32
"""Grid points per row from which a finer grid would tell rows apart that are apart already."""
CLASS_RATIO = 2**0.1
"""Ratio of neighbouring kernel widths, if there is memory for as many; each row is interpolated
between two."""
LEAST_CLASSES = 16
MOST_NUMBERS = 2**20
"""Grid points of all widths together: 8 MiB."""


class Information(NamedTuple):
    """I(row; z) of one unit in nats.

    Attributes:
        value: From 0 to log n.
        error: Standard error, for rows drawn at random.
        coarse: Whether the narrowest posteriors had to be widened: `value` is then a lower bound.
    """

    value: float
    error: float
    coarse: bool


class _Shares(NamedTuple):
    """Each of values between two neighbouring points: the lower one and the share of the upper."""

    lower: NDArray[np.intp]
    upper_share: Float


def mixture_information(mean: Float, std: Float) -> Information:
    """Return the mutual information of the row with z, when z given row n is N(mean_n, std_n^2).

    It is that of the rows at hand, hence at most log n. As an estimate for the source of the rows
    it is too low, by about `(E integral q_n^2/q - 1) / (2 n)`: little as long as it is well below
    log n. The standard error is that of the mean of `KL(q_n || q)`, the influence of row n.

    Source:
        Hoffman and Johnson (2016), ELBO surgery, for the quantity; each Gaussian is split over
        two grid points and two widths so that its mean and variance stay exact.

    Example:
        >>> two = mixture_information(np.array([-9.0, 9.0]), np.ones(2))
        >>> round(two.value, 6) == round(math.log(2), 6)
        True
    """
    n = len(mean)
    mean, std, coarse = _gridded(mean, std)
    # Means are counted from the grid's first point, in spacings; stds from here on too.
    points = fft.next_fast_len(math.ceil(mean.max() + REACH * std.max()) + 2, real=True)
    lower = np.floor(mean)
    at = _Shares(lower.astype(np.intp), mean - lower)
    variance = std**2 - at.upper_share * (1 - at.upper_share)
    widths = _classes(variance, max(LEAST_CLASSES, MOST_NUMBERS // points))
    corners = _corners(_between_widths(variance, widths), at, points)
    kernels = np.exp(-0.5 * np.outer(widths, (2 * np.pi * fft.rfftfreq(points)) ** 2))

    cells = len(widths) * points
    places, shares = (np.concatenate(part) for part in zip(*corners, strict=True))
    spectrum = fft.rfft(np.bincount(places, shares, cells).reshape(len(widths), points))
    spectrum *= kernels
    density = fft.irfft(spectrum.sum(0), points) / n
    log_density = np.log(np.maximum(density, 1e-16 * density.max()))
    expected = fft.irfft(fft.rfft(log_density) * kernels, points).ravel()
    cross_entropy = -sum(expected[index] * share for index, share in corners)
    divergence = cross_entropy - np.log(std) - 0.5 * math.log(2 * math.pi * math.e)
    value = min(max(float(divergence.mean()), 0.0), math.log(n))
    return Information(value, float(divergence.std() / math.sqrt(n)), coarse)


def _gridded(mean: Float, std: Float) -> tuple[Float, Float, bool]:
    """Means and stds in units of the grid's spacing, and whether stds were widened for it."""
    reach = REACH * float(std.max())
    spacing = float(std.min()) / FINENESS
    most = min(MOST_POINTS, max(LEAST_POINTS, POINTS_PER_ROW * len(mean)))
    if np.ptp(mean) + 2 * reach > most * spacing:
        mean = _squeezed(mean, std)
        spacing = max(spacing, (float(np.ptp(mean)) + 2 * reach) / most)
    narrowest = COARSEST * spacing
    coarse = bool(std.min() < narrowest)
    return (mean - mean.min() + reach) / spacing, np.maximum(std, narrowest) / spacing, coarse


def _squeezed(mean: Float, std: Float) -> Float:
    """Cut empty stretches out of the axis, which no posterior reaches: I is the same."""
    order = np.argsort(mean - REACH * std)
    low, high = (mean - REACH * std)[order], (mean + REACH * std)[order]
    gaps = np.maximum(low[1:] - np.maximum.accumulate(high)[:-1], 0)
    shifted = np.empty_like(mean)
    shifted[order] = mean[order] - np.concatenate([[0.0], np.cumsum(gaps)])
    return shifted


def _classes(variance: Float, most: int) -> Float:
    """Variances that all rows are made of, ascending, close enough to interpolate between."""
    low, high = float(variance.min()), float(variance.max())
    steps = math.ceil(math.log(high / low) / (2 * math.log(CLASS_RATIO)))
    return np.geomspace(low, high, min(steps, most - 1) + 1)


def _between_widths(variance: Float, widths: Float) -> _Shares:
    if len(widths) == 1:
        return _Shares(np.zeros(len(variance), np.intp), np.zeros(len(variance)))
    lower = np.clip(np.searchsorted(widths, variance, side="right") - 1, 0, len(widths) - 2)
    return _Shares(lower, (variance - widths[lower]) / np.diff(widths)[lower])


def _corners(wide: _Shares, at: _Shares, points: int) -> list[tuple[NDArray[np.intp], Float]]:
    """The (width, point) pairs that each row is split over, as flat indices, and its shares.

    One pair of arrays, (rows,) each, per corner: 4, or 2 where there is but one width.
    """
    corner, shares = wide.lower * points + at.lower, (1 - at.upper_share, at.upper_share)
    if not wide.upper_share.any():
        return [(corner + right, share) for right, share in enumerate(shares)]
    return [
        (corner + (above + right), share * part)
        for above, part in ((0, 1 - wide.upper_share), (points, wide.upper_share))
        for right, share in enumerate(shares)
    ]
