"""What a mode's variance, beta and eta_dec must pass for its unit to live (theory sections 1-4, 7).

Each function returns one `Threshold` per level, arrays over modes: the variance a mode must exceed
for its unit to be active, and the beta of the level and the eta_dec above which its unit collapses
(infinity: never; 0: always; NaN: undetermined).

The certificate asks the same of a trained model of any architecture. Adding one unit that the
decoder uses linearly is a linear VAE on what the decoder leaves unexplained: it pays exactly when
the strongest unexplained variance passes the unit's threshold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from posterior_collapse import checks
from posterior_collapse.arrays import Float
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.specs import Spec
from posterior_collapse.theory.closed_forms import Std
from posterior_collapse.theory.state import Bool, Numbers, State, fit

__all__ = [
    "AT_OPTIMUM",
    "LEAST_ROWS",
    "ROUNDING",
    "SURE",
    "excess_loss",
    "rows_to_decide",
    "side_of_threshold",
    "unclaimed_signal",
    "unit_gain",
    "variance_error",
]

HALVINGS = 60
"""Of the range that a critical value is looked for in; they leave 1e-16 of it."""


class Threshold(NamedTuple):
    """Per unit of one level: variance to exceed, critical beta, critical eta_dec."""

    variance: Float
    beta: Float
    eta_dec: Float


def learned(theta: Float, numbers: Numbers) -> Threshold:
    """Sigma learned (section 1a): a unit begins at the prior's std."""
    return fixed(theta, numbers, numbers.eta_enc)


def fixed(theta: Float, numbers: Numbers, sigma: Float | float) -> Threshold:
    """Sigma fixed (section 1b)."""
    beta, eta, eta_enc = numbers.betas[0], numbers.etas[0], numbers.eta_enc
    scaled = np.asarray(sigma) / eta_enc * np.ones_like(theta)
    return Threshold(
        beta * np.square(eta * scaled),
        theta**2 / np.square(eta * scaled),
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
        return solve(theta, replace(numbers, betas=betas))

    def with_eta(level: int, value: Float) -> State:
        etas = [value if k == level else e for k, e in enumerate(numbers.etas)]
        return solve(theta, replace(numbers, etas=etas))

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


SURE = 2.0
"""Standard errors that count as certain."""
ROUNDING = 1e-6
"""Relative tolerance: at an exact optimum a signal and its threshold agree up to this, and so do a
loss and its minimum."""
AT_OPTIMUM = 2 * math.sqrt(ROUNDING)
"""By which a signal may exceed its threshold where the loss is at its minimum within `ROUNDING`: a
unit for a signal t = 1 + d gains about d^2 / 4 nats per beta."""
LEAST_ROWS = 10
"""Rows from which standard errors are worth their name, so that a verdict can rest on them."""
UNTRAINED = 0.01
"""Share of all that units can bring, in nats, that a loss may lack and not be worth a word."""
UNSEEN_KURTOSIS, HIDDEN = 6.0, 200.0
"""Excess of kurtosis that few rows may hide, and rows over it that as many hide."""
MOST_MORE = 100.0
"""Times as many rows that nobody is asked for."""

Side = Literal["above", "below", "undecided"]


def side_of_threshold(t: float, error: float) -> Side:
    """Say on which side of 1 a signal is, as far as its error lets one tell.

    Every verdict on a collapse goes by this. A t that equals 1 but for rounding is at an optimum
    that leaves just the threshold, as those of a fixed sigma do: it is not above.

    Args:
        t: A variance left unexplained, over the threshold of one more unit.
        error: Its standard error.

    Example:
        >>> [side_of_threshold(t, 0.05) for t in (0.8, 1.06, 1.2, 1.0)]
        ['below', 'undecided', 'above', 'below']
    """
    if abs(t - 1) <= ROUNDING:
        return "below"
    if t - SURE * error > 1:
        return "above"
    return "below" if t + SURE * error <= 1 else "undecided"


def excess_loss(
    loss: float, error: float, least: float, collapsed: float | None, *, attainable: bool
) -> float:
    """Return by how many nats a loss surely exceeds one that can be had; 0 where it does not.

    Whether training has arrived goes by this alone. What counts is a share of all that units can
    bring, so that the data's own units do not matter, beside what is noise.

    Args:
        loss: Of a trained model, in nats per row, as the other two.
        error: Its standard error.
        least: The forecast's.
        collapsed: That of the best model without latent units; None if that is not known.
        attainable: Whether a linear model reaches `least`. An approximation need not be reached:
            what can be had is then the loss of the best constant, without any unit.

    Example:
        >>> [excess_loss(loss, 0.001, 2.0, 3.0, attainable=True) for loss in (2.01, 2.5)]
        [0.0, 0.5]
        >>> excess_loss(2.5, 0.001, 2.0, 3.0, attainable=False)
        0.0
    """
    possible = 0.0
    if not attainable:
        if collapsed is None:
            return 0.0
        least = collapsed
    elif collapsed is not None:
        possible = max(collapsed - least, 0.0)
    excess = loss - least
    slack = SURE * error + UNTRAINED * possible + ROUNDING * abs(least)
    return excess if excess > slack else 0.0


def rows_to_decide(t: float, error: float, n: int) -> int | None:
    """Return how many rows would tell on which side of 1 t is, if it stays what it is.

    An error shrinks with the root of the number of rows. None: none is known, or more than 100
    times as many.

    Example:
        >>> rows_to_decide(1.06, 0.05, 1000)
        2800
    """
    if not (math.isfinite(t) and math.isfinite(error)) or t == 1:
        return None
    more = (SURE * error / (t - 1)) ** 2
    if not 1 <= more <= MOST_MORE:
        return None
    rows = max(more * n, LEAST_ROWS)
    step = int(10 ** max(0, math.floor(math.log10(rows)) - 1))  # for two digits
    return math.ceil(rows / step) * step


def variance_error(variance: float, error: float, n: int) -> float:
    """Return a variance's standard error such that twice it on either side covers the truth.

    Estimated from the same few rows, an error is small where the variance came out small; that of
    the variance's logarithm is not. So it is made half the way to where the logarithm is two errors
    higher. And few rows do not show their tails: it is at least that of Gaussian rows, and of few
    rows that of heavier tails, up to a kurtosis of 9 (Student's t of 5 degrees of freedom).

    Args:
        variance: As estimated.
        error: Its standard error, as estimated.
        n: Rows that both were estimated from.

    Example:
        >>> [round(variance_error(1.0, math.sqrt(2 / n), n), 3) for n in (10, 100, 10_000)]
        [1.62, 0.247, 0.014]
    """
    spread = 2 + min(UNSEEN_KURTOSIS, HIDDEN / n)
    error = max(error, variance * math.sqrt(spread / max(n - 1, 1)))
    # Beyond, sampling noise makes most of the error, which is no share of the variance.
    relative = error / variance if variance > 2 * error else 0.5
    return error * math.expm1(SURE * relative) / (SURE * relative)


def unclaimed_signal(
    spec: Spec,
    variance: float,
    *,
    level: int = 1,
    eta_dec: float | None = None,
    spare_above: bool = True,
) -> float:
    """Return t: the strongest unexplained variance over the threshold of one more unit.

    With units collapsed, t <= 1 says that collapse is what the objective asks for, and t > 1 that
    signal is left unclaimed: the optimiser failed. With no unit collapsed, t > 1 says that more
    units would pay. For decoders that are not linear this is strong evidence, not a proof. A t
    that was measured has an error, and says neither within two of them of 1.

    Args:
        spec: The hyperparameters.
        variance: Largest eigenvalue of the covariance of the mean residual, in squared units of
            what the level decodes: y - E[mu_y(z)] for level 1 (for a conditional model less what
            x predicts of it), z1 - E[mu_1(z2) | z1] for level 2, and so on. Of a likelihood that
            is not Gaussian, of the mean scores at level 1 in the noise that it tolerates there.
        level: 1 is next to the data.
        eta_dec: Decoder std into the data; needed where `spec` learns it.
        spare_above: Whether the level above has a unit to spare, which can lower the threshold.

    Raises:
        InvalidArgumentError: No such level, a negative variance, or eta_dec missing.

    Source:
        Sections 1a, 1b and 3 of the derivation, applied to the residual.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> unclaimed_signal(VAESpec(8, beta=2.0, eta_dec=0.5), variance=0.4)
        0.8
    """
    if not 1 <= level <= len(spec.dims):
        raise InvalidArgumentError(
            "level", level, f"1 to {len(spec.dims)}", "Level 1 is next to the data."
        )
    if not variance >= 0:
        raise InvalidArgumentError(
            "variance", variance, "a number that is not negative", "Pass an eigenvalue."
        )
    etas = [eta_dec if e == "learned" else float(e) for e in spec.eta_levels]
    if any(eta is None for eta in etas):
        raise InvalidArgumentError(
            "eta_dec", "nothing, for a learned one", "the trained std", "Pass eta_dec."
        )
    known = [float(eta) for eta in etas if eta is not None]
    priors = [*known[1:], spec.eta_enc]
    here, above = level - 1, level
    ratio = spec.beta_levels[here] / (spec.beta_levels[here - 1] if here else 1.0)
    scale = ratio * known[here] ** 2
    sigma = spec.sigma_levels[here]
    if isinstance(sigma, str):
        return variance / scale
    std = float(np.min(sigma))
    threshold = scale * (std / priors[here]) ** 2
    if above < len(spec.dims) and spare_above:
        # a unit that the level above encodes in turn may live on less (section 3)
        ratio = spec.beta_levels[above] / spec.beta_levels[here]
        sigma = spec.sigma_levels[above]
        if isinstance(sigma, str):
            helped = scale * ratio
        else:
            kappa = np.sqrt(ratio) * priors[here] / priors[above] * float(np.min(sigma))
            helped = scale / priors[here] ** 2 * std * kappa
        threshold = min(threshold, helped)
    return float(variance / threshold)


def unit_gain(spec: Spec, t: npt.ArrayLike, *, level: int = 1) -> Float:
    """Return by how many nats per row one more unit lowers the loss, for a signal t.

    What the signal pays less what the unit costs: `beta/2 (t - 1 - log t)` for a learned sigma and
    `beta/2 (sigma/s)^2 (sqrt(t) - 1)^2` for a fixed one, s the std of the unit's prior; 0 up to
    t = 1. Exact for linear models. A network, which may use one unit differently in each part of
    its latent space, gains the sum over parts, each by its share and its own t.

    Args:
        spec: The hyperparameters; of a sigma for each unit the least counts.
        t: As of `unclaimed_signal`, of any shape.
        level: 1 is next to the data.

    Source:
        Sections 1a and 1b of the derivation: the loss at the optimum with the mode and without.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> unit_gain(VAESpec(8, beta=2.0), [0.5, 1.0, np.e]).round(3).tolist()
        [0.0, 0.0, 0.718]
    """
    t = np.maximum(np.asarray(t, dtype=np.float64), 1.0)
    weight, sigma = spec.beta_levels[level - 1], spec.sigma_levels[level - 1]
    if isinstance(sigma, str):
        found: Float = weight / 2 * (t - 1 - np.log(t))
        return found
    etas = spec.eta_levels
    above = etas[level] if level < len(etas) else spec.eta_enc
    # A prior's std that is learned is the posterior's own at the optimum.
    ratio = 1.0 if isinstance(above, str) else float(np.min(sigma)) / above
    found = weight / 2 * ratio**2 * np.square(np.sqrt(t) - 1)
    return found
