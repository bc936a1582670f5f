"""Closed forms of one level, and of Markov hierarchies of any depth (theory sections 1 to 4).

One level: VAE and, on residuals, conditional VAE. Level two of a hierarchy is the same problem with
z1 as data, noise eta_dec and beta = beta_2 / beta_1 (section 3), so these functions serve there
too.

Hierarchies: the optimum as a `State`. Arrays broadcast over leading axes (grids of betas or etas);
the last axis runs over modes.

Thresholds: one `Threshold` per level, arrays over modes: the variance a mode must exceed for its
unit to be active, and the beta of the level and the eta_dec above which its unit collapses
(infinity: never; 0: always; NaN: undetermined).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from posterior_collapse import checks
from posterior_collapse.arrays import Float
from posterior_collapse.errors import UnboundedObjectiveError
from posterior_collapse.theory.state import Bool, Numbers, State, at_least_one, fit

Number = Float | float
Std = Float | None
"""Posterior std of a level, ascending if per unit; None if learned per unit."""
HALVINGS = 60
"""Of the range that a critical value is looked for in; they leave 1e-16 of it."""


def learned(signal: Float, threshold: Number, eta_enc: float) -> tuple[Float, Float]:
    """E[z^2] and sigma^2 per unit with sigma learned (section 1a).

    Args:
        signal: Variance of each unit's mode.
        threshold: beta eta_dec^2, the variance a mode must exceed.
        eta_enc: Prior std.
    """
    noise = eta_enc**2 / at_least_one(signal / threshold)
    return np.full_like(noise, eta_enc**2), noise


def fixed(theta: Float, kappa: Number, sigma: Number) -> tuple[Float, Float]:
    """E[z^2] and sigma^2 per unit with sigma fixed, ascending (section 1b).

    Args:
        theta: Std of each unit's mode, descending.
        kappa: sqrt(beta) (eta_dec / eta_enc) sigma, the std a mode must exceed.
        sigma: Posterior std.
    """
    gain = at_least_one(theta / kappa)
    noise = np.square(sigma) * np.ones_like(gain)
    return noise * gain, noise


def shared_sigma(theta: Float, beta: float, eta_dec: float, eta_enc: float) -> float:
    """The one learned sigma of all units (section 1c): x sum max(theta/eta_dec, x) = beta d."""
    ratio, units = theta / eta_dec, len(theta)
    strong = np.concatenate([[0.0], np.cumsum(ratio)])
    for k in range(units, -1, -1):
        weak = units - k
        # weak x^2 + strong x - beta d = 0, in the form that does not cancel
        x = 2 * beta * units / (strong[k] + math.sqrt(strong[k] ** 2 + 4 * weak * beta * units))
        if k == 0 or ratio[k - 1] > x:
            break
    return float(x * eta_enc / math.sqrt(beta))


def learned_eta(theta: Float, rest: Float, beta: float, dim: int) -> tuple[float, list[str]]:
    """Decoder std that minimises the loss, with sigma learned (section 1d), and notes.

    Args:
        theta: Std of the modes that have a unit, descending.
        rest: Variance of the target not in the first k modes, k = 0 .. len(theta).
        beta: Weight of the KL.
        dim: Number of features of the target.

    Raises:
        UnboundedObjectiveError: The units explain everything: the loss falls for ever.
    """
    variance = theta**2
    rank = int(np.count_nonzero(variance))
    if rest[rank] == 0 and beta * rank < dim:
        raise _everything_explained(rank)
    if rest[rank] == 0 and beta * rank == dim:
        return math.sqrt(variance[rank - 1] / beta), [
            "beta x rank = features: the loss is the same for every eta_dec below the one shown, "
            "where all units are active with a larger KL: counts and KL are not determined"
        ]
    for k in range(min(rank, math.ceil(dim / beta) - 1), -1, -1):
        v = rest[k] / (dim - beta * k)
        if k == 0 or variance[k - 1] > beta * v:
            break
    return math.sqrt(v), []


def learned_eta_fixed_sigma(theta: Float, ratio: Float, rest: Float, dim: int) -> float:
    """Decoder std that minimises the loss, with sigma fixed (section 1d).

    Args:
        theta: Std of the modes that have a unit, descending.
        ratio: sqrt(beta) sigma / eta_enc per unit, ascending.
        rest: Variance of the target not in the first k modes, k = 0 .. len(theta).
        dim: Number of features of the target.

    Raises:
        UnboundedObjectiveError: There is no variance to explain.
    """
    if rest[0] == 0:
        raise _everything_explained(0)
    slope = np.concatenate([[0.0], np.cumsum(theta * ratio)])
    for k in range(len(theta), -1, -1):
        # rest t^2 + slope t - dim = 0 for t = 1 / eta_dec
        t = 2.0 * dim / (slope[k] + math.sqrt(slope[k] ** 2 + 4 * rest[k] * dim))
        if k == 0 or theta[k - 1] * t > ratio[k - 1]:
            break
    return float(1 / t)


def learned_eta_shared_sigma(theta: Float, rest: Float, beta: float, dim: int) -> float:
    """Decoder std that minimises the loss, with one shared learned sigma.

    In (log sigma, log eta_dec) the loss is convex: each mode costs 2 theta t x if active and
    (theta t)^2 + x^2 if not, with t = 1/eta_dec and x = sqrt(beta) sigma/eta_enc. Stationarity in
    both gives a quadratic for r = x eta_dec, and mode i is active iff theta_i > r.

    Raises:
        UnboundedObjectiveError: The units explain everything and beta latent_dim < features.
    """
    units = len(theta)
    strong = np.concatenate([[0.0], np.cumsum(theta)])
    for k in range(units, -1, -1):
        a, b = dim * (units - k), (dim - beta * units) * strong[k]
        c = beta * units * rest[k]
        r = _positive_root(a, b, c)
        if r > 0 and (k == 0 or theta[k - 1] > r) and (k == units or theta[k] <= r):
            return math.sqrt((r * strong[k] + rest[k]) / dim)
    raise _everything_explained(int(np.count_nonzero(theta)))


def _positive_root(a: float, b: float, c: float) -> float:
    """Positive root of a r^2 + b r - c = 0 for a, c >= 0, or 0 when there is none."""
    root = math.sqrt(b * b + 4 * a * c)
    if b >= 0:
        return 2 * c / (b + root) if b + root > 0 else 0.0
    return (root - b) / (2 * a) if a > 0 else 0.0


def _everything_explained(rank: int) -> UnboundedObjectiveError:
    what = "units that explain all variance" if rank else "no variance left to explain"
    fewer = f"fewer than {rank} units (the data's rank), or " if rank > 1 else ""
    return UnboundedObjectiveError(
        "eta_dec",
        f"'learned' with {what}, so that the loss falls without end",
        f"{fewer}a fixed eta_dec",
        "Pass `eta_dec` as a number."
        if rank < 2
        else "Pass `eta_dec` as a number, or use fewer units.",
    )


def all_learned(theta: Float, dims: Sequence[int], numbers: Numbers) -> State:
    """Optimum with every sigma learned: one VAE with beta_1, and collapse above (3c, 4).

    Levels whose beta equals that of the level below are a flat direction; the member with the
    level collapsed is returned.

    Raises:
        UnboundedObjectiveError: A beta smaller than that of the level below.
    """
    for level in range(1, len(dims)):
        lower, upper = numbers.betas[level - 1], numbers.betas[level]
        if np.any(np.asarray(upper) < np.asarray(lower)):
            raise UnboundedObjectiveError(
                f"beta_{level + 1}",
                f"{upper}, below beta_{level} = {lower}, with all sigmas learned: the loss "
                "falls without end as z's variance grows",
                "betas that do not fall from level to level, or a fixed sigma",
                f"Raise beta_{level + 1} to {lower} or fix a sigma.",
            )
    threshold = numbers.betas[0] * np.square(numbers.etas[0])
    signal = fit(theta, dims[0]) ** 2
    second, noise = [], []
    for level, prior in enumerate(numbers.priors):
        unit = learned(signal if level == 0 else np.zeros(dims[level]), threshold, 1.0)
        second.append(unit[0] * np.square(prior))
        noise.append(unit[1] * np.square(prior))
    return State(theta, second, noise)


def first_learned(theta: Float, dims: Sequence[int], numbers: Numbers, sigma_2: Std) -> State:
    """Optimum of two levels with Sigma_1 learned and Sigma_2 fixed (section 3c)."""
    assert sigma_2 is not None
    variance = np.square(numbers.etas[1])
    ratio = np.sqrt(numbers.betas[1] / np.asarray(numbers.betas[0]))
    kappa = ratio * (numbers.etas[1] / numbers.eta_enc) * sigma_2
    gain = at_least_one(variance / np.square(kappa))
    gain = fit(gain * np.ones(dims[1]), dims[0])
    second = variance * np.where(gain > 0, gain, 1.0)
    threshold = numbers.betas[0] * np.square(numbers.etas[0])
    noise = second / at_least_one(fit(theta, dims[0]) ** 2 / threshold)
    above = fixed(fit(np.sqrt(second), dims[1]), kappa, sigma_2)
    return State(theta, [second, above[0]], [noise, above[1]])


def all_fixed(theta: Float, dims: Sequence[int], numbers: Numbers, sigmas: Sequence[Std]) -> State:
    """Optimum of L levels with every sigma but perhaps the last fixed (section 4).

    With s_l = E[z_l^2] and s_0 the data's variance, a mode costs a sum of terms: what level l does
    not pass on of s_{l-1}, weight_l s_{l-1} noise_l / (s_l eta_l^2), and at the end of the chain
    the last s itself. In logarithms each term is a difference of neighbours, so this is a string
    of given ends pulled taut over obstacles (s_l >= noise_l): `_taut` has its place at once.
    """
    top = sigmas[-1]
    noise = [np.square(s) for s in sigmas if s is not None]
    width, free = max(dims), len(noise)
    unit, numbers = np.arange(width), numbers.cut(width)
    present = [fit(theta, width) > 0, *(unit < d for d in dims[:free])]
    level = [fit(theta, width) ** 2, *(fit(n, width) for n in noise)]
    # What each term is, in logarithms, while every level holds its own noise and nothing else.
    terms = [
        np.log(weight) + np.log(np.where(here, value, 1.0)) - 2 * np.log(eta)
        for weight, here, value, eta in zip(
            [1.0, *numbers.betas], present, level, [*numbers.etas, numbers.eta_enc], strict=False
        )
    ]
    # A learned top level hears what is above its noise at a price that grows no faster than this.
    listens = unit < (dims[-1] if top is None else 0)
    most = np.where(listens, np.log(numbers.betas[-1]), np.inf)
    gains = _taut(terms, present, most)
    second = [
        n * at_least_one(np.exp(gain))[..., :d]
        for n, gain, d in zip(noise, gains, dims, strict=False)
    ]
    if top is None:
        last = numbers.cut(dims[-1])
        threshold = last.betas[-1] / np.asarray(last.betas[-2]) * np.square(last.etas[-1])
        unit_state = learned(fit(second[-1], dims[-1]), threshold, numbers.eta_enc)
        second.append(unit_state[0])
        noise.append(unit_state[1])
    return State(theta, second, [n * np.ones_like(s) for s, n in zip(second, noise, strict=True)])


def _taut(terms: Sequence[Float], present: Sequence[Bool], most: Float) -> list[Float]:
    """Return by how much, in logarithms, each level's E[z^2] exceeds its noise at the optimum.

    Points l = 0, 1, ... lie at heights that fall by `terms[l]` from l to l + 1. A sum of convex
    functions of the falls is least where the string lies on the least concave curve above all
    points: it touches a point, or runs straight between the two that hold it up.

    Args:
        terms: Fall after each point if the string touched all of them.
        present: Whether the mode has a unit at each point; the string is cut after one without.
        most: Steepest fall of the string at its end; infinity: none is too steep.
    """
    end = len(terms)
    gains = [np.zeros(np.broadcast_shapes(*map(np.shape, terms)))] * end
    for first in range(end - 1):
        lines, fall, linked = [], np.zeros(()), np.ones((), bool)
        for stop in range(first + 1, end + 1):
            fall, linked = fall + terms[stop - 1], linked & present[stop - 1]
            lines.append((stop, -fall / (stop - first), linked))
        # Rise per level of the steepest straight line from here to a point beyond `stop`.
        steepest = np.where(linked, np.maximum(lines.pop()[1], -most), -np.inf)
        for stop, slope, reached in reversed(lines):
            gains[stop] = np.maximum(gains[stop], (stop - first) * (steepest - slope))
            steepest = np.maximum(steepest, np.where(reached, slope, -np.inf))
    return gains[1:]


class Threshold(NamedTuple):
    """Per unit of one level: variance to exceed, critical beta, critical eta_dec."""

    variance: Float
    beta: Float
    eta_dec: Float


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
        levels.append(
            Threshold(
                ones * (np.nan if flat else np.inf), ones * lower, ones * (np.nan if flat else 0.0)
            )
        )
    return levels


def first_learned_thresholds(
    theta: Float, dims: Sequence[int], numbers: Numbers, sigma_2: Std
) -> list[Threshold]:
    """Sigma_1 learned, Sigma_2 fixed (3c): all modes of z2 live or die at once."""
    assert sigma_2 is not None
    first = learned_threshold(fit(theta, dims[0]), numbers)
    critical = numbers.betas[0] * np.square(numbers.eta_enc / np.asarray(sigma_2))
    critical = np.where(np.arange(dims[1]) < dims[0], critical * np.ones(dims[1]), 0.0)
    on = numbers.betas[1] < critical
    variance = np.where(on, float(first.variance[0]), np.inf)
    return [first, Threshold(variance, critical, np.where(on, np.inf, 0.0))]


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


def bisected_thresholds(
    theta: Float,
    dims: Sequence[int],
    numbers: Numbers,
    solve: Callable[[Float, Numbers], State],
) -> list[Threshold]:
    """Thresholds of any chain, by bisecting each unit's own switch on a logarithmic scale.

    All units of all levels are bisected at once, by a grid of problems: of each level one in which
    the data's variances vary, one in which its beta does, and one in which the std of the decoder
    that it feeds does, `eta_decs[l-1]`.
    """
    depth, width = len(dims), max(dims)
    shape = depth, 3, width

    def past(values: Float) -> Bool:
        thetas = np.broadcast_to(fit(theta, width), shape).copy()
        betas = [np.full(shape, beta) for beta in numbers.betas]
        etas = [np.full(shape, eta) for eta in numbers.etas]
        for level in range(depth):
            thetas[level, 0], betas[level][level, 1], etas[level][level, 2] = values[level]
        state = solve(thetas, Numbers(betas, etas, numbers.eta_enc))
        found = np.zeros(shape, bool)
        for level, (lost, heard) in enumerate(zip(state.lost, state.correlation, strict=True)):
            found[level, 0] = fit(1 - lost[level, 0], width) > 0
            found[level, 1:] = fit(heard[level, 1:], width) <= 0
        return found

    # Where a trial value overflows, its infinity is beyond every threshold.
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        switches = _switches(shape, past)
    found = [switch[:, :units] for switch, units in zip(switches, dims, strict=True)]
    return [Threshold(np.square(std), beta, eta_dec) for std, beta, eta_dec in found]


def _switches(shape: tuple[int, ...], past: Callable[[Float], Bool]) -> Float:
    """Values at which `past` turns true: 0 where it always is, infinity where never."""
    low, high = np.full(shape, np.log(checks.LEAST)), np.full(shape, np.log(checks.MOST))
    always, ever = past(np.exp(low)), past(np.exp(high))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        turned = past(np.exp(middle))
        low, high = np.where(turned, low, middle), np.where(turned, middle, high)
    return np.where(always, 0.0, np.where(ever, np.exp(high), np.inf))
