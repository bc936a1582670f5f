"""What a condition tells of a target under a likelihood: a generalised linear model per feature.

It is the best output that a conditional model gives without its latents, where the path from the
condition is linear. All features are fitted at once by L-BFGS on the white condition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import linalg, optimize
from scipy.special import expit, gammaln, softmax

from posterior_collapse.arrays import Array, Float, chunks
from posterior_collapse.checks import Dispersion, Likelihood
from posterior_collapse.likelihoods import FAMILIES, check_targets, one_hot_widths

__all__ = ["Regression", "dispersion", "fit", "log_rising"]

ITERATIONS = 2000
TOLERANCE = 1e-5
"""Nats per sample and unit of a white coefficient: the gradient at which a fit is finished."""
LARGEST = 300.0
"""Log rate beyond which a line search is too far out, and exp near overflow."""


@dataclass(frozen=True, eq=False)
class Regression:
    """The best output linear in the condition, and what it leaves.

    Attributes:
        scores: Scores of each row in units of their noise, F^(-1/2) s, shape (samples, d_y).
        loss: Mean loss, nats per sample, less what the data alone decide.
        rank: Independent features of the condition.
        notes: What the reader should know.
    """

    scores: Float
    loss: float
    rank: int
    notes: tuple[str, ...] = ()


Law = Callable[[Float], tuple[Float, Float, Float]]
"""From outputs, (samples, d_y), to their loss less what the data alone decide, its gradient by the
outputs, and their means."""


def fit(likelihood: Likelihood, x: Array, y: Array, r: Dispersion = "learned") -> Regression:
    """Fit a generalised linear model of y on x, with an intercept.

    Args:
        likelihood: Of y.
        x: Condition, (samples, d_x).
        y: Target, (samples, d_y).
        r: Dispersion of a negative binomial.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = rng.standard_normal((500, 2))
        >>> y = (rng.random((500, 1)) < expit(2 * x[:, :1])).astype(float)
        >>> found = fit("bernoulli", x, y)
        >>> bool(abs(found.scores.mean()) < 1e-4 and found.loss < 0.6)
        True
    """
    check_targets(likelihood, y)
    target = np.asarray(y, dtype=np.float64)
    white, rank = _white(np.asarray(x, dtype=np.float64))
    if likelihood == "categorical":
        widths = one_hot_widths(target)
        loss, means = _minimise(white, target, likelihood, _categorical(target, widths))
        return Regression(_blocks_whitened(target - means, means, widths), loss, rank)
    notes: tuple[str, ...] = ()
    each = np.full(target.shape[1], np.inf)
    if likelihood == "negative-binomial":
        if r == "learned":
            _, means = _minimise(white, target, "poisson", _counts(target, each))
            extra = np.square(target - means) - means
            each = dispersion(np.square(means).mean(axis=0), extra.mean(axis=0))
            notes = ("the dispersion of each feature is estimated from what x leaves of it",)
        else:
            each = np.full(target.shape[1], float(r))
    law = _bernoulli(target) if likelihood == "bernoulli" else _counts(target, each)
    loss, means = _minimise(white, target, likelihood, law)
    # The score in the family's own output, and its mean Hessian over the rows.
    slope = 1 / (1 + means / each) if likelihood != "bernoulli" else 1.0
    score = (target - means) * slope
    noise = np.asarray(FAMILIES[likelihood].variance(means, each)) * np.square(slope)
    root = np.sqrt(noise.mean(axis=0))
    if likelihood == "negative-binomial" and r == "learned":
        loss -= log_rising(target, each)
    scores = np.divide(
        score, root, out=np.zeros_like(score), where=root > 1e-8 * root.max(initial=0.0)
    )
    return Regression(scores, loss, rank, notes)


def dispersion(squares: Float, extra: Float) -> Float:
    """Return r of each feature by moments; infinite where its counts vary as a Poisson's or less.

    Args:
        squares: Mean square of the mean, (d_y,).
        extra: Variance beyond the mean, (d_y,).

    Example:
        >>> dispersion(np.array([4.0, 4.0]), np.array([2.0, -0.1])).tolist()
        [2.0, inf]
    """
    found = np.full_like(squares, np.inf)
    return np.divide(squares, extra, out=found, where=(extra > 0) & (squares > 0))


def log_rising(y: Array, r: Float) -> float:
    """Return the mean over rows of log Gamma(r + y) - log Gamma(r) - y log r, over features.

    Of a negative binomial whose dispersion is learned it belongs to the loss: it is all that r
    changes where the data are not. Of an infinite r it is 0.

    Args:
        y: Counts, (samples, d_y).
        r: Dispersion of each feature, (d_y,).

    Example:
        >>> log_rising(np.array([[1.0], [3.0]]), np.array([np.inf]))
        0.0
        >>> bool(np.isclose(log_rising(np.array([[2.0]]), np.array([4.0])), np.log(5 / 4)))
        True
    """
    finite, total = np.isfinite(r), 0.0
    for _, (rows,) in chunks(y):
        counts, known = np.asarray(rows[:, finite], dtype=np.float64), r[finite]
        total += float((gammaln(counts + known) - gammaln(known) - counts * np.log(known)).sum())
    return total / len(y)


def _white(x: Float) -> tuple[Float, int]:
    """Return a constant and the independent directions of x, uncorrelated and of variance 1."""
    central = x - x.mean(axis=0)
    scale = central.std(axis=0)
    central = central / np.where(scale > 0, scale, 1.0)
    values, vectors = linalg.eigh(central.T @ central / len(x))
    keep = values > max(values[-1], 0.0) * len(values) * 1e-12
    white = central @ (vectors[:, keep] / np.sqrt(values[keep]))
    return np.column_stack([np.ones(len(x)), white]), int(keep.sum())


def _minimise(white: Float, y: Float, likelihood: Likelihood, law: Law) -> tuple[float, Float]:
    """Return the loss, nats per sample, and the means of the best outputs linear in `white`."""
    n, shape = len(y), (white.shape[1], y.shape[1])

    def value(flat: Float) -> tuple[float, Float]:
        loss, gradient, _ = law(white @ flat.reshape(shape))
        return float(loss.sum()) / n, (white.T @ gradient).ravel() / n

    first = np.zeros(shape)
    with np.errstate(divide="ignore"):
        # Of a feature that never varies the best output is infinite: nearly so does as well.
        first[0] = np.clip(FAMILIES[likelihood].link(y.mean(axis=0)), -30.0, 30.0)
    found = optimize.minimize(
        value,
        first.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS, "gtol": TOLERANCE, "ftol": 0.0},
    )
    loss, _, means = law(white @ found.x.reshape(shape))
    return float(loss.sum()) / n, means


def _bernoulli(y: Float) -> Law:
    def law(eta: Float) -> tuple[Float, Float, Float]:
        mean = np.asarray(expit(eta))
        return np.logaddexp(0.0, eta) - y * eta, mean - y, mean

    return law


def _counts(y: Float, r: Float) -> Law:
    """Of a negative binomial; a Poisson's where r is infinite."""
    finite = np.isfinite(r)
    safe = np.where(finite, r, 1.0)

    def law(eta: Float) -> tuple[Float, Float, Float]:
        mean = np.exp(np.minimum(eta, LARGEST))
        heavy = (y + safe) * np.log1p(mean / safe)
        loss = np.where(finite, heavy, mean) - y * eta
        return loss, (mean - y) / (1 + mean / r), mean

    return law


def _categorical(y: Float, widths: tuple[int, ...]) -> Law:
    ends = np.cumsum(widths)[:-1]

    def law(eta: Float) -> tuple[Float, Float, Float]:
        blocks = np.split(eta, ends, axis=1)
        mean = np.hstack([softmax(block, axis=1) for block in blocks])
        total = [np.logaddexp.reduce(block, axis=1) for block in blocks]
        return np.column_stack([*total, -(y * eta).sum(axis=1)]), mean - y, mean

    return law


def _blocks_whitened(score: Float, means: Float, widths: tuple[int, ...]) -> Float:
    """Divide the scores of each position by the root of their mean Hessian, diag(p) - pp'."""
    found, start = np.zeros_like(score), 0
    for width in widths:
        part = slice(start, start + width)
        p = means[:, part]
        hessian = np.diag(p.mean(axis=0)) - p.T @ p / len(p)
        values, vectors = linalg.eigh(hessian)
        keep = values > values[-1] * 1e-10  # constants, which softmax does not feel
        found[:, part] = (
            score[:, part] @ (vectors[:, keep] / np.sqrt(values[keep])) @ vectors[:, keep].T
        )
        start += width
    return found
