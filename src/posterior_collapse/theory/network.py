"""What a network keeps: fewer units than a linear model, since one unit serves many places.

A linear model spends a unit on every mode above the threshold. A network folds several modes into
one unit where they matter in different parts of the data, and does so the more the longer it
trains. In one part no more units pay than its own covariance has modes above the threshold: so the
average of that count over parts is about the fewest that a network trained to convergence keeps,
and the linear count the most.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from posterior_collapse.arrays import Float
from posterior_collapse.data.samples import Samples
from posterior_collapse.specs import Spec
from posterior_collapse.theory import regression
from posterior_collapse.theory.spectrum import Modes

__all__ = ["fewest_units", "rows_of_modes", "some_rows"]

MOST_ROWS = 10_000
"""Rows that parts are made of: more change the counts by less than a tenth of a unit."""
PARTS = 40
"""With which the counts of trained networks were met best, on digits and MNIST."""
LEAST_ROWS = 40
"""Rows of a part; fewer data make fewer parts."""


def some_rows(data: Samples, seed: int = 0) -> tuple[Float, Float]:
    """Return at most 10,000 rows of x and y, in float64; y is x where there is no other.

    Args:
        data: All of them.
        seed: Of the choice.
    """
    n = len(data.x)
    chosen: Any = slice(None)
    if n > MOST_ROWS:
        chosen = np.sort(np.random.default_rng(seed).choice(n, MOST_ROWS, replace=False))
    x = np.asarray(data.x[chosen], dtype=np.float64)
    return x, x if data.y is None else np.asarray(data.y[chosen], dtype=np.float64)


def rows_of_modes(x: Float, y: Float, modes: Modes, spec: Spec) -> Float:
    """Return rows whose covariance has the modes' variances.

    Args:
        x: Input or condition.
        y: Target.
        modes: Of the data.
        spec: Says the likelihood.
    """
    if spec.model == "cvae" and modes.noise is not None:
        return regression.fit(spec.likelihood, x, y, spec.dispersion).scores
    if spec.model == "cvae":
        regressed = modes.vectors.regression
        assert regressed is not None
        return np.asarray(y - x @ regressed.T)
    if modes.noise is None:
        return y
    assert modes.noise.divisor is not None
    return np.asarray(y / modes.noise.divisor)


def fewest_units(rows: Float, threshold: float, seed: int = 0) -> tuple[float, int]:
    """Return modes above the threshold within a part of the data, on average, and how many parts.

    Args:
        rows: Shape (samples, features), in the units of the threshold's root.
        threshold: Variance that a mode must exceed for its unit to be active.
        seed: Of the k-means that makes the parts.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> angle = rng.uniform(0, 2 * np.pi, 1200)
        >>> ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        >>> rows = 5 * ring + 0.02 * rng.standard_normal((1200, 2))  # two modes, one at each place
        >>> fewest_units(rows, threshold=0.02)
        (1.0, 30)
    """
    from sklearn.cluster import MiniBatchKMeans

    parts = int(np.clip(len(rows) // LEAST_ROWS, 1, PARTS))
    means = MiniBatchKMeans(parts, random_state=seed, n_init=3, batch_size=1024)
    labels = means.fit_predict(rows)
    members = (rows[labels == part] for part in range(parts))
    modes = sum(len(part) * _modes_above(part, threshold) for part in members)
    return modes / len(rows), parts


def _modes_above(rows: Float, threshold: float) -> int:
    """Modes of a few rows above the threshold, less what their fewness adds.

    The weaker directions, seen through n rows, add about their summed variance over n - 1 to each
    stronger one (the spiked model of Johnstone 2001, to first order).
    """
    n = len(rows)
    if n < 2:
        return 0
    variance = np.square(np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)) / (n - 1)
    weaker = np.append(np.cumsum(variance[::-1])[::-1][1:], 0.0)
    below = np.flatnonzero(variance - weaker / (n - 1) <= threshold)
    return int(below[0]) if below.size else len(variance)
