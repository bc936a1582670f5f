"""What a loss bears on given data: its forecast, by whichever law its reconstruction term has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import xlogy

from posterior_collapse.adapters.kl import KLReading
from posterior_collapse.adapters.on_data import (
    by_position,
    has_padding,
    rows_of,
    shaped,
    targets_of,
)
from posterior_collapse.adapters.probing import along
from posterior_collapse.adapters.terms import Terms
from posterior_collapse.arrays import Array, Float
from posterior_collapse.diagnosis.onsets import Onset, onset
from posterior_collapse.errors import NotSolvedError
from posterior_collapse.moments import Moments
from posterior_collapse.specs import VAESpec
from posterior_collapse.theory import Forecast, forecast
from posterior_collapse.theory.solve import levels


def forecast_of(spec: VAESpec, data: Any, terms: Terms) -> tuple[Forecast, Onset | None]:
    """Return the forecast for a loss on data, and the onset where no closed form has it.

    Data are as `forecast` takes them; of class numbers, one column for each position. Of a floor of
    the KL the forecast is that of the beta which comes to the same, of weights per unit that of
    each unit at its own.
    """
    kl, probe, targets = terms.kl, terms.probe, targets_of(rows_of(data), terms)
    found: Onset | None = None
    if spec.likelihood == "other":
        assert probe is not None
        # At the prior, where the KL is constant, what is left is the reconstruction term.
        found = onset(probe.total, shaped(targets, probe), output_shape=terms.sizes.features)
    white: _White | None = None
    if found is not None:
        white = _White(Moments.from_matrices(np.diag(found.ratios)), found.loss, found.notes)
    elif has_padding(targets, terms):
        white = _of_padded(targets, terms)

    def at(beta: float) -> Forecast:
        here = spec.replace(beta=beta)
        return forecast(rows, here) if white is None else _of_white(white, here)

    rows = targets
    if white is None and spec.likelihood == "categorical":
        rows = by_position(targets, terms)
    first = at(spec.beta)
    if kl.kind in ("free bits", "capacity"):
        return at(_with_floor(first, kl)), found
    return (first if kl.weights is None else _with_weights(first, kl.weights)), found


class _White(NamedTuple):
    """Scores in units of their noise, the loss of the best constant output, and notes."""

    moments: Moments
    loss: float
    notes: tuple[str, ...]


def _of_padded(rows: Array, terms: Terms) -> _White:
    """Return what class numbers are worth of which some count nothing.

    Where a position counts it has the mean p of those rows: its score is one-hot less p there, 0
    elsewhere, and the mean Hessian that of p times the share of rows where it counts.
    """
    assert terms.probe is not None
    axis = terms.probe.target.axis or 0
    hot = terms.probe.one_hot(torch.from_numpy(shaped(rows, terms.probe))).numpy()
    share, seen = hot.mean(axis=0), hot.sum(axis=along(axis), keepdims=True)
    total = share.sum(axis=axis, keepdims=True)
    p = np.divide(share, total, out=np.zeros_like(share), where=total > 0)
    root = np.sqrt(share)
    hot -= seen * p
    white = np.divide(hot, root, out=np.zeros_like(hot), where=root > 0)
    return _White(Moments.from_arrays(white), -float(xlogy(share, p).sum()), ())


def _of_white(found: _White, spec: VAESpec) -> Forecast:
    """Return the forecast of a Gaussian decoder whose modes are worth what the loss's are."""
    gaussian = VAESpec(spec.latent_dim, spec.beta, 1.0, spec.eta_enc, spec.sigma)
    result = forecast(found.moments, gaussian)
    modes = found.moments.features[1]
    collapsed = result.total_variance / 2 + modes / 2 * math.log(2 * math.pi)
    none = np.full(spec.latent_dim, math.nan)
    return result.replace(
        spec=spec,
        levels=(result.levels[0].replace(critical_eta_dec=none, informed_eta_dec=none),),
        loss=result.loss - collapsed + found.loss,
        eta_dec=math.nan,
        notes=(
            "variances are in units of the noise that the loss tolerates. The beta above which "
            "collapse is a local optimum is exact for any network; how many units live below it, "
            "their KL and the loss are those of a quadratic approximation",
            *found.notes,
            *result.notes,
        ),
    )


def _with_weights(result: Forecast, weights: Sequence[float]) -> Forecast:
    """Return the forecast where each unit has a KL weight of its own, the least of them beta.

    What a mode of worth r gains at the weight b, `(r - b - b log(r / b)) / 2` of loss, is the more
    sensitive to b the larger r is: at best the strongest modes have the cheapest units.
    """
    level, spec, solution = result.levels[0], result.spec, result._solution
    if spec.eta_levels[0] == "learned":
        raise NotSolvedError(
            "loss",
            "units with KL weights of their own, and a fitted eta_dec",
            "one weight for all, or a fixed eta_dec",
            "Judge the trained model by its information.",
        )
    beta, scale = float(spec.beta_levels[0]), float(spec.eta_enc) ** 2
    times = np.sort(np.asarray(weights)) / min(weights)
    worth = np.asarray(level.data_variance / level.threshold * beta)

    def noise_share(weights: Float) -> Float:
        """Return which part of each unit's variance is noise; of a collapsed one all."""
        return np.asarray(weights / np.maximum(worth, weights))

    def gained(weights: Float) -> float:
        share = noise_share(weights)
        return float((worth * (1 - share) + weights * np.log(share)).sum() / 2)

    own, alike = beta * times, np.full(len(times), beta)
    state = replace(solution.state, noise=[noise_share(own) * scale])
    solution = replace(solution, state=state)
    return result.replace(
        loss=result.loss + gained(alike) - gained(own),
        levels=(
            levels(solution)[0].replace(
                threshold=level.threshold * times,
                critical_beta=level.critical_beta / times,
                critical_eta_dec=level.critical_eta_dec / np.sqrt(times),
                informed_beta=level.informed_beta / times,
                informed_eta_dec=level.informed_eta_dec / np.sqrt(times),
            ),
        ),
        notes=(
            "each unit has its own KL weight: the strongest modes go to the cheapest units, and "
            "beta is the weight of the cheapest",
            *result.notes,
        ),
        _solution=solution,
        _times=tuple(times.tolist()),
    )


def _with_floor(result: Forecast, kl: KLReading) -> float:
    """Return the beta at which a plain KL would be spent as it is above a floor.

    Each unit has the floor for free, or all share it: then water flows to the strongest modes
    until it is spent. If at the loss's own slope more is spent anyhow, that slope is it.
    """
    level, beta = result.levels[0], result.spec.beta_levels[0]
    worth = np.asarray(level.data_variance / level.threshold * beta)
    worth = worth[worth > 0]
    if not len(worth) or kl.floor <= 0:
        return beta
    if kl.floor_over == "unit":
        return min(beta, float(worth.min()) * math.exp(-2 * kl.floor))
    # Above the water level of the k strongest modes the floor is spent on these alone.
    heights, k = np.sort(np.log(worth))[::-1], np.arange(1, len(worth) + 1)
    level_of = (np.cumsum(heights) - 2 * kl.floor) / k
    return min(beta, math.exp(float(level_of.max())))
