"""Data in units of the noise that their likelihood tolerates, where the Gaussian's law holds.

About the best output without latents, eta_0, the loss is quadratic: its score s = -dl/d eta and its
mean Hessian F say all that the onset of collapse depends on. Scores divided by F^(1/2) are data for
a Gaussian decoder of eta_dec = 1, whatever the likelihood was. For a model without a condition that
is a division of the columns of the covariance at hand; with one, eta_0 follows the condition as a
generalised linear model, which takes the rows.

The onset is exact so. How many units live below it, and their KL, are those of the quadratic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from posterior_collapse.arrays import Float
from posterior_collapse.data.samples import Samples
from posterior_collapse.errors import DataError, NotSolvedError
from posterior_collapse.likelihoods import FAMILIES, Family, remedy
from posterior_collapse.moments import Moments
from posterior_collapse.specs import Spec
from posterior_collapse.theory import regression

__all__ = ["Whitening", "whiten", "whiten_given"]

ROUNDING = 1e-6
"""Relative: what float32 data may miss a bound of their moments by."""


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
        notes: What the reader should know.
    """

    moments: Moments
    constant_loss: float
    output: Float | None
    divisor: Float | None
    notes: tuple[str, ...]


def whiten(moments: Moments, spec: Spec, rows: Samples | None = None) -> Whitening:
    """Return the whitened moments of data without a condition.

    Args:
        moments: Of the data.
        spec: Says the likelihood.
        rows: What they were measured on, where that is at hand: the loss of a learned dispersion
            needs every count.

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
    r, notes = _dispersion(mean, variance, spec)
    loss = float(np.sum(family.constant_loss(mean, r)))
    if spec.likelihood == "negative-binomial" and spec.dispersion == "learned":
        if rows is None:
            notes.append(
                "of a learned dispersion the loss lacks what moments do not tell (the Gamma "
                "functions of every count): compare it with that of no trained model"
            )
        else:
            loss -= regression.log_rising(rows.x if rows.y is None else rows.y, r)
    tolerated = np.asarray(family.variance(mean, r), dtype=np.float64)
    varies = (variance > 0) & (tolerated > 0)
    divisor = np.sqrt(np.where(varies, tolerated, np.inf))
    with np.errstate(divide="ignore"):
        output = np.asarray(family.link(mean), dtype=np.float64)
    return Whitening(
        moments.divided(divisor),
        loss,
        output,
        divisor,
        (*_notes(family, spec, int(np.count_nonzero(~varies)), len(mean)), *notes),
    )


def whiten_given(data: Samples, spec: Spec) -> Whitening:
    """Return the whitened moments of what a condition leaves unexplained.

    Args:
        data: Condition x and target y.
        spec: Says the likelihood.
    """
    assert data.y is not None
    fitted = regression.fit(spec.likelihood, data.x, data.y, spec.dispersion)
    dropped = int(np.count_nonzero(fitted.scores.std(axis=0) == 0))
    notes = list(_notes(FAMILIES[spec.likelihood], spec, dropped, fitted.scores.shape[1]))
    notes.append(
        "without latents the output is linear in the condition (a generalised linear model of y "
        "on x); a network may read more from x and leave less for the latents"
    )
    if len(data.x) < 10 * fitted.rank:
        notes.append(
            f"the condition has {fitted.rank} independent features for {len(data.x)} samples "
            "(fewer than 10 each): what it seems to explain of y may be an artefact"
        )
    return Whitening(
        Moments.from_arrays(fitted.scores), fitted.loss, None, None, (*notes, *fitted.notes)
    )


def _check_moments(mean: Float, variance: Float, moments: Moments, spec: Spec) -> None:
    family = FAMILIES[spec.likelihood]
    slack = ROUNDING * (1 + float(np.abs(mean).max(initial=0.0)))
    wrong = (mean < -slack) | (mean > family.most + slack)
    if family.most == 1:
        # Values from 0 to 1 of mean m vary by at most m (1 - m), which those at the ends have.
        wrong |= variance > mean * (1 - mean) * (1 + ROUNDING) + ROUNDING
    if wrong.any():
        j = int(np.flatnonzero(wrong)[0])
        raise DataError(
            "data",
            f"feature {j + 1} of mean {mean[j]:.4g} and variance {variance[j]:.4g}",
            f"values from 0 to {family.most:g} for likelihood {spec.likelihood!r}"
            if family.most == 1
            else f"counts of at least 0 for likelihood {spec.likelihood!r}",
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


def _dispersion(mean: Float, variance: Float, spec: Spec) -> tuple[Float, list[str]]:
    """Return r of each feature, infinite where its counts vary no more than a Poisson's."""
    if spec.likelihood != "negative-binomial":
        return np.ones_like(mean), []
    if spec.dispersion != "learned":
        return np.full_like(mean, float(spec.dispersion)), []
    return regression.dispersion(mean**2, variance - mean), [
        "the dispersion of each feature is estimated from its mean and variance; a trained one "
        "may differ"
    ]


def _notes(family: Family, spec: Spec, dropped: int, features: int) -> list[str]:
    notes = [
        f"likelihood {spec.likelihood!r} of {family.gives}: variances are in units of the noise it "
        "tolerates. The beta from which total collapse is stable is exact for any network; how "
        "many units live below it, their KL and the loss are those of a quadratic approximation"
    ]
    if family.most != 1:
        notes.append("the loss leaves out what the data alone decide (log y! of counts)")
    if dropped:
        notes.append(f"{dropped} of {features} features carry nothing and drop out")
    return notes
