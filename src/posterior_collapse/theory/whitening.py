"""Data in units of the noise that their likelihood tolerates, where the Gaussian's law holds.

About the best output without latents, eta_0, the loss is quadratic: its score s = -dl/d eta and its
mean Hessian F say all that the onset of collapse depends on. Scores divided by F^(1/2) are data for
a Gaussian decoder of eta_dec = 1, whatever the likelihood was. For a model without a condition that
is a division of the columns of the covariance at hand; with one, eta_0 follows the condition as a
generalised linear model, which takes the rows.

The onset is exact so; of a learned dispersion, where every count is known and not only moments. How
many units live below it, and their KL, are those of the quadratic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg, optimize

from posterior_collapse.arrays import Array, Float, refuse_non_finite
from posterior_collapse.checks import Dispersion, Likelihood
from posterior_collapse.data.samples import Samples
from posterior_collapse.errors import DataError, NotSolvedError, count_of
from posterior_collapse.likelihoods import (
    ENDLESS,
    FAMILIES,
    Law,
    check_targets,
    law,
    one_hot_widths,
    remedy,
)
from posterior_collapse.moments import Moments
from posterior_collapse.specs import Spec
from posterior_collapse.theory.dispersion import (
    Tally,
    by_moments,
    is_learned,
    likeliest,
    log_rising,
)

ROUNDING = 1e-6
"""Relative: what float32 data may miss a bound of their moments by."""
ITERATIONS = 2000
TOLERANCE = 3e-5
"""Gradient at which a fit is finished, per sample and unit of a white coefficient in which each
feature has a curvature of about 1: of coefficients as they are, a rare feature beside a frequent
one would take thousands of steps."""
OF_A_ROW = 0.03
"""That gradient times the rows: of many, none that is predicted wrong must be lost in it."""
TOLD = 3e-4
"""Scores in units of their noise that such a fit may leave of a feature that it explains wholly."""
ROUNDS = 50
"""Of fitting the outputs and the dispersion in turns."""
EVERY = "exact for any network"
ADDING = "that of decoders that add what z says to what x says"
READING = "that of encoders that read x linearly: a network may read more of y, and live above it"
"""Whose an onset is: where y is x; with a condition x; where the encoder sees another x alone."""
OF_Z_ALONE = (
    "this is about a decoder that sees z alone: one that also sees the positions before each, as "
    "for text, has its own onset, 1 if it predicts as well as they allow"
)
SAME = 1e-6
"""Relative change of a dispersion at which that ends."""


@dataclass(frozen=True, eq=False)
class Whitening:
    """What became of the data on the way into their own noise.

    Attributes:
        moments: Of the whitened scores.
        constant_loss: Loss without latents, nats per sample; exact, but for terms that the data
            alone decide.
        output: The best constant output, shape (d_y,), e.g. logits; infinite where the data are
            always at an end of their range. None for a conditional model, where it follows x.
        divisor: What each feature was divided by, (d_y,); None for a conditional model.
        modes: How many there can be, one for each feature that varies; of one-hot positions, whose
            classes sum to 1, one less each. What exceeds them is rounding.
        exact: Whether the onset is; of a learned dispersion only where every count is known.
        rank: Independent features of the condition; 0 without one.
    """

    moments: Moments
    constant_loss: float
    output: Float | None
    divisor: Float | None
    modes: int
    exact: bool
    notes: tuple[str, ...]
    rank: int = 0


def whiten(moments: Moments, spec: Spec, counts: Tally | None = None) -> Whitening:
    """Return the whitened moments of data without a condition.

    Args:
        moments: Of the data.
        spec: Says the likelihood.
        counts: What they were measured on, where that is known and the dispersion is learned,
            which, and whose loss, needs every count.

    Raises:
        DataError: The moments are of no data of that likelihood.
        NotSolvedError: The model has no biases, or the data are too wide.
    """
    family = FAMILIES[spec.likelihood]
    if not moments.center:
        raise NotSolvedError(
            "bias",
            f"a model without biases and likelihood {spec.likelihood!r}",
            "a decoder with a bias, which the constant output is",
            "Leave biases on.",
        )
    mean, variance = moments.feature_means, moments.feature_variances
    _check_moments(mean, variance, moments, spec)
    mean = np.clip(mean, 0.0, family.most)
    r = np.ones_like(mean)
    if spec.likelihood == "negative-binomial":
        r = _dispersion(spec, mean, variance, counts)
    loss = float(np.sum(family.constant_loss(mean, r)))
    if counts is not None:
        loss -= log_rising(counts, r)
    tolerated = np.asarray(family.variance(mean, r), dtype=np.float64)
    varies = (variance > 0) & (tolerated > 0)
    divisor = np.sqrt(np.where(varies, tolerated, np.inf))
    with np.errstate(divide="ignore"):
        output = np.asarray(family.link(mean), dtype=np.float64)
    whose = READING if moments.paired else EVERY
    dropped = int(np.count_nonzero(~varies))
    notes = _notes(spec, dropped, len(mean), counts is not None, whose)
    modes = int(np.count_nonzero(varies))
    if spec.likelihood == "categorical":
        # Of positions that always have the same class no class varies.
        positions = round(mean.sum())
        modes -= positions - int(mean[~varies].sum() + ROUNDING * len(mean))
        if positions > 1:
            notes.append(OF_Z_ALONE)
    exact = counts is not None or not is_learned(spec)
    return Whitening(moments.divided(divisor), loss, output, divisor, modes, exact, tuple(notes))


def _dispersion(spec: Spec, mean: Float, variance: Float, counts: Tally | None) -> Float:
    """Return r of each feature: as given, the likeliest, or what moments alone tell."""
    if spec.dispersion != "learned":
        return np.full_like(mean, float(spec.dispersion))
    if counts is None:
        return by_moments(mean**2, variance - mean)
    return likeliest(counts, mean[counts.feature])


def whiten_given(data: Samples, spec: Spec) -> Whitening:
    """Return the whitened moments of what a condition x leaves unexplained of a target y."""
    assert data.y is not None
    dropped = int(np.count_nonzero(np.ptp(data.y, axis=0) == 0))
    if dropped == data.y.shape[1] and len(data.y) > 1:
        raise DataError(
            "y", "data that are all constant", "some variance", "Check what was loaded."
        )
    fitted = regress(spec.likelihood, data.x, data.y, spec.dispersion)
    notes = _notes(spec, dropped, fitted.scores.shape[1], True, ADDING)
    notes.append(
        "without latents the output is linear in the condition (a generalised linear model of y "
        "on x); a network may read more from x and leave less for the latents, or use them "
        "differently for each x and keep some above this beta"
    )
    if fitted.told:
        so = "separates the values of" if FAMILIES[spec.likelihood].most == 1 else "predicts"
        notes.append(
            f"the condition alone {so} {fitted.told} of {count_of(data.y.shape[1], 'feature')} "
            "without error: nothing of that is left for latents, and no beta keeps a unit for it"
        )
    # What is gone is divided away: moments of nothing but zeros would be refused.
    gone = ~fitted.scores.any(axis=0)
    moments = Moments.from_arrays(np.where(gone, data.y, fitted.scores))
    moments = moments.divided(np.where(gone, np.inf, 1.0))
    return Whitening(
        moments, fitted.loss, None, None, fitted.modes, True, tuple(notes), fitted.rank
    )


def _check_moments(mean: Float, variance: Float, moments: Moments, spec: Spec) -> None:
    family = FAMILIES[spec.likelihood]
    if not moments.measured:
        raise DataError(
            "data", "no means, as moments of matrices have none",
            f"means, which tell the noise of likelihood {spec.likelihood!r}",
            "Pass the rows, or Moments.from_arrays of them.",
        )  # fmt: skip
    slack = ROUNDING * (1 + float(np.abs(mean).max(initial=0.0)))
    wrong = (mean < -slack) | (mean > family.most + slack)
    if moments.n is not None:
        # Values of at least 0 vary most where one row has all.
        most = np.sqrt(moments.n) * (np.maximum(mean, 0.0) + slack)
        wrong |= np.sqrt(variance) > most
    if family.most == 1:
        # Values from 0 to 1 of mean m vary by at most m (1 - m), which those at the ends have.
        wrong |= variance > mean * (1 - mean) * (1 + ROUNDING) + ROUNDING
    if wrong.any():
        j = int(np.flatnonzero(wrong)[0])
        domain = f"values from 0 to {family.most:g}" if family.most == 1 else "counts of at least 0"
        raise DataError(
            "data",
            f"feature {j + 1} of mean {mean[j]:.4g} and variance {variance[j]:.4g}",
            f"{domain} for likelihood {spec.likelihood!r}",
            remedy(spec.likelihood),
        )
    if spec.likelihood == "categorical":
        positions = float(np.round(mean.sum()))
        whole = moments.bases == (None, None)
        total = float(moments.cov[-len(mean) :, -len(mean) :].sum()) if whole else 0.0
        miss = abs(mean.sum() - positions) + abs(total)
        if positions < 1 or miss > ROUNDING * len(mean):
            raise DataError(
                "data",
                f"rows that sum to {mean.sum():.4g} on average",
                "one-hot rows, which all sum to their number of positions",
                remedy(spec.likelihood),
            )


def _notes(spec: Spec, dropped: int, features: int, counted: bool, whose: str = EVERY) -> list[str]:
    family = FAMILIES[spec.likelihood]
    learned = is_learned(spec)
    onset = "The beta from which total collapse is stable is "
    if learned and not counted:
        onset += (
            "as far off as the dispersions, which are estimated from mean and variance alone (of "
            "bursty counts by a factor of ten; the rows would tell them)"
        )
    else:
        onset += whose
    notes = [
        f"likelihood {spec.likelihood!r} of {family.gives}: variances are in units of its own "
        f"noise. {onset}; how many units live below it, their KL and the loss are those of a "
        "quadratic approximation"
    ]
    if family.most != 1:
        notes.append("the loss leaves out terms of the data alone (log y! of counts)")
    if dropped:
        drop = "carries nothing and drops out" if dropped == 1 else "carry nothing and drop out"
        notes.append(f"{dropped} of {count_of(features, 'feature')} {drop}")
    if learned and counted:
        notes.append(
            "the dispersion of each feature is the likeliest without latents; where units explain "
            "some of the spread a trained one is larger"
        )
    elif learned:
        notes.append(
            "with a learned dispersion the loss lacks what moments do not give (the Gamma "
            "functions of every count): do not compare it with that of a trained model"
        )
    return notes


class Regression(NamedTuple):
    """The best output linear in a condition, and what it leaves.

    Attributes:
        scores: Scores of each row in units of their noise, F^(-1/2) s, shape (samples, d_y).
        modes: How many they can have; see `Whitening`.
        loss: Mean loss, nats per sample, less what the data alone decide.
        rank: Independent features of the condition.
        told: Features that vary, and that the condition predicts without error.
    """

    scores: Float
    modes: int
    loss: float
    rank: int
    told: int


def regress(likelihood: Likelihood, x: Array, y: Array, r: Dispersion = "learned") -> Regression:
    """Fit a generalised linear model of y on x, with an intercept, all features at once.

    Args:
        likelihood: Of y.
        x: Condition, (samples, d_x).
        y: Target, (samples, d_y).
        r: Dispersion of a negative binomial.

    Raises:
        DataError: The targets are none of that likelihood, or values not finite.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = rng.standard_normal((500, 2))
        >>> y = (rng.random((500, 1)) < 1 / (1 + np.exp(-2 * x[:, :1]))).astype(float)
        >>> found = regress("bernoulli", x, y)
        >>> bool(abs(found.scores.mean()) < 1e-4 and found.loss < 0.6)
        True
    """
    check_targets(likelihood, y)
    condition, target = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    refuse_non_finite("x", condition)
    refuse_non_finite("y", target)
    white, rank = white_inputs(condition)
    n = len(target)
    with np.errstate(divide="ignore"):
        # Of a feature that never varies the best output is infinite: nearly so does as well.
        first = np.clip(FAMILIES[likelihood].link(target.mean(axis=0)), -ENDLESS, ENDLESS)
    start = np.zeros((white.shape[1], len(first)))
    start[0] = first
    learned = likelihood == "negative-binomial" and r == "learned"
    fixed = likelihood == "negative-binomial" and not learned
    each = np.full(target.shape[1], r if fixed else np.inf, dtype=np.float64)
    widths = one_hot_widths(target) if likelihood == "categorical" else ()

    def fitted(coefficients: Float) -> tuple[float, Float, Float, Float]:
        mean = target.mean(axis=0)
        about = FAMILIES[likelihood].variance(mean, each) / np.square(1 + mean / each)
        unit = 1 / np.sqrt(np.where(about > 0, about, 1.0))
        cost = law(likelihood, target, r=each, widths=widths)
        best = _minimise(white, coefficients, unit, cost)
        outputs = white @ best
        # Coefficients that get every row right are best when endless: there nothing is left.
        right = _right(likelihood, target, outputs, widths)
        outputs[:, right] = ENDLESS * (2 * target[:, right] - 1)
        loss, slope, means = cost(outputs)
        return loss, -slope, means, best

    loss, score, means, found = fitted(start)
    counts = Tally.beside(target)
    for _ in range(ROUNDS if learned else 0):
        before, each = each, likeliest(counts, means.ravel())
        if np.allclose(1 / each, 1 / before, rtol=SAME, atol=0.0):
            break
        loss, score, means, found = fitted(found)
    if FAMILIES[likelihood].most == 1:
        curvature = means * (1 - means)
    else:
        curvature = means * (1 + target / each) / np.square(1 + means / each)
    root, varies = np.sqrt(curvature.mean(axis=0)), np.ptp(target, axis=0) > 0
    left = varies & (np.sqrt(np.square(score).mean(axis=0)) > TOLD * root)
    told = int(np.count_nonzero(varies & ~left))
    score[:, ~left] = 0.0
    loss /= n
    if likelihood == "categorical":
        return Regression(*_blocks_whitened(score, means, widths), loss, rank, told)
    if learned:
        loss -= log_rising(counts, each)
    scores = np.divide(score, root, out=np.zeros_like(score), where=left)
    return Regression(scores, int(np.count_nonzero(left)), loss, rank, told)


def _right(likelihood: Likelihood, y: Float, outputs: Float, widths: tuple[int, ...]) -> Any:
    """Return of which features outputs are on the right side of 0, or of their rivals, in all rows.

    If those are 0 and 1, and linear in a condition, it separates the two.
    """
    if likelihood == "bernoulli":
        return np.all(y == (outputs > 0), axis=0)
    ends = np.cumsum(widths)[:-1]
    pairs = zip(np.split(y, ends, axis=1), np.split(outputs, ends, axis=1), strict=True)
    every = [np.all(own[np.arange(len(y)), given.argmax(axis=1)] == 1) for own, given in pairs]
    return np.repeat(every, widths) if widths else np.zeros(y.shape[1], dtype=bool)


def white_inputs(x: Float) -> tuple[Float, int]:
    """Return a constant and the independent directions of x, of variance 1; and how many."""
    if x.shape[1] == 0:
        return np.ones((len(x), 1)), 0
    central = x - x.mean(axis=0)
    scale = central.std(axis=0)
    central = central / np.where(scale > 0, scale, 1.0)
    values, vectors = linalg.eigh(central.T @ central / len(x))
    keep = values > max(values[-1], 0.0) * len(values) * 1e-12
    white = central @ (vectors[:, keep] / np.sqrt(values[keep]))
    return np.column_stack([np.ones(len(x)), white]), int(keep.sum())


def _minimise(white: Float, start: Float, unit: Float, cost: Law) -> Float:
    """Return the coefficients of the best outputs linear in `white`, (k, d_y).

    Args:
        white: Constant and condition, (samples, k).
        start: Coefficients to begin with, (k, d_y).
        unit: Of the coefficients of each feature, (d_y,), in which they are searched for.
        cost: Of outputs, (samples, d_y).
    """
    n = len(white)

    def value(flat: Float) -> tuple[float, Float]:
        loss, gradient, _ = cost(white @ (flat.reshape(start.shape) * unit))
        return loss / n, (white.T @ gradient * unit).ravel() / n

    gtol = min(TOLERANCE, OF_A_ROW / n)
    options: Any = {"maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS, "gtol": gtol, "ftol": 0.0}
    first = (start / unit).ravel()
    found = optimize.minimize(value, first, jac=True, method="L-BFGS-B", options=options)
    return np.asarray(found.x.reshape(start.shape) * unit)


def _blocks_whitened(score: Float, means: Float, widths: tuple[int, ...]) -> tuple[Float, int]:
    """Divide the scores of each position by the root of their mean Hessian, diag(p) - pp'.

    Returns:
        The scores, and how many directions they have: constants, which softmax does not feel, drop
        out.
    """
    found, modes = np.zeros_like(score), 0
    for stop, width in zip(np.cumsum(widths), widths, strict=True):
        part = slice(stop - width, stop)
        if not score[:, part].any():
            continue
        p = means[:, part]
        values, vectors = linalg.eigh(np.diag(p.mean(axis=0)) - p.T @ p / len(p))
        keep = values > values[-1] * 1e-10
        kept = vectors[:, keep]
        found[:, part] = score[:, part] @ (kept / np.sqrt(values[keep])) @ kept.T
        modes += int(np.count_nonzero(keep))
    return found, modes
