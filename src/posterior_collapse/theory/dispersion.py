"""The dispersion of a negative binomial that counts make likeliest, feature by feature.

A learned dispersion is one constant per feature, so that before any unit lives it settles where the
counts are likeliest about the best output without latents. Their mean and variance alone do not
tell it: a few bursts make the variance, and all the other counts the likelihood. But each distinct
count need be looked at only once, with how often it occurred.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, polygamma, psi

from posterior_collapse.arrays import Array, Float, chunks
from posterior_collapse.specs import Spec

LEAST = 1e-6
"""As of a trained dispersion."""
NEARLY_POISSON = 1e10
"""Times the mean, a dispersion beyond which a negative binomial is a Poisson to all digits."""
SERIES = 20.0
"""From here on five terms of Stirling's series have all the digits that are needed."""
STEPS = 100
ENOUGH = 1e-8
"""Relative change of r at which it is found: a step of Newton's squares what is left."""


@dataclass(frozen=True, eq=False)
class Tally:
    """Which values each feature has, and how often.

    Attributes:
        feature: Whose value it is, shape (values,).
        value: Of a feature.
        times: How many rows have it.
    """

    feature: npt.NDArray[np.int64]
    value: Float
    times: Float
    n: int
    features: int

    @classmethod
    def of(cls, y: Array) -> Tally:
        """Count the values of rows, a few of them at a time.

        Args:
            y: Counts, (samples, d_y).

        Example:
            >>> found = Tally.of(np.array([[0, 3], [2, 3], [0, 3]]))
            >>> list(zip(found.feature.tolist(), found.value.tolist(), found.times.tolist()))
            [(0, 0.0, 2.0), (0, 2.0, 1.0), (1, 3.0, 3.0)]
        """
        found = cls.beside(np.empty((0, y.shape[1])))
        for _, (rows,) in chunks(y):
            values = np.sort(np.asarray(rows, dtype=np.float64).T, axis=1)
            first = np.ones(values.shape, dtype=bool)
            first[:, 1:] = np.diff(values) != 0
            times = np.diff(np.flatnonzero(first), append=first.size).astype(np.float64)
            found += cls(np.nonzero(first)[0], values[first], times, len(rows), y.shape[1])
        return found

    @classmethod
    def beside(cls, y: Float) -> Tally:
        """Return every value for itself, row by row, to stand beside what is expected of it."""
        rows, features = y.shape
        return cls(np.tile(np.arange(features), rows), y.ravel(), np.ones(y.size), rows, features)

    def __add__(self, other: Tally) -> Tally:
        """Return the counts of both's rows."""
        feature = np.concatenate([self.feature, other.feature])
        value = np.concatenate([self.value, other.value])
        times = np.concatenate([self.times, other.times])
        order = np.lexsort((value, feature))
        feature, value = feature[order], value[order]
        first = np.ones(len(order), dtype=bool)
        first[1:] = (np.diff(feature) != 0) | (np.diff(value) != 0)
        times = np.add.reduceat(times[order], np.flatnonzero(first))
        return Tally(feature[first], value[first], times, self.n + other.n, self.features)

    def mean(self, of: Float) -> Float:
        """Return the mean over rows of what each value has, by feature, (d_y,)."""
        return np.bincount(self.feature, self.times * of, self.features) / self.n


def is_learned(spec: Spec) -> bool:
    """Return whether a spec has a dispersion that is learned, which takes every count to tell.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> is_learned(VAESpec(2, likelihood="negative-binomial"))
        True
    """
    return spec.likelihood == "negative-binomial" and spec.dispersion == "learned"


def by_moments(squares: Float, extra: Float) -> Float:
    """Return r of each feature by moments; infinite where its counts vary as a Poisson's or less.

    Args:
        squares: Mean square of the mean, (d_y,).
        extra: Variance beyond the mean, (d_y,).

    Example:
        >>> by_moments(np.array([4.0, 4.0]), np.array([2.0, -0.1])).tolist()
        [2.0, inf]
    """
    found = np.full_like(squares, np.inf)
    return np.divide(squares, extra, out=found, where=(extra > 0) & (squares > 0))


def likeliest(counts: Tally, mean: Float) -> Float:
    """Return the r of largest likelihood; infinite where counts vary as a Poisson's or less.

    Args:
        counts: Values of each feature.
        mean: What is expected of each of them, shape (values,).

    Source:
        Levin and Reeds (1977): about the mean of a feature there is one r exactly if its variance
        is larger.

    Example:
        >>> y = np.random.default_rng(0).negative_binomial(2.0, 0.4, (20_000, 1))
        >>> counts = Tally.of(y)
        >>> likeliest(counts, np.full(len(counts.value), y.mean())).round(1).tolist()
        [2.0]
    """
    y, squares = counts.value, counts.mean(mean**2)
    start = by_moments(squares, counts.mean(np.square(y - mean) - y))
    finite = np.isfinite(start)
    # Newton's steps along log r, and halves of the bracket where one would leave it.
    low = np.full(counts.features, np.log(LEAST))
    high = np.log(NEARLY_POISSON * np.maximum(np.sqrt(squares), 1.0))
    at = np.clip(np.log(np.where(finite, start, 1.0)), low, high)
    for _ in range(STEPS):
        r = np.exp(at)
        slope, bend = _slope(counts, mean, r)
        low, high = np.where(slope > 0, at, low), np.where(slope > 0, high, at)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = -slope / (slope + r * bend)  # of r times the slope
        # A step as small as rounding may end on the bracket, and is as good as none.
        inside = ((at + step > low) & (at + step < high)) | (np.abs(step) < ENOUGH)
        new = np.where(inside, at + step, (low + high) / 2)
        moved, at = np.abs(new - at)[finite].max(initial=0.0), new
        if moved < ENOUGH:
            break
    return np.where(finite, np.exp(at), np.inf)


def _slope(counts: Tally, mean: Float, r: Float) -> tuple[Float, Float]:
    """Return the derivative of the mean log likelihood by r, and its own, (d_y,).

    Written so that of a large r, where all of it is nearly 0, digits are left.
    """
    each = r[counts.feature]
    off = (counts.value - mean) / (each + mean)
    value, change = _beyond_log(each + counts.value)
    first, bend = _beyond_log(r)
    # Of huge counts a 0 is off by -1 to all digits.
    logs = np.where(off > -0.5, np.log1p(np.maximum(off, -0.5)), 0.0)
    np.log((each + counts.value) / (each + mean), out=logs, where=off <= -0.5)
    slope = counts.mean(value + logs - off) - first
    return slope, counts.mean(change + off**2 / (each + counts.value)) - bend


def _beyond_log(x: Float) -> tuple[Float, Float]:
    """Return psi(x) - log(x), and its derivative."""
    large, safe = x > SERIES, np.maximum(x, SERIES)
    small, u = x[~large], 1 / safe
    found: Any = -u / 2 - u**2 / 12 + u**4 / 120 - u**6 / 252 + u**8 / 240
    slope: Any = u**2 / 2 + u**3 / 6 - u**5 / 30 + u**7 / 42 - u**9 / 30
    found[~large] = psi(small) - np.log(small)
    slope[~large] = polygamma(1, small) - 1 / small
    return found, slope


def log_rising(counts: Tally, r: Float) -> float:
    """Return the mean over rows of log Gamma(r + y) - log Gamma(r) - y log r, over features.

    Of a negative binomial whose dispersion is learned it belongs to the loss: it is all that r
    changes where the data are not. Of an infinite r it is 0.

    Args:
        counts: Values of each feature.
        r: Dispersion of each feature, (d_y,).

    Example:
        >>> two = Tally.of(np.array([[2.0]]))
        >>> log_rising(two, np.array([np.inf]))
        0.0
        >>> bool(np.isclose(log_rising(two, np.array([4.0])), np.log(5 / 4)))
        True
    """
    y, finite = counts.value, np.isfinite(r)
    each = np.where(finite, r, 1.0)[counts.feature]
    found = gammaln(y + each) - gammaln(each) - y * np.log(each)
    return float(counts.mean(found)[finite].sum())
