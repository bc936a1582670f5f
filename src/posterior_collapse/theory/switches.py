"""Where units of each level live and die, in closed form (theory sections 1 to 4), or bisected.

One `Threshold` per level, arrays over modes: the variance a mode must exceed for its unit to be
active, and the beta of the level and the eta_dec above which its unit collapses (infinity: never;
0: always; NaN: undetermined). Above the first level a unit may know nothing of the data long before
that, and relay noise: from its informed beta and eta_dec on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from posterior_collapse import checks
from posterior_collapse.arrays import Float
from posterior_collapse.theory.closed_forms import Std
from posterior_collapse.theory.state import Bool, Numbers, State, fit

HALVINGS = 60
"""Of the range that a critical value is looked for in; they leave 1e-16 of it."""
NEAR = 1e-9
"""Relative: how far below a critical value a unit is surely there."""


class Threshold(NamedTuple):
    """Per unit of one level: variance to exceed, critical beta, critical eta_dec.

    The informed ones are None where they are the same.
    """

    variance: Float
    beta: Float
    eta_dec: Float
    informed_beta: Float | None = None
    informed_eta_dec: Float | None = None


def learned_threshold(theta: Float, numbers: Numbers) -> Threshold:
    """Sigma learned (section 1a): a unit begins at the prior's std."""
    return fixed_threshold(theta, numbers, numbers.eta_enc)


def fixed_threshold(theta: Float, numbers: Numbers, sigma: Float | float) -> Threshold:
    """Sigma fixed (section 1b)."""
    beta, eta, eta_enc = numbers.betas[0], numbers.etas[0], numbers.eta_enc
    scaled = np.asarray(sigma) / eta_enc * np.ones_like(theta)
    return Threshold(
        beta * np.square(eta * scaled),
        theta**2 / np.square(eta * scaled),
        theta / (np.sqrt(beta) * scaled),
    )


def shared_threshold(theta: Float, numbers: Numbers, sigma: Float | float) -> Threshold:
    """One learned sigma for all units (section 1c): it responds to beta and eta_dec."""
    beta, eta = numbers.betas[0], numbers.etas[0]
    product = np.array([t * np.maximum(theta, t).sum() for t in theta]) / len(theta)
    now = fixed_threshold(theta, numbers, sigma).variance
    return Threshold(now, product / np.square(eta), np.sqrt(product / beta))


def learned_eta_beta(theta: Float, rest: Float, dim: int) -> Float:
    """Critical beta with sigma and eta_dec learned (section 1d)."""
    rank = np.arange(1, len(theta) + 1)
    scale = rest[1:] + rank * theta**2
    return np.divide(theta**2 * dim, scale, out=np.zeros_like(theta), where=scale > 0)


def learned_eta_fixed_beta(theta: Float, sigma: Float, rest: Float, dim: int) -> Float:
    """Critical beta with eta_dec learned and sigma (ascending, in units of eta_enc) fixed."""
    slope = np.cumsum(theta * sigma) - theta * sigma
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = rest[:-1] * sigma**2 / theta**2 + slope * sigma / theta
    return np.where(theta > 0, dim / inverse, 0.0)


def learned_eta_shared_beta(theta: Float, rest: Float, dim: int) -> Float:
    """Critical beta with eta_dec and one shared sigma learned."""
    units = len(theta)
    strong = np.cumsum(theta)
    weak = units - np.arange(1, units + 1)
    scale = units * (theta * strong + rest[1:])
    top = dim * theta * (weak * theta + strong)
    return np.divide(top, scale, out=np.zeros_like(theta), where=scale > 0)


def all_learned_thresholds(theta: Float, dims: Sequence[int], numbers: Numbers) -> list[Threshold]:
    """Every level's sigma learned (3c, 4): only level 1 hears the data."""
    levels = [learned_threshold(fit(theta, dims[0]), numbers)]
    for level in range(1, len(dims)):
        lower, upper = (float(b) for b in numbers.betas[level - 1 : level + 1])
        flat, ones = lower == upper, np.ones(dims[level])
        never = ones * (np.nan if flat else 0.0)
        variance = ones * (np.nan if flat else np.inf)
        levels.append(Threshold(variance, ones * lower, never, never, never))
    return levels


def first_learned_thresholds(
    theta: Float, dims: Sequence[int], numbers: Numbers, sigma_2: Std, one_eta: bool
) -> list[Threshold]:
    """Sigma_1 learned, Sigma_2 fixed (3c): all modes of z2 live or die at once.

    `one_eta`: both decoders have one eta_dec, and so z1 dies by that of z2.
    """
    assert sigma_2 is not None
    first = learned_threshold(fit(theta, dims[0]), numbers)
    critical = numbers.betas[0] * np.square(numbers.eta_enc / np.asarray(sigma_2))
    critical = np.where(np.arange(dims[1]) < dims[0], critical * np.ones(dims[1]), 0.0)
    on = numbers.betas[1] < critical
    variance = np.where(on, float(first.variance[0]), np.inf)
    eta, below = np.where(on, np.inf, 0.0), learned_threshold(fit(theta, dims[1]), numbers)
    heard = numbers.betas[0] < below.beta
    informed = np.minimum(eta, below.eta_dec) if one_eta else np.where(heard, eta, 0.0)
    informed_beta = np.where(heard, critical, 0.0)
    return [first, Threshold(variance, critical, eta, informed_beta, informed)]


def two_fixed_thresholds(
    theta: Float, dims: Sequence[int], numbers: Numbers, sigma_1: Std, sigma_2: Std
) -> list[Threshold]:
    """Sigma_1 fixed, Sigma_2 fixed or learned (3a, 3b, 3d), one eta_dec for both decoders."""
    assert sigma_1 is not None
    beta_1, beta_2 = numbers.betas
    eta, eta_enc = numbers.etas[0], numbers.eta_enc
    one = np.asarray(sigma_1) * np.ones(dims[0])
    first, signal = fit(theta, dims[0]), fit(theta, dims[1])
    alone = np.square(first / one)
    parent = np.arange(dims[0]) < dims[1]
    child = np.arange(dims[1]) < dims[0]
    one_2 = np.where(child, fit(one, dims[1]), 1.0)
    second = np.where(child, np.maximum(one_2**2, signal * one_2 / np.sqrt(beta_1)) * beta_1, 0.0)
    if sigma_2 is None:
        helped = np.where(first > np.sqrt(beta_2) * eta, np.inf, 0.0)
        helped_eta = first / np.sqrt(beta_2)
        helped_variance = np.full_like(first, beta_2 * np.square(eta))
        second_beta, second_eta = second / np.square(eta), np.sqrt(second / beta_2)
        heard = np.square(signal / eta)
        both = (beta_2 * np.square(eta)) ** 2 / (beta_1 * one_2**2)
    else:
        two = np.asarray(sigma_2) / eta_enc * np.ones(dims[1])
        above = np.where(parent, fit(two, dims[0]), 1.0)
        helped = first**4 / (beta_2 * np.square(eta * one * above))
        helped_eta = first**2 / (np.sqrt(beta_1 * beta_2) * one * above)
        helped_variance = np.sqrt(beta_1 * beta_2) * eta * one * above
        second_beta = second / np.square(eta * two)
        second_eta = np.sqrt(second / beta_2) / two
        heard = signal**4 / (beta_1 * np.square(eta * one_2 * two))
        both = (beta_2 * np.square(eta * two)) ** 2 / (beta_1 * one_2**2)
    level_1 = Threshold(
        np.where(parent, np.minimum(beta_1 * one**2, helped_variance), beta_1 * one**2),
        np.where(parent, np.maximum(alone, helped), alone),
        np.where(first > np.sqrt(beta_1) * one, np.inf, np.where(parent, helped_eta, 0.0)),
    )
    reach = np.where(child, np.maximum(fit(level_1.variance, dims[1]), both), np.inf)
    # z1 hears the data by itself, or as z2 helps it to.
    heard = np.where(signal > np.sqrt(beta_1) * one_2, np.inf, heard)
    informed = np.minimum(second_beta, heard), np.minimum(second_eta, fit(level_1.eta_dec, dims[1]))
    return [level_1, Threshold(reach, second_beta, second_eta, *informed)]


def bisected_thresholds(
    theta: Float,
    dims: Sequence[int],
    numbers: Numbers,
    solve: Callable[[Float, Numbers], State],
) -> list[Threshold]:
    """Thresholds of any chain, by bisecting each unit's own switch on a logarithmic scale.

    All units of all levels are bisected at once, by a grid of problems: of each level one in which
    the data's variances vary, one in which its beta does, and one in which the std of the decoder
    that it feeds does, `eta_decs[l-1]`; and one in which its beta varies until it is not informed.
    A wider std lets the levels below hear more, so what is informed at all is so up to its end.
    """
    depth, width = len(dims), max(dims)
    shape = depth, 4, width

    def solved(values: Float) -> tuple[Bool, Bool]:
        """Return which units are there, and which know of the data."""
        thetas = np.broadcast_to(fit(theta, width), shape).copy()
        betas = [np.full(shape, beta) for beta in numbers.betas]
        etas = [np.full(shape, eta) for eta in numbers.etas]
        for level in range(depth):
            thetas[level, 0], etas[level][level, 2] = values[level, 0], values[level, 2]
            betas[level][level, 1::2] = values[level, 1::2]
        state = solve(thetas, Numbers(betas, etas, numbers.eta_enc))
        there, known = np.zeros(shape, bool), np.zeros(shape, bool)
        for level, (lost, heard) in enumerate(zip(state.lost, state.correlation, strict=True)):
            there[level] = fit(heard[level], width) > 0
            known[level] = fit(1 - lost[level], width) > 0
        return there, known

    def past(values: Float) -> Bool:
        there, known = solved(values)
        return np.stack([known[:, 0], ~there[:, 1], ~there[:, 2], ~known[:, 3]], axis=1)

    # Where a trial value overflows, its infinity is beyond every threshold.
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        switches = _switches(shape, past)
        _, known = solved(np.clip(switches * (1 - NEAR), checks.LEAST, checks.MOST))
    std, beta, eta_dec, informed = switches.swapaxes(0, 1)
    ends = np.square(std), beta, eta_dec, informed, np.where(known[:, 2], eta_dec, 0.0)
    return [Threshold(*(end[level, :units] for end in ends)) for level, units in enumerate(dims)]


def _switches(shape: tuple[int, ...], past: Callable[[Float], Bool]) -> Float:
    """Values at which `past` turns true: 0 where it always is, infinity where never."""
    low, high = np.full(shape, np.log(checks.LEAST)), np.full(shape, np.log(checks.MOST))
    always, ever = past(np.exp(low)), past(np.exp(high))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        turned = past(np.exp(middle))
        low, high = np.where(turned, low, middle), np.where(turned, middle, high)
    return np.where(always, 0.0, np.where(ever, np.exp(high), np.inf))
