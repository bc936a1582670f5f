"""Above which beta total collapse is the best that any model can do, whatever its networks.

The onset says when collapse is no local optimum. Globally it is optimal, for every encoder, decoder
and family of posteriors, exactly if no output does better than the constant in the mean of
`(p(y|eta) / p(y|eta_0))^(1/beta)` (Csiszar's condition on the rate-distortion function; for
mixtures Lindsay 1983). For a Gaussian: if the centred data are sub-Gaussian of variance proxy
`beta eta_dec^2`. Between onset and ceiling a network may beat collapse, but need not find how.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import optimize
from scipy.special import logsumexp, softmax

from posterior_collapse.arrays import Float
from posterior_collapse.checks import Likelihood
from posterior_collapse.likelihoods import one_hot_widths

__all__ = ["ceiling"]

STARTS, DESCENTS = 24, 6
"""Directions that are looked at, and those that the search goes on from."""
SIZES = np.geomspace(0.05, 20.0, 12)
"""Stretches of a direction of unit noise that are looked at."""
LARGEST = 300.0
"""Log rate beyond which a line search is too far out, and exp near overflow."""

Normaliser = Callable[[Float], tuple[float, Float]]
"""From what is added to the constant output to the log-partition's growth and its gradient."""


def ceiling(likelihood: Likelihood, rows: Float, onset: float, seed: int = 0) -> float:
    """Return the beta above which no model beats total collapse on these rows.

    The supremum is searched for from many starts, so that the true one may be higher.

    Args:
        likelihood: Of the data; a Gaussian's rows are in units of eta_dec.
        rows: Shape (samples, features).
        onset: Where collapse ceases to be a local optimum: the supremum is no less.
        seed: Of the starts.

    Example:
        >>> rows = np.array([[-1.0], [1.0]] * 500)  # a sign is sub-Gaussian of its own variance
        >>> round(ceiling("gaussian", rows, onset=1.0), 6)
        1.0
    """
    centred = rows - rows.mean(axis=0)
    centred = centred[:, centred.std(axis=0) > 0]
    normaliser = _normaliser(likelihood, rows[:, rows.std(axis=0) > 0])

    def value(added: Float) -> tuple[float, Float]:
        """Minus the beta at which an output breaks even with the constant, and its gradient."""
        growth, slope = normaliser(added)
        gains = centred @ added - growth
        beta = _even(gains)
        weights = softmax(gains / beta) if beta > 0 else np.zeros(len(gains))
        total = float(weights @ gains)
        if beta <= 0 or total <= 0:
            return 0.0, np.zeros_like(added)
        return -beta, -beta * (weights @ centred - slope) / total

    looked_at = [
        (value(size * direction)[0], size * direction)
        for direction in _directions(centred, seed)
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


def _normaliser(likelihood: Likelihood, rows: Float) -> Normaliser:
    """Return how the log-partition grows beyond its tangent, since the rows are centred."""
    mean = rows.mean(axis=0)
    if likelihood == "gaussian":
        return lambda added: (float(added @ added) / 2, added)
    if likelihood == "poisson":

        def poisson(added: Float) -> tuple[float, Float]:
            rate = mean * np.exp(np.minimum(added, LARGEST))
            return float((rate - mean - mean * added).sum()), rate - mean

        return poisson
    if likelihood == "bernoulli":
        logit = np.log(mean) - np.log1p(-mean)

        def bernoulli(added: Float) -> tuple[float, Float]:
            eta = logit + added
            growth = np.logaddexp(0, eta) - np.logaddexp(0, logit) - mean * added
            return float(growth.sum()), np.exp(-np.logaddexp(0, -eta)) - mean

        return bernoulli
    ends = np.cumsum(one_hot_widths(rows))[:-1]

    def categorical(added: Float) -> tuple[float, Float]:
        blocks = np.split(np.log(mean) + added, ends)
        total = sum(float(logsumexp(block)) for block in blocks)
        return total - float(mean @ added), np.concatenate([softmax(b) for b in blocks]) - mean

    return categorical


def _directions(centred: Float, seed: int) -> list[Float]:
    """Both signs of the leading modes, centres of parts, and the rows farthest out."""
    from sklearn.cluster import MiniBatchKMeans

    count = STARTS // 3
    _, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    leading = vectors[:, ::-1].T[: count // 2]
    parts = MiniBatchKMeans(min(count, len(centred)), random_state=seed, n_init=1).fit(centred)
    far = centred[np.argsort(-np.linalg.norm(centred, axis=1))[:count]]
    points = [*leading, *-leading, *parts.cluster_centers_, *far]
    return [point / np.linalg.norm(point) for point in points if np.linalg.norm(point) > 0]
