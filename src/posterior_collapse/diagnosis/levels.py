"""One latent level: from what each row's posterior says to what each unit does."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from posterior_collapse import checks
from posterior_collapse.arrays import Float
from posterior_collapse.diagnosis.results import (
    QUANTILES,
    CollapseCurve,
    LevelDiagnosis,
    Status,
)
from posterior_collapse.diagnosis.statistics import (
    Information,
    Reservoir,
    Running,
    mixture_information,
)
from posterior_collapse.errors import InvalidArgumentError, count_of
from posterior_collapse.specs import Spec
from posterior_collapse.theory import ACTIVE_INFORMATION
from posterior_collapse.theory.thresholds import SURE

ACTIVE_VARIANCE = 0.01
"""Var_x(E[z_i|x]) above which a unit is active in the sense of Burda et al. (2016)."""
ACTIVE_KL = 0.01
"""KL from which the published scripts count a (row, unit) pair."""
CURVE_POINTS = 100
DIVERGED_KL, DIVERGED_STD = 1e6, 1e3
"""Mean KL in nats, and stds of the prior that a posterior is wide, which no training aims at."""
MOST_TURNED = 1024
"""Units up to which their directions are looked for."""
CELLS = 48
REACH = 4.0
"""Stds of the prior, or of the widest unit, to either side of the middle."""
MOST_ROWS = 1000
"""Enough for a picture: a cell's share is off by a few hundredths of the highest at most."""


def collapse_options(epsilon: object, delta: object) -> dict[str, float]:
    """Return eps and delta of (eps, delta)-collapse by name."""
    number = math.nan
    with contextlib.suppress(InvalidArgumentError):
        number = checks.positive("delta", delta)
    if not number < 1:
        raise InvalidArgumentError(
            "delta", delta, "a share of the rows, above 0 and below 1", "Pass delta=0.05."
        )
    return {"epsilon": checks.positive("epsilon", epsilon), "delta": number}


def check_spec(spec: Spec | None, units: tuple[int, ...]) -> None:
    """Refuse what is no spec, or a spec whose levels have other numbers of units."""
    if spec is None or (isinstance(spec, Spec) and spec.dims == units):
        return
    got = f"latent dims {spec.dims}" if isinstance(spec, Spec) else type(spec).__name__
    of = f"levels of {units} units"
    if len(units) == 1:
        of = f"one level of {count_of(units[0], 'unit')}"
    raise InvalidArgumentError("spec", got, f"a spec of {of}", "Leave it out, or check it.")


@dataclass(frozen=True)
class RowPosteriors:
    """What the rows of one batch say of a level; all arrays (rows, units).

    Above level 1, q(z|x) is known from samples of the levels below it. Two independent halves of
    these samples keep apart what varies with x and what varies with the samples.

    Attributes:
        kl: E_q[log q - log p] in nats.
        means: Mean of q(z|x), or its estimates from two halves of the samples.
        variances: Variance of q(z|x), likewise.
        noise: Mean variance of q(z_l|z_{l-1}), the noise injected at this level.
        prior_std: Std of p(z_l|z_{l+1}), broadcastable.
        drawn: Mean and std of q(z_l|z_{l-1}) for one sample of the level below, above level 1.
        prior_mean: Mean of the prior, broadcastable; NaN where the prior is no one Gaussian.
    """

    kl: Float
    means: tuple[Float, ...]
    variances: tuple[Float, ...]
    noise: Float
    prior_std: Float
    drawn: tuple[Float, Float] | None = None
    prior_mean: Float | float = math.nan


class LevelStatistics:
    """Takes in batches of posteriors and says in the end what each unit does.

    Args:
        rng: Chooses the rows that are kept where there are too many.
        centred: Whether `gaussian_information` is of variances about the mean, or about 0, as
            theory has it for models without biases.

    Attributes:
        total: KL of all units of a row.
        kept: The rows that quantiles and information are measured on.
    """

    def __init__(self, rng: np.random.Generator, centred: bool = True) -> None:
        self._centred = centred
        self.kept = Reservoir(rng)
        self.total = Running()
        self._kl, self._mean, self._share = Running(), Running(), Running()
        self._noise, self._prior, self._prior_mean = Running(), Running(), Running()
        self._least: Float = np.array(math.inf)
        self._most: Float = np.array(0.0)
        self._halves, self._drawn = 1, False

    def add(self, rows: RowPosteriors) -> None:
        """Take in a batch."""
        self._halves, self._drawn = len(rows.means), rows.drawn is not None
        self.total.add(rows.kl.sum(1))
        self._kl.add(rows.kl)
        self._mean.add(rows.means[0], rows.means[-1])
        self._noise.add(rows.noise)
        self._least = np.minimum(self._least, rows.noise.min(0))
        self._most = np.maximum(self._most, rows.noise.max(0))
        self._prior.add(np.broadcast_to(np.square(rows.prior_std), rows.kl.shape))
        self._prior_mean.add(np.broadcast_to(rows.prior_mean, rows.kl.shape))
        self._share.add((rows.kl >= ACTIVE_KL).mean(1, keepdims=True))
        self.kept.add(rows.kl, *rows.means, *rows.variances, *(rows.drawn or ()))

    def notes(self, level: LevelDiagnosis, name: str = "") -> Iterator[str]:
        """Yield what few rows do to a `diagnosis`, and whether only a part of them was kept.

        The `name` is that of the level, if there are several, such as " of z2".
        """
        kept, n = self.kept.kept, self.kept.n
        if kept < n:
            part = f"{kept:,} rows, drawn at random from {n:,}"
            yield f"quantiles and information are those of {part}"
        if bounds := int(level.information_is_lower_bound.sum()):
            yield (
                f"information of {count_of(bounds, 'unit')}{name} is a lower bound: the posteriors "
                "are very narrow beside the range of the means"
            )
        doubtful = level.that_are("collapsed") & (level.information > ACTIVE_INFORMATION)
        if doubtful.any():
            yield (
                f"{count_of(int(doubtful.sum()), 'unit')}{name} counted as collapsed may be "
                f"active: the information, up to {level.information[doubtful].max():.2g} nats, is "
                f"within two errors of {ACTIVE_INFORMATION}"
            )
        lacking = level.hidden(kept)
        biased = lacking > np.fmax(level.information_error, ACTIVE_INFORMATION)
        biased &= ~level.information_is_lower_bound
        if biased.any():
            yield (
                f"information of {count_of(int(biased.sum()), 'unit')}{name} is too low by up to "
                f"about {lacking[biased].max():.2g} nats, which its error leaves out: {kept:,} "
                "rows show no more"
            )

    def diagnosis(self, *, top: bool, epsilon: float = 0.01, delta: float = 0.05) -> LevelDiagnosis:
        """Return what was found, the decoder's part left open; the `top` level's prior is fixed."""
        kl, *rest = self.kept.rows()
        halves = self._halves
        posterior = Posteriors(rest[:halves], rest[halves : 2 * halves], self.kept.n, self._centred)
        information = posterior.information()
        of_input = information
        if self._drawn:
            drawn = zip(*(part.T for part in rest[2 * halves :]), strict=True)
            of_input = [mixture_information(mean, std) for mean, std in drawn]
        diverged = has_diverged(self._kl.mean, self._most, self._prior.mean)
        status = tuple(
            "diverged" if beyond else _status(*found)
            for beyond, *found in zip(diverged, information, of_input, strict=True)
        )
        kl = np.sort(np.ascontiguousarray(kl.T)).T  # in place, column after column
        quantiles, quantile_errors = _quantiles(kl)
        signal = np.maximum(self._mean.covariance, 0.0)
        values, errors, coarse = (np.array(part) for part in zip(*information, strict=True))
        input_values = np.array([found.value for found in of_input])
        nothing = np.full(kl.shape[1], math.nan)
        signal_error = posterior.signal_error
        if len(kl) < 3:  # two rows are as far from their mean as each other
            errors, signal_error = nothing, nothing
        return LevelDiagnosis(
            kl=self._kl.mean,
            kl_error=self._kl.error,
            kl_quantiles=quantiles,
            kl_quantile_errors=quantile_errors,
            information=values,
            information_error=errors,
            gaussian_information=posterior.gaussian_information,
            information_is_lower_bound=coarse.astype(bool),
            input_information=input_values,
            status=status,
            mean_variance=signal,
            mean_variance_error=signal_error,
            directions=posterior.directions(),
            active_units=signal - SURE * posterior.sampling_error > ACTIVE_VARIANCE,
            kl_active_share=float(self._share.mean[0]),
            kl_active_share_error=float(self._share.error[0]),
            epsilon_delta_collapsed=_below(kl, epsilon) >= 1 - delta,
            collapse_curve=_curve(kl, delta),
            decoder_effect=nothing,
            decoder_effect_error=nothing,
            posterior_std=np.sqrt(self._noise.mean),
            posterior_std_range=np.sqrt([self._least, self._most]),
            aggregate_mean=self._mean.mean,
            aggregate_std=np.sqrt(signal + posterior.spread),
            prior_std=np.sqrt(self._prior.mean),
            prior_gap=np.maximum(self._kl.mean - input_values, 0.0) if top else nothing,
            _histogram=aggregate_histogram(
                posterior.mean,
                posterior.variance,
                self._prior_mean.mean,
                np.sqrt(self._prior.mean),
                ~diverged,
            ),
        )


class Posteriors:
    """q(z|x) of the kept rows as Gaussians of their means and variances, sampling noise removed.

    With `a` and `b` the two halves' means, Cov(a, b) is what varies with x alone. The average of
    the two is shrunk to that variance, and so is that of the variances.
    """

    def __init__(self, means: list[Float], variances: list[Float], n: int, centred: bool) -> None:
        self.means = means
        self.mean, self.signal, sampling = _without_noise(means)
        self.variance, _, _ = _without_noise(variances)
        self.spread: Float = self.variance.mean(0)
        self.offset: Float = np.zeros_like(self.spread) if centred else self.mean.mean(0)
        a, b = (half - half.mean(0) for half in (means[0], means[-1]))
        self.signal_error = (a * b).std(0) / math.sqrt(n)
        self.sampling_error = np.sqrt((2 * self.signal * sampling + sampling**2) / len(a))

    def information(self, units: slice = slice(None)) -> list[Information]:
        """I(x; z_i) of each unit; the error is that of the rows and that of the sampling."""
        found = []
        columns_first = (np.ascontiguousarray(part.T) for part in (self.mean, self.variance))
        every = (*columns_first, self.from_sampling)
        columns = zip(*(part[units] for part in every), strict=True)
        for mean, variance, error in columns:
            value, row_error, coarse = mixture_information(mean, np.sqrt(variance))
            found.append(Information(value, math.hypot(row_error, error), coarse))
        return found

    def directions(self) -> int:
        """Number of directions whose information, were they Gaussian, is an active unit's.

        What varies with x alone is the covariance of the two halves' means.
        """
        if len(self.spread) > MOST_TURNED:
            ratios = self.signal / self.spread
        else:
            scale, halves = np.sqrt(self.spread), (self.means[0], self.means[-1])
            first, second = ((half - half.mean(0)) / scale for half in halves)
            covariance = first.T @ second / len(first)
            ratios = np.linalg.eigvalsh((covariance + covariance.T) / 2)
        return int(np.count_nonzero(np.log1p(np.maximum(ratios, 0)) / 2 > ACTIVE_INFORMATION))

    @property
    def from_sampling(self) -> Float:
        """The part of the information's error that comes from the sampling."""
        error: Float = self.sampling_error / (2 * (self.signal + self.spread))
        return error

    @property
    def gaussian_information(self) -> Float:
        """`1/2 log Var(z) - E log std(z|x)`, since no law of that variance has more entropy."""
        total = self.signal + self.spread + self.offset**2
        bound: Float = 0.5 * (np.log(total) - np.log(self.variance).mean(0))
        return np.maximum(bound, 0.0)


def gaussian_kl(mean: Float, std: Float, prior_mean: Float, prior_std: Float) -> Float:
    """Return KL(N(mean, std^2) || N(prior_mean, prior_std^2)) in nats, of the broadcast shape.

    Example:
        >>> float(gaussian_kl(*map(np.array, (1.0, 1.0, 0.0, 1.0))))
        0.5
    """
    ratio = std / prior_std
    kl: Float = 0.5 * (((mean - prior_mean) / prior_std) ** 2 + ratio**2 - 1) - np.log(ratio)
    return kl


def _without_noise(halves: list[Float]) -> tuple[Float, Float, Float]:
    """The rows' values with the variance that they have in truth, it, and a half's noise."""
    average = halves[0] if len(halves) == 1 else (halves[0] + halves[1]) / 2
    center = average.mean(0)
    variance = np.square(average - center).mean(0)
    if len(halves) == 1:
        return average, variance, np.zeros_like(variance)
    noise = np.square(halves[0] - halves[1]).mean(0) / 2
    true = np.maximum(variance - noise / 2, 0.0)
    scale = np.sqrt(np.divide(true, variance, out=np.zeros_like(true), where=variance > 0))
    return center + scale * (average - center), true, noise


def has_diverged(kl: Float, widest: Float, prior: Float) -> NDArray[np.bool_]:
    """Return which units are beyond all use, (units,).

    By their mean KL in nats, or the largest variance of a posterior beside the prior's.
    """
    beyond: NDArray[np.bool_] = (kl > DIVERGED_KL) | (np.sqrt(widest / prior) > DIVERGED_STD)
    return beyond


def is_active(information: Information) -> bool:
    """Return whether a unit surely knows more than `ACTIVE_INFORMATION`."""
    return information.value - SURE * information.error > ACTIVE_INFORMATION


def _status(information: Information, of_input: Information) -> Status:
    if is_active(information):
        return "active"
    return "noise" if is_active(of_input) else "collapsed"


def _quantiles(ordered: Float) -> tuple[Float, Float]:
    """Quantiles of sorted rows, (quantiles, units), and errors from the ranks' own spread."""
    levels = np.array(QUANTILES)
    spread = np.sqrt(levels * (1 - levels) / len(ordered))
    low, middle, high = (_at(ordered, levels + shift) for shift in (-spread, 0.0, spread))
    return middle, (high - low) / 2


def _at(ordered: Float, levels: Float) -> Float:
    """Quantiles of sorted rows; `np.quantile` would sort anew."""
    place = np.clip(levels, 0, 1) * (len(ordered) - 1)
    lower = np.floor(place).astype(np.intp)
    upper = np.minimum(lower + 1, len(ordered) - 1)
    found: Float = ordered[lower] + (place - lower)[:, None] * (ordered[upper] - ordered[lower])
    return found


def _below(ordered: Float, epsilon: float | Float) -> Float:
    """Share of sorted rows below eps per unit, (units,), or (points, units) for several eps."""
    columns = [np.searchsorted(column, epsilon, side="left") for column in ordered.T]
    return np.stack(columns, axis=-1) / len(ordered)


def _curve(ordered: Float, delta: float) -> CollapseCurve:
    needed = _at(ordered, np.array([1 - delta])).max(initial=0.0)
    epsilon = np.geomspace(1e-4, max(10.0, 1.1 * float(needed)), CURVE_POINTS)
    below = _below(ordered, epsilon)
    # A unit whose share of rows is within its error of 1 - delta might as well count or not.
    spread = math.sqrt(delta * (1 - delta) / len(ordered))
    doubt = ndtr((below - (1 - delta)) / spread)
    error = np.sqrt((doubt * (1 - doubt)).sum(1)) / ordered.shape[1]
    return CollapseCurve(delta, epsilon, (below >= 1 - delta).mean(1), error)


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
    usable: NDArray[np.bool_],
) -> Histogram:
    """Return the histogram of units whose z given row n is N(mean_n, variance_n).

    Args:
        mean: (rows, units).
        variance: (rows, units), positive.
        prior_mean: (units,); NaN where the prior is no one Gaussian.
        prior_std: (units,).
        usable: Units that decide how wide the cells are, (units,); of none, all do.

    Example:
        >>> z, one = np.zeros((5, 2)), np.ones((5, 2))
        >>> found = aggregate_histogram(z, one, z[0], one[0], one[0] > 0)
        >>> bool(np.allclose(found.share, found.prior)), found.share.shape
        (True, (2, 48))
    """
    some = np.unique(np.linspace(0, len(mean) - 1, MOST_ROWS).astype(np.intp))
    mean, std = mean[some], np.sqrt(variance[some])
    centre = np.where(np.isnan(prior_mean), mean.mean(0), prior_mean)
    far = np.abs(mean.mean(0) - centre) + 3 * np.sqrt(np.square(std).mean(0) + mean.var(0))
    # One width for all units of a level, so that a narrow one looks narrow.
    seen = usable if usable.any() else ~usable
    reach = max(REACH * float(prior_std[seen].max()), float(far[seen].max()))
    edges = centre[:, None] + reach * np.linspace(-1, 1, CELLS + 1)
    below = np.stack([ndtr((edge - mean) / std).mean(0) for edge in edges.T], axis=1)
    prior = ndtr((edges - prior_mean[:, None]) / prior_std[:, None])
    return Histogram(edges, np.diff(below, axis=1), np.diff(prior, axis=1))
