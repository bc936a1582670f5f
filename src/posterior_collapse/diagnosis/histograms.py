"""What a level's units look like from the prior: the aggregate posterior in cells."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

__all__ = ["CELLS", "Histogram", "aggregate_histogram"]

Float = NDArray[np.float64]

CELLS = 48
REACH = 4.0
"""Stds of the prior, or of the widest unit, to either side of the middle."""
MOST_ROWS = 1000
"""Enough for a picture: a cell's share is off by a few hundredths of the highest at most."""


class Histogram(NamedTuple):
    """The aggregate posterior of each unit, q(z_i) = mean over the rows of q(z_i|x).

    Attributes:
        edges: Of the cells, (units, cells + 1), in latent units.
        share: Of q(z_i) in each cell, (units, cells).
        prior: Likewise of the prior, (units, cells); NaN where it is no one Gaussian.
    """

    edges: Float
    share: Float
    prior: Float


def aggregate_histogram(
    mean: Float,
    variance: Float,
    prior_mean: Float,
    prior_std: Float,
    usable: NDArray[np.bool_] | None = None,
) -> Histogram:
    """Return the histogram of units whose z given row n is N(mean_n, variance_n).

    Args:
        mean: (rows, units).
        variance: (rows, units), positive.
        prior_mean: (units,); NaN where the prior is no one Gaussian.
        prior_std: (units,).
        usable: Units that decide how wide the cells are, (units,); None: all.

    Example:
        >>> found = aggregate_histogram(np.zeros((5, 2)), np.ones((5, 2)), np.zeros(2), np.ones(2))
        >>> bool(np.allclose(found.share, found.prior)), found.share.shape
        (True, (2, 48))
    """
    some = np.unique(np.linspace(0, len(mean) - 1, MOST_ROWS).astype(np.intp))
    mean, std = mean[some], np.sqrt(variance[some])
    centre = np.where(np.isnan(prior_mean), mean.mean(0), prior_mean)
    far = np.abs(mean.mean(0) - centre) + 3 * np.sqrt(np.square(std).mean(0) + mean.var(0))
    # One width for all units of a level, so that a narrow one looks narrow.
    seen = np.ones(len(far), dtype=bool) if usable is None or not usable.any() else usable
    reach = max(REACH * float(prior_std[seen].max()), float(far[seen].max()))
    edges = centre[:, None] + reach * np.linspace(-1, 1, CELLS + 1)
    below = np.stack([ndtr((edge - mean) / std).mean(0) for edge in edges.T], axis=1)
    prior = ndtr((edges - prior_mean[:, None]) / prior_std[:, None])
    return Histogram(edges, np.diff(below, axis=1), np.diff(prior, axis=1))
