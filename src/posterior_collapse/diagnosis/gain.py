"""From what is left unexplained to t, what one more unit would gain in nats, and how many pay.

What a further unit gains of its t is a `Bought`. Errors are standard errors. A unit is `worth`
having from so many nats on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.polynomial.hermite_e import hermegauss

from posterior_collapse.arrays import Float
from posterior_collapse.diagnosis.certificate import Signal
from posterior_collapse.diagnosis.results import Gain, LevelDiagnosis
from posterior_collapse.specs import Spec
from posterior_collapse.theory import unclaimed_signal
from posterior_collapse.theory.thresholds import (
    SURE,
    Side,
    idle_cost,
    side_of_threshold,
    unit_gain,
)

WORTH = 0.01
"""Share of what the living units brought that one more must bring to be worth having."""
_NODES, _WEIGHTS = hermegauss(32)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
SPENT = 1e-9
"""Least share of the error that is left, whatever a unit explains: at 0 the loss has no minimum."""


Answer = Callable[[Float, Callable[[Any], Float]], Float]
"""Nats that the unit gains besides, by a learned std that changes with it.

A function of t and of how the gains of parts are summed.
"""


def unanswered(t: Float, summed: Callable[[Any], Float]) -> Float:
    """Add nothing: all stds stay as they are."""
    return np.zeros(())


@dataclass(frozen=True)
class Bought:
    """By how many nats per row a further unit lowers the loss, as a function of its t.

    Negative where the unit costs more than it brings.

    Args:
        held: What it gains with all stds as they are, of t of any shape.
        idle: Nats that it costs at any output.
        answer: What a learned std adds.
    """

    held: Callable[[Any], Float]
    idle: float = 0.0
    answer: Answer = unanswered

    def __call__(self, t: Any, share: Float | None = None) -> Float:
        """Return the gains; with `share` of the rows that each t is of, they sum to the unit's.

        A unit that parts of latent space, along the first axis of t, use differently is one unit
        all the same, and stds answer to all that it does.
        """
        t = np.asarray(t, dtype=np.float64)
        summed = np.asarray if share is None else partial(np.tensordot, share, axes=1)
        return np.asarray(self.held(t) - self.idle + self.answer(t, summed))


def eta_answers(beta: float, left: float) -> Answer:
    """Return what it adds that a learned eta_dec falls as a unit explains more.

    Args:
        beta: Weight of the unit's KL.
        left: Features less beta per active unit: the error beside the unit over eta_dec^2.

    Source:
        Section 1d of the derivation: the optimal loss with the mode and without.
    """

    def answer(t: Float, summed: Callable[[Any], Float]) -> Float:
        explained = beta * summed(np.maximum(t - 1, 0.0))
        # What an active unit leaves of the error falls with eta_dec^2 too.
        beside = np.maximum(left - beta * summed(t > 1), 0.0)
        remaining = np.maximum(1 - explained / np.where(beside > 0, beside, np.inf), SPENT)
        return np.asarray(-(beside * np.log(remaining) + explained * (beside > 0)) / 2)

    return answer


def sigma_answers(beta: float, std: float, units: int, active: int, more: int) -> Answer:
    """Return what it adds that the one std of all units answers to a further one.

    Args:
        beta: Weight of the KL.
        std: The shared std, over that of the prior.
        units: That there are.
        active: Those of them that are active.
        more: 0 if the further unit is one of the idle ones, 1 if it is none of them.

    Source:
        Section 1c of the derivation: with x = sqrt(beta) std, `x sum max(theta/eta_dec, x) = beta
        units`, which tells what the active ones hear.
    """

    def answer(t: Float, summed: Callable[[Any], Float]) -> Float:
        square, total, lives = std**2, units + more, t > 1
        strength = np.sqrt(np.where(lives, t, 0.0))
        heard = units - (units - active) * square + square * summed(strength)
        idle = (total - active - summed(lives)) * square
        ratio = 2 * total / (heard + np.sqrt(heard**2 + 4 * idle * total))

        def loss(by: Any) -> Float:
            return np.asarray(by * heard + idle * by**2 / 2 - total * np.log(by))

        return beta * (loss(1.0) - loss(ratio))

    return answer


def certificate(
    spec: Spec,
    levels: Sequence[LevelDiagnosis],
    signals: Sequence[Signal],
    limits: Sequence[float],
    *,
    sure: float,
    worth: float,
    most: float,
    features: int,
) -> dict[str, Any]:
    """Return t, its error, gains and counts of units that pay, by the names of `Diagnosis`.

    Args:
        spec: The hyperparameters.
        levels: Says which units are spare.
        signals: Per level.
        limits: Per level, the variance that a unit must exceed; see `thresholds`.
        sure: Up to where a t is surely below 1.
        worth: Nats.
        most: Nats that there are to be gained at all.
        features: Of what is decoded.
    """
    trained, answer = as_trained(spec, levels), _answer(spec, levels[0], features)
    columns = []
    for level, (signal, limit) in enumerate(zip(signals, limits, strict=True), start=1):
        status, spare = levels[level - 1].status, _is_spare_above(spec, levels, level)
        own = _for_spare_units(trained, status, level)
        # A unit that is there has its cost already; and to what it is told, a level below whose
        # std is learned comes to meet it, so that the gain is a lower bound.
        paid = "collapsed" in status or (
            level > 1 and isinstance(trained.sigma_levels[level - 2], str)
        )
        bought = Bought(
            partial(unit_gain, own, level=level, spare_above=spare),
            0.0 if paid else max(0.0, idle_cost(own, level, spare_above=spare)),
            answer,
        )
        t, spread = float(signal.variances[0] / limit), signal.error / limit
        error = 0.0 if t <= sure else spread
        sides: list[Side] = []
        for each in map(float, signal.variances[signal.informed] / limit):
            # Those behind one that does not pay are weaker still.
            below = each <= sure or "below" in sides
            sides.append("below" if below else side_of_worth(bought, each, spread, worth))
        gain = gain_of(bought, signal, limit, error, worth, most)
        columns.append((t, error, gain, sides.count("above"), sides.count("undecided")))
    names = ("signal", "signal_error", "gains", "paying_units", "undecided_units")
    return dict(zip(names, zip(*columns, strict=True), strict=True))


def _answer(spec: Spec, level: LevelDiagnosis, features: int) -> Answer:
    """Return what a learned std of a model of one level adds; of others gains are lower bounds."""
    (beta, *above), (sigma, *_), (eta, *_) = spec.beta_levels, spec.sigma_levels, spec.eta_levels
    if not above and sigma == "shared":
        std = float(np.min(level.posterior_std)) / spec.eta_enc
        more = int("collapsed" not in level.status)
        return sigma_answers(beta, std, len(level.status), level.n_active, more)
    if not above and sigma in ("learned", "input") and eta == "learned":
        return eta_answers(beta, features - beta * level.n_active)
    return unanswered


def as_trained(spec: Spec, levels: Sequence[LevelDiagnosis]) -> Spec:
    """Return the spec with a std that all units of a level share as it was trained.

    One more unit finds it there, as it finds a fixed one.
    """
    for number, (sigma, level) in enumerate(zip(spec.sigma_levels, levels, strict=True), 1):
        if sigma == "shared":
            spec = spec.with_level("sigma", number, float(np.min(level.posterior_std)))
    return spec


def thresholds(
    spec: Spec, levels: Sequence[LevelDiagnosis], etas: Sequence[float | None]
) -> tuple[float, ...]:
    """Return per level the variance that one more unit must exceed.

    Where the fixed sigma differs from unit to unit, the unit is the collapsed one with the
    smallest; none collapsed: the smallest of all. One that all units share counts as it is.

    Args:
        spec: The hyperparameters.
        levels: Says which units are spare, here and in the level above.
        etas: Per level, std of what it decodes into, where the spec learns it.
    """
    found, spec = [], as_trained(spec, levels)
    for number, eta in enumerate(etas, start=1):
        spare = _is_spare_above(spec, levels, number)
        spared = _for_spare_units(spec, levels[number - 1].status, number)
        one = unclaimed_signal(spared, 1.0, level=number, eta_dec=eta, spare_above=spare)
        found.append(1 / one)
    return tuple(found)


def _is_spare_above(spec: Spec, levels: Sequence[LevelDiagnosis], number: int) -> bool:
    """Whether the level above, which encodes at most as many units as it has, has one left."""
    status = levels[number - 1].status
    on = len(status) - status.count("collapsed")
    return number < len(levels) and spec.dims[number] > on


def _for_spare_units(spec: Spec, status: Sequence[str], number: int) -> Spec:
    sigma = spec.sigma_levels[number - 1]
    if not isinstance(sigma, tuple):
        return spec
    spare = [s for s, one in zip(sigma, status, strict=True) if one == "collapsed"]
    return spec.with_level("sigma", number, min(spare or sigma))


def priced(bought: Bought, share: Float, t: Float, error: Float) -> tuple[float, float]:
    """Return what one more unit gains in nats per row, and its error.

    Each part of latent space has a `share` of the rows, a t and its error. Only parts whose t
    exceeds 1 gain, so that a noisy t gains on average although it should not. By how much follows
    from the noise once more: that bias is subtracted.

    Example:
        >>> from posterior_collapse import VAESpec
        >>> bought = Bought(partial(unit_gain, VAESpec(1)))
        >>> gain, error = priced(bought, np.ones(1), np.array([1.5]), np.array([0.1]))
        >>> round(gain, 3), round(float(unit_gain(VAESpec(1), 1.5)), 3)
        (0.046, 0.047)
    """
    value, around = (bought(each, share) for each in (t, t[:, None] + error[:, None] * _NODES))
    mean = around @ _WEIGHTS
    variance = np.maximum(np.square(around) @ _WEIGHTS - mean**2, 0.0)
    gain = float(share @ (2 * value - mean))
    return gain, float(np.sqrt(np.square(share) @ variance))


def gain_of(
    bought: Bought,
    signal: Signal,
    limit: float,
    error: float,
    worth: float,
    most: float,
) -> Gain:
    """Return what one more unit of a level would gain, over the best number of parts.

    Its t is the signal's strongest variance over the `limit` that it must exceed. There are at
    `most` so many nats to be gained: the price is that of a parabola, which goes on falling where a
    loss does not, far away where outputs are all but certain.
    """
    t = signal.variances[:1] / limit
    if np.isnan(t).any():
        return Gain(math.nan, math.nan, 1, math.nan, math.nan, worth)
    _, spread = priced(bought, np.ones(1), t, np.array([error]))
    whole = float(bought(t)[0]), spread
    best, count = whole, 1
    for parts in signal.parts:
        found = priced(bought, parts.share, parts.variance / limit, parts.error / limit)
        # The largest of several estimates is the luckiest: it has to be sure of its lead.
        if found[0] - found[1] > max(best[0] - best[1], 0.0):
            best, count = found, len(parts.share)
    found, of_one = (
        (min(max(gain, 0.0), most), min(spread, most)) for gain, spread in (best, whole)
    )
    return Gain(*found, count, *of_one, worth)


def side_of_worth(bought: Bought, t: float, error: float, worth: float) -> Side:
    """Say whether a direction's gain is worth a unit, as far as the error of its t lets one tell.

    Example:
        >>> from posterior_collapse import VAESpec
        >>> bought = Bought(partial(unit_gain, VAESpec(1)))
        >>> [side_of_worth(bought, t, 0.05, 0.001) for t in (0.8, 1.06, 1.2)]
        ['below', 'undecided', 'above']
    """
    least, most = (float(bought(t + sign * SURE * error)) for sign in (-1, 1))
    if most < 0:
        return "below"
    side = side_of_threshold(t, error)
    if side != "above":
        return side
    if least > worth:
        return "above"
    return "below" if most <= worth else "undecided"
