"""The likelihoods a decoder may have, and the noise that each of them tolerates.

A latent unit lives while the signal it would carry exceeds beta, and signal is measured in the
noise that the data's own likelihood tolerates: as much as it varies about the best constant output.
For a Gaussian that noise is eta_dec^2; for the others it follows from the features' means, so that
the law of a Gaussian decoder holds for all once feature j is divided by sqrt(`Family.variance`).
Statisticians know the quotient as Pearson's residual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, logit, softmax, xlogy

from posterior_collapse.arrays import Array, Float, chunks
from posterior_collapse.checks import Likelihood
from posterior_collapse.errors import DataError

ROUNDING = 1e-6
"""Relative tolerance: targets in float32 leave their domain, or miss a sum, by less."""
SCALE = "Scale the data (8-bit images by 1/255), or choose another likelihood."
ENDLESS = 30.0
"""An output, e.g. a logit, that is as good as the infinite one of features that never vary."""
LARGEST = 300.0
"""Log rate beyond which a line search is too far out, and exp near overflow."""
ONE_HOT = "Turn each class number into a one-hot vector (torch.nn.functional.one_hot)."


@dataclass(frozen=True)
class Family:
    """How one likelihood turns its output into a mean, and what it tolerates.

    Attributes:
        gives: What the decoder gives: the output for which the law is stated.
        whose: The family's name as a genitive, for sentences.
        most: Largest value of a target; the least is 0.
        link: Output whose mean is m.
        variance: Variance at mean m and dispersion r; the mean Hessian at the best constant
            output is `variance * slope^2`, and its score `(y - m) * slope`, so that what a score is
            worth in its own noise is `(y - m) / sqrt(variance)` whatever the output is.
        constant_loss: Mean loss of the best constant output, nats per feature, of mean m. What
            the data alone decide (log y! of counts) is left out.
    """

    gives: str
    whose: str
    most: float
    link: Callable[[Float], Any]
    variance: Callable[[Float, Float], Any]
    constant_loss: Callable[[Float, Float], Any]


def _negative_binomial_loss(m: Float, r: Float) -> Float:
    # Where r is infinite it is the Poisson's, which the limit of each term gives.
    finite = np.where(np.isfinite(r), r, 1.0)
    found: Float = np.where(np.isfinite(r), (finite + m) * np.log1p(m / finite), m) - xlogy(m, m)
    return found


FAMILIES: dict[Likelihood, Family] = {
    "bernoulli": Family(
        "logits",
        "a Bernoulli's",
        1.0,
        logit,
        lambda m, r: m * (1 - m),
        lambda m, r: -xlogy(m, m) - xlogy(1 - m, 1 - m),
    ),
    "poisson": Family(
        "log rates",
        "a Poisson's",
        np.inf,
        np.log,
        lambda m, r: m,
        lambda m, r: m - xlogy(m, m),
    ),
    "negative-binomial": Family(
        "log means",
        "a negative binomial's",
        np.inf,
        np.log,
        lambda m, r: m + m**2 / r,
        _negative_binomial_loss,
    ),
    # Of one-hot positions the mean Hessian is diag(p) - pp' each. It has no noise along constants,
    # where the score is 0 too; across them it is diag(p), which is all that is needed.
    "categorical": Family(
        "logits",
        "a categorical's",
        1.0,
        np.log,
        lambda m, r: m,
        lambda m, r: -xlogy(m, m),
    ),
}
"""Every likelihood but the Gaussian, whose noise is eta_dec, and "other"."""


Law = Callable[[Float], tuple[float, Float, Float]]
"""From outputs to their loss, summed, its gradient by the outputs, and their means."""


def law(
    likelihood: Likelihood,
    y: Float,
    *,
    r: Float | float = np.inf,
    widths: Sequence[int] = (),
) -> Law:
    """Return what outputs cost on targets, less what the data alone decide (log y! of counts).

    Args:
        likelihood: Of the targets; a Gaussian's has std 1.
        y: Targets, shape (..., features).
        r: Dispersion of each feature of a negative binomial; a Poisson's is infinite.
        widths: Number of classes of each position of a categorical.

    Example:
        >>> loss, gradient, mean = law("bernoulli", np.array([1.0]))(np.array([0.0]))
        >>> round(loss, 4), gradient.tolist(), mean.tolist()
        (0.6931, [-0.5], [0.5])
    """
    ends, finite = np.cumsum(widths)[:-1], np.isfinite(r)
    safe = np.where(finite, r, 1.0)

    def cost(eta: Float) -> tuple[float, Float, Float]:
        slope: Float | float = 1.0
        if likelihood == "gaussian":
            mean, partition = eta, eta**2 / 2
        elif likelihood == "bernoulli":
            mean, partition = expit(eta), np.logaddexp(0.0, eta)
        elif likelihood == "categorical":
            blocks = np.split(eta, ends, axis=-1)
            mean = np.concatenate([softmax(block, axis=-1) for block in blocks], axis=-1)
            partition = np.stack([np.logaddexp.reduce(block, axis=-1) for block in blocks])
        else:
            mean = np.exp(np.minimum(eta, LARGEST))
            partition = np.where(finite, (y + safe) * np.log1p(mean / safe), mean)
            slope = 1 / (1 + mean / r)
        return float(partition.sum() - (y * eta).sum()), (mean - y) * slope, mean

    return cost


def remedy(likelihood: Likelihood) -> str:
    """Return what to do with targets that a likelihood gives no probability.

    Example:
        >>> remedy("poisson")
        'Choose another likelihood: counts are not negative.'
    """
    if likelihood == "categorical":
        return ONE_HOT
    if likelihood == "bernoulli":
        return SCALE
    return "Choose another likelihood: counts are not negative."


def fractions_in(likelihood: Likelihood, y: Array) -> str:
    """Return a caution if data of a likelihood of counts are no whole numbers, as far as looked at.

    Example:
        >>> fractions_in("poisson", np.array([[0.0, 2.0]]))
        ''
        >>> fractions_in("poisson", np.log1p([[0.0, 2.0]]))
        'values such as 1.099 are no counts, whose noise this likelihood tells: ...'
    """
    if FAMILIES[likelihood].most == 1:
        return ""
    rows = np.asarray(next(chunks(y))[1][0])  # enough, and all may be long to read
    fractions = rows[rows != np.floor(rows)]
    if not fractions.size:
        return ""
    return (
        f"values such as {fractions[0]:.4g} are no counts, whose noise this likelihood tells: pass "
        "raw counts, neither normalised nor logarithmic, or take another likelihood"
    )


def check_targets(likelihood: Likelihood, y: Array) -> None:
    """Refuse targets that a likelihood gives no probability.

    Args:
        likelihood: Of the data.
        y: Targets, shape (samples, features); one-hot positions side by side for a categorical.

    Raises:
        DataError: Values outside the likelihood's domain, or no one-hot positions.

    Example:
        >>> check_targets("bernoulli", np.array([[0.0, 1.0], [0.3, 1.0]]))
    """
    family = FAMILIES.get(likelihood)
    if family is None:
        return
    domain = "from 0 to 1" if family.most == 1 else "of at least 0"
    for _, (part,) in chunks(y):
        rows = np.asarray(part)  # computed once, where it is dask's
        least, most = float(rows.min(initial=0.0)), float(rows.max(initial=0.0))
        if least < -ROUNDING or most > family.most + ROUNDING:
            raise DataError(
                "data",
                f"the value {least if least < -ROUNDING else most:.6g}",
                f"values {domain} for likelihood {likelihood!r}",
                remedy(likelihood),
            )
        if likelihood == "categorical":
            _check_positions(rows)


def _check_positions(rows: Array) -> None:
    sums = np.asarray(rows.sum(axis=1), dtype=np.float64)
    positions = max(1.0, float(np.round(sums[0])))
    if np.abs(sums - positions).max() > ROUNDING * rows.shape[1]:
        raise DataError(
            "data",
            f"rows that sum to {sums.min():.6g} to {sums.max():.6g}",
            "one-hot rows, which sum to their number of positions",
            f"{ONE_HOT} Padding counts as a class of its own: for a loss that leaves it out, use "
            "posterior_collapse.onset or audit_loss.",
        )


def one_hot_widths(
    y: Array | Iterable[Array], shape: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Return how many classes each position of one-hot rows has, positions side by side.

    A position ends where the running sums of all rows have reached the same whole number. A class
    at its end that no row has would go to the next one: the shape of the samples tells better.

    Args:
        y: Shape (samples, features), or batches of such rows.
        shape: Of a sample as it was given, which may be (positions, classes).

    Raises:
        DataError: The rows are no one-hot positions.

    Example:
        >>> one_hot_widths(np.array([[1, 0, 0, 1, 0], [0, 1, 0, 0, 1], [0, 0, 1, 1, 0]]))
        (3, 2)
    """
    least: Any = np.inf
    most: Any = -np.inf
    for batch in [y] if isinstance(y, np.ndarray) else y:
        check_targets("categorical", batch)
        for _, (rows,) in chunks(batch):
            sums = np.cumsum(rows, axis=1, dtype=np.float64)
            least, most = np.minimum(least, sums.min(axis=0)), np.maximum(most, sums.max(axis=0))
    features = len(least)
    tolerance = ROUNDING * features
    if shape is not None and len(shape) == 2 and shape[0] * shape[1] == features:
        positions, classes = shape
        reached = np.stack([least, most])[:, classes - 1 :: classes]
        if np.abs(reached - np.arange(1, positions + 1)).max() < tolerance:
            return (int(classes),) * int(positions)
    ends, wanted = [], 1
    for column, (low, high) in enumerate(zip(least, most, strict=True)):
        if low > wanted - tolerance and high < wanted + tolerance:
            ends.append(column + 1)
            wanted += 1
    if not ends or wanted <= np.round(most[-1]):
        raise DataError(
            "data",
            "rows whose classes of one position do not stand side by side",
            "one-hot positions side by side",
            "Pass an array of shape (samples, positions, classes).",
        )
    ends[-1] = features  # classes that no row has
    return tuple(int(width) for width in np.diff([0, *ends]))
