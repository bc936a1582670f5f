"""What a mode's variance, beta and eta_dec must pass for its unit to live (theory sections 1-4).

Each function returns one `Threshold` per level, arrays over modes: the variance a mode must exceed
for its unit to be active, and the beta of the level and the eta_dec above which its unit collapses
(infinity: never; 0: always; NaN: undetermined).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from posterior_collapse import checks
from posterior_collapse.arrays import Float
from posterior_collapse.theory.chain import Std
from posterior_collapse.theory.state import Numbers, State, fit

Bool = npt.NDArray[np.bool_]
HALVINGS = 60
"""Of the range that a critical value is looked for in; they leave 1e-16 of it."""


@dataclass(frozen=True, eq=False)
class Threshold:
    """Per unit of one level: variance to exceed, critical beta, critical eta_dec."""

    variance: Float
    beta: Float
    eta_dec: Float


def learned(theta: Float, numbers: Numbers) -> Threshold:
    """Sigma learned (section 1a)."""
    beta, eta = numbers.betas[0], numbers.etas[0]
    variance = np.full_like(theta, beta * np.square(eta))
    return Threshold(variance, theta**2 / np.square(eta), theta / np.sqrt(beta))


def fixed(theta: Float, numbers: Numbers, sigma: Float | float) -> Threshold:
    """Sigma fixed (section 1b)."""
    beta, eta, eta_enc = numbers.betas[0], numbers.etas[0], numbers.eta_enc
    scaled = np.asarray(sigma) / eta_enc * np.ones_like(theta)
    return Threshold(
        beta * np.square(eta * scaled),
        np.square(theta / (eta * scaled)),
        theta / (np.sqrt(beta) * scaled),
    )


def shared(theta: Float, numbers: Numbers, sigma: float) -> Threshold:
    """One learned sigma for all units (section 1c): it responds to beta and eta_dec."""
    beta, eta = numbers.betas[0], numbers.etas[0]
    product = np.array([t * np.maximum(theta, t).sum() for t in theta]) / len(theta)
    now = fixed(theta, numbers, sigma).variance
    return Threshold(now, product / np.square(eta), np.sqrt(product / beta))


def learned_eta_beta(theta: Float, rest: Float, dim: int) -> Float:
    """Critical beta with sigma and eta_dec learned (section 1d)."""
    rank = np.arange(1, len(theta) + 1)
    scale = rest[1:] + rank * theta**2
    return np.divide(theta**2 * dim, scale, out=np.zeros_like(theta), where=scale > 0)


def learned_eta_fixed_beta(theta: Float, sigma: Float, rest: Float, dim: int) -> Float:
    """Critical beta with eta_dec learned and sigma (ascending, in units of eta_enc) fixed."""
    slope = np.cumsum(theta * sigma) - theta * sigma
    with np.errstate(divide="ignore"):
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


def all_learned(theta: Float, dims: Sequence[int], numbers: Numbers) -> list[Threshold]:
    """Every level's sigma learned (3c, 4): only level 1 hears the data."""
    levels = [learned(fit(theta, dims[0]), numbers)]
    for level in range(1, len(dims)):
        lower, upper = (float(b) for b in numbers.betas[level - 1 : level + 1])
        flat, ones = lower == upper, np.ones(dims[level])
        levels.append(
            Threshold(
                ones * (np.nan if flat else np.inf), ones * lower, ones * (np.nan if flat else 0.0)
            )
        )
    return levels


def first_learned(
    theta: Float, dims: Sequence[int], numbers: Numbers, sigma_2: Std
) -> list[Threshold]:
    """Sigma_1 learned, Sigma_2 fixed (3c): all modes of z2 live or die at once."""
    assert sigma_2 is not None
    first = learned(fit(theta, dims[0]), numbers)
    critical = numbers.betas[0] * np.square(numbers.eta_enc / np.asarray(sigma_2))
    critical = np.where(np.arange(dims[1]) < dims[0], critical * np.ones(dims[1]), 0.0)
    on = numbers.betas[1] < critical
    variance = np.where(on, float(first.variance[0]), np.inf)
    return [first, Threshold(variance, critical, np.where(on, np.inf, 0.0))]


def two_fixed(
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
        both = (beta_2 * np.square(eta)) ** 2 / (beta_1 * one_2**2)
    else:
        two = np.asarray(sigma_2) / eta_enc * np.ones(dims[1])
        above = np.where(parent, fit(two, dims[0]), 1.0)
        helped = first**4 / (beta_2 * np.square(eta * one * above))
        helped_eta = first**2 / (np.sqrt(beta_1 * beta_2) * one * above)
        helped_variance = np.sqrt(beta_1 * beta_2) * eta * one * above
        second_beta = second / np.square(eta * two)
        second_eta = np.sqrt(second / beta_2) / two
        both = (beta_2 * np.square(eta * two)) ** 2 / (beta_1 * one_2**2)
    level_1 = Threshold(
        np.where(parent, np.minimum(beta_1 * one**2, helped_variance), beta_1 * one**2),
        np.where(parent, np.maximum(alone, helped), alone),
        np.where(first > np.sqrt(beta_1) * one, np.inf, np.where(parent, helped_eta, 0.0)),
    )
    reach = np.where(child, np.maximum(fit(level_1.variance, dims[1]), both), np.inf)
    return [level_1, Threshold(reach, second_beta, second_eta)]


def by_bisection(
    theta: Float,
    dims: Sequence[int],
    numbers: Numbers,
    solve: Callable[[Float, Numbers], State],
) -> list[Threshold]:
    """Thresholds of any chain, by bisecting each unit's own switch on a logarithmic scale.

    All units are bisected at once, each with a value of its own. The critical eta_dec of level l
    is that of the decoder this level feeds, `eta_decs[l-1]`.
    """
    width = max(dims)

    def with_beta(level: int, value: Float) -> State:
        betas = [value if k == level else b for k, b in enumerate(numbers.betas)]
        return solve(theta, Numbers(betas, numbers.etas, numbers.eta_enc))

    def with_eta(level: int, value: Float) -> State:
        etas = [value if k == level else e for k, e in enumerate(numbers.etas)]
        return solve(theta, Numbers(numbers.betas, etas, numbers.eta_enc))

    def of_level(level: int) -> Threshold:
        units = dims[level]

        def switch(past: Callable[[Float], Bool]) -> Float:
            # Where a trial value overflows, its infinity is beyond every threshold.
            with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                return _switch(width, past)[:units]

        def dead(state: State) -> Bool:
            return fit(state.correlation[level], width) <= 0

        return Threshold(
            np.square(switch(lambda v: fit(1 - solve(v, numbers).lost[level], width) > 0)),
            switch(lambda v: dead(with_beta(level, v))),
            switch(lambda v: dead(with_eta(level, v))),
        )

    return [of_level(level) for level in range(len(dims))]


def _switch(width: int, past: Callable[[Float], Bool]) -> Float:
    """Value at which `past` turns true for each mode: 0 if it always is, infinity if never."""
    low, high = np.full(width, np.log(checks.LEAST)), np.full(width, np.log(checks.MOST))
    always, ever = past(np.exp(low)), past(np.exp(high))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        turned = past(np.exp(middle))
        low, high = np.where(turned, low, middle), np.where(turned, middle, high)
    return np.where(always, 0.0, np.where(ever, np.exp(high), np.inf))
