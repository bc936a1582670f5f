"""Closed forms of one level, and of Markov hierarchies of any depth (theory sections 1 to 4).

One level: VAE and, on residuals, conditional VAE. Level two of a hierarchy is the same problem with
z1 as data, noise eta_dec and beta = beta_2 / beta_1 (section 3), so these functions serve there
too.

Hierarchies: the optimum as a `State`. Arrays broadcast over leading axes (grids of betas or etas);
the last axis runs over modes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from posterior_collapse.arrays import Float
from posterior_collapse.errors import UnboundedObjectiveError
from posterior_collapse.theory.state import Bool, Numbers, State, at_least_one, fit

Number = Float | float
Std = Float | None
"""Posterior std of a level, ascending if per unit; None if learned per unit."""


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
