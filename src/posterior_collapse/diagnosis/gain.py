"""From what is left unexplained to t, what one more unit would buy in nats, and how many pay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.polynomial.hermite_e import hermegauss

from posterior_collapse.arrays import Float
from posterior_collapse.diagnosis.certificate import Signal
from posterior_collapse.diagnosis.results import Gain, LevelDiagnosis
from posterior_collapse.specs import ChainSpec, HVAESpec, Spec
from posterior_collapse.theory import unclaimed_signal
from posterior_collapse.theory.thresholds import SURE, Side, side_of_threshold, unit_gain

WORTH = 0.01
"""Share of what the living units brought that one more must bring to be worth having."""
_NODES, _WEIGHTS = hermegauss(32)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def certificate(
    spec: Spec,
    signals: Sequence[Signal],
    limits: Sequence[float],
    *,
    sure: float,
    worth: float,
    most: float,
) -> dict[str, Any]:
    """Return t, its error, gains and counts of units that pay, by the names of `Diagnosis`.

    Args:
        spec: The hyperparameters.
        signals: Per level.
        limits: Per level, the variance that a unit must exceed; see `thresholds`.
        sure: Up to where a t is surely below 1.
        worth: Nats that a unit must gain to be worth having.
        most: Nats that there are to be gained at all.
    """
    columns = []
    for level, (signal, limit) in enumerate(zip(signals, limits, strict=True), start=1):
        t, spread = float(signal.variances[0] / limit), signal.error / limit
        error = 0.0 if t <= sure else spread
        sides: list[Side] = []
        for each in map(float, signal.variances[signal.informed] / limit):
            # Those behind one that does not pay are weaker still.
            below = each <= sure or "below" in sides
            sides.append("below" if below else side_of_worth(spec, level, each, spread, worth))
        gain = gain_of(spec, level, signal, limit, error, worth, most)
        columns.append((t, error, gain, sides.count("above"), sides.count("undecided")))
    names = ("signal", "signal_error", "gains", "paying_units", "undecided_units")
    return dict(zip(names, zip(*columns, strict=True), strict=True))


def thresholds(
    spec: Spec, levels: Sequence[LevelDiagnosis], etas: Sequence[float | None]
) -> tuple[float, ...]:
    """Return per level the variance that one more unit must exceed.

    Where the fixed sigma differs from unit to unit, the unit is the collapsed one with the
    smallest; none collapsed: the smallest of all.

    Args:
        spec: The hyperparameters.
        levels: Says which units are spare, here and in the level above.
        etas: Per level, std of what it decodes into, where the spec learns it.
    """
    found = []
    for number, eta in enumerate(etas, start=1):
        status = levels[number - 1].status
        # The level above encodes at most as many units as it has.
        on = len(status) - status.count("collapsed")
        spare = number < len(levels) and spec.dims[number] > on
        spared = _for_spare_units(spec, status, number)
        one = unclaimed_signal(spared, 1.0, level=number, eta_dec=eta, spare_above=spare)
        found.append(1 / one)
    return tuple(found)


def _for_spare_units(spec: Spec, status: Sequence[str], number: int) -> Spec:
    sigma = spec.sigma_levels[number - 1]
    if not isinstance(sigma, tuple):
        return spec
    spare = [s for s, one in zip(sigma, status, strict=True) if one == "collapsed"]
    least = min(spare or sigma)
    if isinstance(spec, HVAESpec):
        return spec.replace(**{f"sigma_{number}": least})
    if isinstance(spec, ChainSpec):
        sigmas = list(spec.sigma_levels)
        sigmas[number - 1] = least
        return spec.replace(sigmas=sigmas)
    return spec.replace(sigma=least)


def priced(spec: Spec, level: int, share: Float, t: Float, error: Float) -> tuple[float, float]:
    """Return what one more unit gains in nats per row, and its standard error.

    Only parts whose t exceeds 1 gain, so that a noisy t gains on average although it should not.
    By how much follows from the noise once more: that bias is subtracted. Each part has a share of
    the rows, a t and its standard error.

    Example:
        >>> from posterior_collapse import VAESpec
        >>> gain, error = priced(VAESpec(1), 1, np.ones(1), np.array([1.5]), np.array([0.1]))
        >>> round(gain, 3), round(float(unit_gain(VAESpec(1), 1.5)), 3)
        (0.046, 0.047)
    """
    value = unit_gain(spec, t, level=level)
    around = unit_gain(spec, t[:, None] + error[:, None] * _NODES, level=level)
    mean = around @ _WEIGHTS
    variance = np.maximum(np.square(around) @ _WEIGHTS - mean**2, 0.0)
    gain = float(share @ (2 * value - mean))
    return gain, float(np.sqrt(np.square(share) @ variance))


def gain_of(
    spec: Spec,
    level: int,
    signal: Signal,
    limit: float,
    error: float,
    worth: float,
    most: float = math.inf,
) -> Gain:
    """Return what one more unit of a level would gain, over the best number of parts.

    Arguments are those of `certificate`; `error` is that of the level's t. There is no more than
    `most` to be gained: the price is that of a parabola, which goes on falling where a loss does
    not, far away where outputs are all but certain.
    """
    t = signal.variances[:1] / limit
    if np.isnan(t).any():
        return Gain(math.nan, math.nan, 1, math.nan, math.nan, worth)
    _, spread = priced(spec, level, np.ones(1), t, np.array([error]))
    whole = float(unit_gain(spec, t, level=level)[0]), spread
    best, count = whole, 1
    for parts in signal.parts:
        found = priced(spec, level, parts.share, parts.variance / limit, parts.error / limit)
        # The largest of several estimates is the luckiest: it has to be sure of its lead.
        if found[0] - found[1] > max(best[0] - best[1], 0.0):
            best, count = found, len(parts.share)
    found, of_one = (
        (min(max(gain, 0.0), most), min(spread, most)) for gain, spread in (best, whole)
    )
    return Gain(*found, count, *of_one, worth)


def side_of_worth(spec: Spec, level: int, t: float, error: float, worth: float) -> Side:
    """Say whether a direction's gain is worth a unit, as far as the error of its t lets one tell.

    Example:
        >>> from posterior_collapse import VAESpec
        >>> [side_of_worth(VAESpec(1), 1, t, 0.05, 0.001) for t in (0.8, 1.06, 1.2)]
        ['below', 'undecided', 'above']
    """
    side = side_of_threshold(t, error)
    if side != "above":
        return side
    least, most = (float(unit_gain(spec, t + sign * SURE * error, level=level)) for sign in (-1, 1))
    if least > worth:
        return "above"
    return "below" if most <= worth else "undecided"
