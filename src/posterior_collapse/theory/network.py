"""What networks can do that linear models cannot: keep fewer units, and live above the onset.

A linear model spends a unit on every mode above the threshold. A network folds several modes into
one unit where they matter in different parts of the data, and does so the more the longer it
trains. In one part no more units pay than its own covariance has modes above the threshold: so the
average of that count over parts is about the fewest that a network trained to convergence keeps,
and the linear count the most.

The onset says when collapse is no local optimum. Globally it is optimal, for every encoder, decoder
and family of posteriors, exactly if no output does better than the constant in the mean of
`(p(y|eta) / p(y|eta_0))^(1/beta)` (Csiszar's condition on the rate-distortion function; for
mixtures Lindsay 1983). For a Gaussian: if the centred data are sub-Gaussian of variance proxy
`beta eta_dec^2`. Between onset and this ceiling a network may beat collapse, but need not find how.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize
from scipy.special import logsumexp, softmax

from posterior_collapse.arrays import Float
from posterior_collapse.checks import Likelihood
from posterior_collapse.data.samples import Samples
from posterior_collapse.likelihoods import FAMILIES, law, one_hot_widths
from posterior_collapse.specs import Spec
from posterior_collapse.theory.spectrum import Modes
from posterior_collapse.theory.whitening import regress

MOST_ROWS = 10_000
"""Rows that parts are made of: more change the counts by less than a tenth of a unit."""
PARTS = 40
"""With which the counts of trained networks were met best, on digits and MNIST."""
LEAST_ROWS = 40
"""Rows of a part; fewer data make fewer parts."""
PARTITIONS = 3
"""Over which counts are averaged: one alone is off by up to 0.2, whose rounding tells."""
ROWS_OF_CENTRES = 2000
"""From which centres are found, to convergence; all rows then go to the nearest."""
UNTIED = 1e-6
"""Of the rows' std, by which those are moved: which of two equally near centres is nearer would be
for rounding to say, and so for the processor."""
STARTS, DESCENTS = 24, 6
"""Directions that are looked at for a ceiling, and those that the search goes on from."""
FLAT = 1e-10
"""Share of the largest variance that is none: one-hot rows in float32 sum to 1 but for as much."""
SIZES = np.geomspace(0.05, 20.0, 12)
"""Stretches of a direction of unit noise that are looked at."""


def some_rows(data: Samples) -> tuple[Float, Float]:
    """Return at most 10,000 rows of x and y, in float64; y is x where there is no other."""
    n = len(data.x)
    chosen: Any = slice(None)
    if n > MOST_ROWS:
        chosen = np.sort(np.random.default_rng(0).choice(n, MOST_ROWS, replace=False))
    x = np.asarray(data.x[chosen], dtype=np.float64)
    return x, x if data.y is None else np.asarray(data.y[chosen], dtype=np.float64)


def bracket(
    x: Float, y: Float, modes: Modes, spec: Spec, threshold: float, most: int
) -> tuple[tuple[int, int], list[str]]:
    """Return the fewest and most units that a network keeps, and what to know of that.

    Args:
        x: Input or condition, of some rows.
        y: Target.
        modes: Of the data.
        spec: Says the likelihood.
        threshold: Variance that a mode must exceed for its unit to be active.
        most: Units that a linear model keeps.
    """
    if not most:
        return (0, 0), []  # above the onset
    count, parts = fewest_units(_rows_of_modes(x, y, modes, spec), threshold)
    notes = []
    if parts < PARTS:
        notes.append(
            f"the fewest units of a network are counted in {parts} part{'s' * (parts > 1)} of the "
            f"data, as {len(x):,} rows allow: with {PARTS} parts they may be fewer"
        )
    return (int(np.clip(round(count), 1, most)), most), notes


def _rows_of_modes(x: Float, y: Float, modes: Modes, spec: Spec) -> Float:
    """Rows whose covariance has the modes' variances."""
    noise = modes.noise
    divisor = None if noise is None else noise.divisor
    if noise is not None and divisor is None:  # a condition's part is not linear in it
        return regress(spec.likelihood, x, y, spec.dispersion).scores
    if modes.conditional:
        return np.asarray(y - x @ np.asarray(modes.vectors.regression).T)
    rows = y if divisor is None else np.asarray(y / divisor)
    if not modes.moments.paired:
        return rows
    # Modes are of what x tells of y, linearly.
    x = x - x.mean(axis=0)
    return np.asarray(x @ np.linalg.lstsq(x, rows - rows.mean(axis=0))[0])


def fewest_units(rows: Float, threshold: float) -> tuple[float, int]:
    """Return modes above the threshold within a part of the data, on average, and how many parts.

    Args:
        rows: Shape (samples, features), in the units of the threshold's root.
        threshold: Variance that a mode must exceed for its unit to be active.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> angle = rng.uniform(0, 2 * np.pi, 1200)
        >>> ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        >>> rows = 5 * ring + 0.02 * rng.standard_normal((1200, 2))  # two modes, one at each place
        >>> count, parts = fewest_units(rows, threshold=0.02)
        >>> round(count, 1), parts
        (1.0, 30)
    """
    parts = int(np.clip(len(rows) // LEAST_ROWS, 1, PARTS))
    partitions = PARTITIONS if parts > 1 else 1
    modes = 0
    for seed in range(partitions):
        labels = _partition(rows, parts, np.random.default_rng(seed))
        members = (rows[labels == part] for part in range(parts))
        modes += sum(len(part) * _modes_above(part, threshold) for part in members)
    return modes / (partitions * len(rows)), parts


def _partition(rows: Float, parts: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return which part each row is of, by k-means that depends on no version and no processor.

    Its start is drawn here, far points first (k-means++ of Arthur and Vassilvitskii 2007), and from
    there Lloyd's steps, to the end, draw nothing.
    """
    from sklearn.cluster import KMeans

    few = rows[rng.permutation(len(rows))[:ROWS_OF_CENTRES]]
    few = few + UNTIED * (few.std() or 1.0) * rng.standard_normal(few.shape)
    starts, distance = few[:1], np.full(len(few), np.inf)
    while len(starts) < parts:
        distance = np.minimum(distance, np.square(few - starts[-1]).sum(axis=1))
        upto = np.cumsum(distance)
        starts = np.vstack([starts, few[np.searchsorted(upto, rng.random() * upto[-1])]])
    means = KMeans(parts, init=starts, n_init=1, tol=0.0, algorithm="lloyd").fit(few)
    return np.asarray(means.predict(rows), dtype=np.int64)


def _modes_above(rows: Float, threshold: float) -> int:
    """Modes of a few rows above the threshold, less what their fewness adds.

    The weaker directions, seen through n rows, add about their summed variance over n - 1 to each
    stronger one (the spiked model of Johnstone 2001, to first order).
    """
    n = len(rows)
    if n < 2:
        return 0
    centred = rows - rows.mean(axis=0)
    gram = centred @ centred.T if n < rows.shape[1] else centred.T @ centred
    variance = np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0) / (n - 1)
    weaker = np.append(np.cumsum(variance[::-1])[::-1][1:], 0.0)
    below = np.flatnonzero(variance - weaker / (n - 1) <= threshold)
    return int(below[0]) if below.size else len(variance)


def ceiling(likelihood: Likelihood, rows: Float, onset: float) -> float:
    """Return the beta above which no model beats total collapse on these rows.

    The supremum is searched for from many starts, so that the true one may be higher.

    Args:
        likelihood: Of the data; a Gaussian's rows are in units of eta_dec.
        rows: Shape (samples, features).
        onset: Where collapse ceases to be a local optimum: the supremum is no less.

    Example:
        >>> rows = np.array([[-1.0], [1.0]] * 500)  # a sign is sub-Gaussian of its own variance
        >>> round(ceiling("gaussian", rows, onset=1.0), 6)
        1.0
    """
    rows = rows[:, rows.std(axis=0) > 0]
    mean = rows.mean(axis=0)
    centred = rows - mean
    # As the rows are centred, an output costs what it does on their mean.
    if likelihood == "gaussian":
        mean = constant = np.zeros_like(mean)
    else:
        constant = np.asarray(FAMILIES[likelihood].link(mean))
    cost = law(likelihood, mean, widths=one_hot_widths(rows) if likelihood == "categorical" else ())
    least = cost(constant)[0]

    def value(added: Float) -> tuple[float, Float]:
        """Minus the beta at which an output breaks even with the constant, and its gradient."""
        loss, slope, _ = cost(constant + added)
        gains = centred @ added - (loss - least)
        beta = _even(gains)
        weights = softmax(gains / beta) if beta > 0 else np.zeros(len(gains))
        total = float(weights @ gains)
        if beta <= 0 or total <= 0:
            return 0.0, np.zeros_like(added)
        return -beta, -beta * (weights @ centred - slope) / total

    looked_at = [
        (value(size * direction)[0], size * direction)
        for direction in _directions(centred)
        for size in SIZES
    ]
    best = onset
    for _, start in sorted(looked_at, key=lambda pair: pair[0])[:DESCENTS]:
        found = optimize.minimize(value, start, jac=True, method="L-BFGS-B")
        best = max(best, -float(found.fun))
    return best


def _even(gains: Float) -> float:
    """Return the beta at which the mean of exp(gains / beta) is 1; 0 if no row gains."""
    most = float(gains.max())
    if most <= 0 or gains.mean() >= 0:
        return 0.0 if most <= 0 else np.inf

    def excess(log_beta: float) -> float:
        shares = gains / np.exp(log_beta)
        if shares.max() < 1:  # near the constant the mean of exp is 1 but for rounding
            return float(np.log1p(np.mean(np.expm1(shares))))
        return float(logsumexp(shares) - np.log(len(gains)))

    # As beta grows the mean of gains decides, which is negative; as it falls, the largest gain.
    high = np.log(most)
    while excess(high) > 0 and high < 700:
        high += 1.0
    low = high - 1.0
    while excess(low) < 0 and low > -700:
        low -= 1.0
    return float(np.exp(optimize.brentq(excess, low, high, xtol=1e-12)))


def _directions(centred: Float) -> list[Float]:
    """Both signs of the leading modes, centres of parts, and the rows farthest out."""
    count = STARTS // 3
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    # Along others no row varies: to a categorical they are all one output.
    vectors = vectors[:, values > FLAT * values[-1]]
    leading = vectors[:, ::-1].T[: count // 2]
    labels = _partition(centred, min(count, len(centred)), np.random.default_rng(0))
    centres = [centred[labels == part].mean(axis=0) for part in np.unique(labels)]
    far = centred[np.argsort(-np.linalg.norm(centred, axis=1))[:count]]
    points = [*leading, *-leading, *centres, *far]
    return [point / np.linalg.norm(point) for point in points if np.linalg.norm(point) > 0]
