"""What to beware of in a forecast: few rows, features of unlike scale, rounding."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from posterior_collapse.theory.solve import Solution
from posterior_collapse.theory.spectrum import Modes
from posterior_collapse.theory.state import fit

if TYPE_CHECKING:
    from posterior_collapse.theory.forecasting import Level

__all__ = ["FewSamplesWarning", "cautions"]

LEAST_KL = 1e-9
"""Nats; less is rounding."""
ATTAINED = 1e-9
"""Relative to the loss: how nearly `Forecast.parameters` attain it, or a note says they do not."""
MANY_ROWS = 10
"""Rows per feature from which sampling moves no mode far."""
MOST_DRAWN = 20_000_000
"""Numbers that noise is made of; data of more are not called few."""
UNLIKE = 30.0
"""Times the median of the features' standard deviations that the largest of one unit hardly is."""


class FewSamplesWarning(UserWarning):
    """The condition has so many features that it explains the samples, not the target."""


def cautions(levels: tuple[Level, ...], solution: Solution, loss: float) -> Iterator[str]:
    """Yield what the reader of a forecast should know, as sentences without full stops.

    Args:
        levels: Forecast.
        solution: Likewise.
        loss: Likewise.
    """
    modes = solution.problem.modes
    yield from _constant_kl(levels)
    yield from _few_samples(modes)
    yield from _noise_alone(modes, levels[0])
    yield from _unlike(modes)
    yield from _hidden(modes, levels)
    yield from _cancelling(solution, loss)


def _constant_kl(levels: tuple[Level, ...]) -> Iterator[str]:
    """A fixed sigma other than the prior's std has a KL even where the unit says nothing."""
    for number, level in enumerate(levels, 1):
        dead = np.array([status == "collapsed" for status in level.status])
        kl = level.kl[dead]
        if kl.size and kl.max() > LEAST_KL:
            yield (
                f"level {number}: collapsed units keep a KL of up to {kl.max():.3g} nats each, "
                "that of their fixed posterior std to the prior's; they carry nothing"
            )


def _few_samples(modes: Modes) -> Iterator[str]:
    moments = modes.moments
    if modes.conditional and moments.n is not None and moments.n < 10 * modes.rank:
        text = (
            f"the condition has {modes.rank} independent features for {moments.n} samples (fewer "
            "than 10 each): what it seems to explain of y may be an artefact; measure "
            "Moments.from_arrays(cross_fitted_residuals(x, y)) and forecast with VAESpec"
        )
        warnings.warn(text, FewSamplesWarning, stacklevel=5)
        yield text
    if moments.unresolved > 0:
        yield (
            f"wide data: {len(modes.theta)} modes were resolved by a randomised subspace "
            f"(variances slightly low); the unresolved tail holds variance {moments.unresolved:.4g}"
        )


def _noise_alone(modes: Modes, level: Level) -> Iterator[str]:
    """Few rows make modes of features that have nothing to do with each other.

    Horn's parallel analysis (1965): what modes do independent features of these variances show?
    """
    moments = modes.moments
    n, features = moments.n, moments.features[1]
    threshold = float(level.threshold[~np.isnan(level.threshold)].min(initial=np.inf))
    if n is None or n >= MANY_ROWS * features or n * features > MOST_DRAWN:
        return
    if moments.paired or not moments.center:
        return
    variance = np.square(modes.theta)
    found = int(np.count_nonzero(variance > threshold))
    rows = np.random.default_rng(0).standard_normal((n, features))
    rows *= np.sqrt(moments.feature_variances)
    rows -= rows.mean(axis=0)
    gram = rows @ rows.T if n < features else rows.T @ rows
    noise = fit(np.linalg.eigvalsh(gram)[::-1] / n, len(variance))
    above = int(np.count_nonzero(noise > threshold))
    weaker = np.flatnonzero(variance <= noise)
    stronger = min(found, int(weaker[0]) if weaker.size else found)
    if stronger < found:
        yield (
            f"only {n:,} rows for {features:,} features: so few of noise, in features of these "
            f"variances, would show {above} modes above the threshold; these data show {found}, of "
            f"which {stronger} are stronger than noise's"
        )


def _unlike(modes: Modes) -> Iterator[str]:
    """A Gaussian decoder of one eta_dec holds all features to the same noise."""
    if modes.noise is not None or modes.moments.paired:
        return
    variances = modes.moments.feature_variances
    stds = np.sqrt(variances[variances > 0])
    if len(stds) > 1 and stds.max() > UNLIKE * np.median(stds):
        yield (
            f"features have standard deviations up to {stds.max():.3g}, of which the median is "
            f"{np.median(stds):.3g}, and one eta_dec for all: the largest decide. Divide each "
            "feature by its own (--standardize), unless they are of one unit"
        )


def _hidden(modes: Modes, levels: tuple[Level, ...]) -> Iterator[str]:
    """What rounding hides matters where it could pass the lowest threshold."""
    thresholds = np.concatenate([level.threshold for level in levels])
    least = float(thresholds[np.isfinite(thresholds)].min(initial=np.inf))
    if modes.hidden >= least:
        yield (
            f"modes of variance up to {modes.hidden:.3g} may be missing, lost to rounding beside "
            f"the largest of {modes.theta[0] ** 2:.3g}, and {least:.3g} is enough for a unit to "
            "live: divide the features by their standard deviations, drop the largest, or replace "
            "one of two that are nearly equal by their difference"
        )


def _cancelling(solution: Solution, loss: float) -> Iterator[str]:
    """Weights in float64 cannot cancel terms to more than their sixteenth digit."""
    numbers = solution.numbers
    largest = solution.problem.modes.total / float(numbers.etas[0]) ** 2
    for beta, prior, second in zip(
        numbers.betas, numbers.priors, solution.state.second, strict=True
    ):
        largest += float(beta) * float(second.sum()) / float(prior) ** 2
    rounding = 4 * np.finfo(float).eps * largest
    if rounding > ATTAINED * (1 + abs(loss)):
        yield (
            f"parameters() may miss the loss by up to about {rounding:.1g} nats: scales so far "
            f"apart make it a difference of terms as large as {largest:.1g} nats; bring the "
            "features' stds, or the levels' stds and betas, nearer to each other"
        )
