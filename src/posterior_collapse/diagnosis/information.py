"""Mutual information of one latent unit with the rows, under the aggregate posterior.

With q_n = N(mean_n, std_n^2) and their average q, `I = mean_n KL(q_n || q)`. The average is a
mixture of as many Gaussians as there are rows; it is computed on a grid by fast Fourier transform.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft

__all__ = ["Information", "mixture_information"]

Float = NDArray[np.float64]

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
"""Between neighbouring widths that all posteriors are made of, if there is memory for as many."""
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

    Args:
        mean: (n,), finite.
        std: (n,), positive.

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
    at = _between(mean)
    variance = std**2 - at.upper_share * (1 - at.upper_share)
    widths = _classes(variance, max(LEAST_CLASSES, MOST_NUMBERS // points))
    index, share = _corners(_between_widths(variance, widths), at, points)
    kernels = np.exp(-0.5 * np.outer(widths, (2 * np.pi * fft.rfftfreq(points)) ** 2))

    weights = np.bincount(index.ravel(), share.ravel(), minlength=len(widths) * points)
    spectrum = fft.rfft(weights.reshape(len(widths), points)) * kernels
    density = fft.irfft(spectrum.sum(0), points) / n
    log_density = np.log(np.maximum(density, 1e-16 * density.max()))
    expected = fft.irfft(fft.rfft(log_density) * kernels, points).ravel()
    cross_entropy = -(expected[index] * share).sum(0)
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


def _between(position: Float) -> _Shares:
    lower = np.floor(position)
    return _Shares(lower.astype(np.intp), position - lower)


def _classes(variance: Float, most: int) -> Float:
    """Variances that all rows are made of, ascending, close enough to interpolate between."""
    low, high = float(variance.min()), float(variance.max())
    steps = math.ceil(math.log(high / low) / (2 * math.log(CLASS_RATIO)))
    classes = np.geomspace(low, high, min(steps, most - 1) + 1)
    classes[0], classes[-1] = low, high
    return classes


def _between_widths(variance: Float, widths: Float) -> _Shares:
    if len(widths) == 1:
        return _Shares(np.zeros(len(variance), np.intp), np.zeros(len(variance)))
    lower = np.clip(np.searchsorted(widths, variance, side="right") - 1, 0, len(widths) - 2)
    return _Shares(lower, (variance - widths[lower]) / np.diff(widths)[lower])


def _corners(wide: _Shares, at: _Shares, points: int) -> tuple[NDArray[np.intp], Float]:
    """The (width, point) pairs that each row is split over, as flat indices, and its shares.

    Both (corners, rows): 4 corners, or 2 where there is but one width.
    """
    corner = wide.lower * points + at.lower
    shares = [1 - at.upper_share, at.upper_share]
    if not wide.upper_share.any():
        return np.stack([corner, corner + 1]), np.stack(shares)
    above = corner + points
    index = np.stack([corner, corner + 1, above, above + 1])
    lower, upper = (np.stack(shares) * part for part in (1 - wide.upper_share, wide.upper_share))
    return index, np.concatenate([lower, upper])
