"""Markov hierarchies of any depth (theory sections 3 and 4): the optimum as a `State`.

Arrays broadcast over leading axes (grids of betas or etas); the last axis runs over modes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from posterior_collapse.errors import UnboundedObjectiveError
from posterior_collapse.moments.arrays import Float
from posterior_collapse.theory import single
from posterior_collapse.theory.state import Numbers, State, at_least_one, fit

MAX_SWEEPS = 20_000
Std = Float | None
"""Posterior std of a level, ascending if per unit; None if learned per unit."""


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
                f"betas[{level}]",
                f"{upper}, below betas[{level - 1}] = {lower}, with all sigmas learned: the loss "
                "falls without end as z's variance grows",
                "betas that do not fall from level to level, or a fixed sigma",
                f"Raise betas[{level}] to {lower} or fix a sigma.",
            )
    threshold = numbers.betas[0] * np.square(numbers.etas[0])
    signal = fit(theta, dims[0]) ** 2
    second, noise = [], []
    for level, prior in enumerate(numbers.priors):
        heard = signal if level == 0 else np.zeros(dims[level])
        unit = single.learned(heard, threshold, 1.0)
        scale = np.square(prior)
        second.append(unit[0] * scale)
        noise.append(unit[1] * scale)
    return State(theta, second, noise)


def first_learned(theta: Float, dims: Sequence[int], numbers: Numbers, sigma_2: Std) -> State:
    """Optimum of two levels with Sigma_1 learned and Sigma_2 fixed (section 3c)."""
    assert sigma_2 is not None
    variance = np.square(numbers.etas[1])
    kappa = _kappa(numbers, sigma_2)
    gain = at_least_one(variance / np.square(kappa))
    gain = fit(gain * np.ones(dims[1]), dims[0])
    second = variance * np.where(gain > 0, gain, 1.0)
    threshold = numbers.betas[0] * np.square(numbers.etas[0])
    noise = second / at_least_one(fit(theta, dims[0]) ** 2 / threshold)
    above = single.fixed(fit(np.sqrt(second), dims[1]), kappa, sigma_2)
    return State(theta, [second, above[0]], [noise, above[1]])


def two_fixed(
    theta: Float, dims: Sequence[int], numbers: Numbers, sigma_1: Std, sigma_2: Std
) -> State:
    """Optimum of two levels with Sigma_1 fixed, Sigma_2 fixed or learned (3a, 3b, 3d)."""
    assert sigma_1 is not None
    noise = np.square(sigma_1) * np.ones(dims[0])
    reach = fit(theta, dims[0]) * np.sqrt(noise)
    alone = reach / np.sqrt(numbers.betas[0]) * (numbers.etas[1] / np.asarray(numbers.etas[0]))
    if sigma_2 is None:
        helped = reach**2 / (numbers.betas[1] * np.square(numbers.etas[0]))
    else:
        kappa = fit(_kappa(numbers, sigma_2) * np.ones(dims[1]), dims[0])
        helped = (alone**2 / np.where(kappa > 0, kappa, 1.0)) ** (2 / 3)
    has_parent = np.arange(dims[0]) < dims[1]
    second = np.maximum(alone, np.where(has_parent, helped, 0.0))
    second = noise * at_least_one(second / noise)
    heard = fit(second, dims[1])
    if sigma_2 is None:
        ratio = numbers.betas[1] / np.asarray(numbers.betas[0])
        above = single.learned(heard, ratio * np.square(numbers.etas[1]), numbers.eta_enc)
    else:
        above = single.fixed(np.sqrt(heard), _kappa(numbers, sigma_2), sigma_2)
    return State(theta, [second, above[0]], [noise * np.ones_like(second), above[1]])


def all_fixed(theta: Float, dims: Sequence[int], numbers: Numbers, sigmas: Sequence[Std]) -> State:
    """Optimum of L levels with every sigma but the last fixed (section 4).

    Each mode is a geometric programme in (E[z_1^2], ..., E[z_L^2]), convex in their logarithms.
    Minimising over one level at a time has a closed form, and sweeping the levels converges to
    the one minimum.
    """
    last = len(dims) - 1
    top = sigmas[last]
    noise = [np.square(s) for s in sigmas if s is not None]
    free = last + 1 if top is not None else last
    second = [n.copy() for n in noise]
    for _ in range(MAX_SWEEPS):
        change = 0.0
        for level in range(free):
            new = _best(level, theta, dims, numbers, second, noise)
            change = max(change, float(np.max(np.abs(np.log(new / second[level])))))
            second[level] = new
        if change < 1e-15:
            break
    if top is None:
        heard = fit(second[last - 1], dims[last]) if last else fit(theta, dims[0]) ** 2
        ratio = numbers.betas[last] / np.asarray(numbers.betas[last - 1] if last else 1.0)
        unit = single.learned(heard, ratio * np.square(numbers.etas[last]), numbers.eta_enc)
        second.append(unit[0])
        noise.append(unit[1])
    second = [n * at_least_one(s / n) for s, n in zip(second, noise, strict=True)]
    return State(theta, second, [n * np.ones_like(s) for s, n in zip(second, noise, strict=True)])


def _best(
    level: int,
    theta: Float,
    dims: Sequence[int],
    numbers: Numbers,
    second: list[Float],
    noise: list[Float],
) -> Float:
    """E[z_level^2] that minimises the loss with the other levels held: balance below and above."""
    width = dims[level]
    below = fit(theta, width) ** 2 if level == 0 else fit(second[level - 1], width)
    weight = 1.0 if level == 0 else numbers.betas[level - 1]
    pull = weight * below * noise[level] / np.square(numbers.etas[level])
    push = numbers.betas[level] / np.square(numbers.priors[level]) * np.ones(width)
    parents = np.arange(width) < (dims[level + 1] if level + 1 < len(dims) else 0)
    if level + 1 < len(second):
        relief = fit(noise[level + 1] / second[level + 1], width)
        best = np.sqrt(pull / (push * np.where(parents, relief, 1.0)))
    elif level + 1 < len(dims):
        best = np.maximum(
            np.sqrt(pull / push), np.where(parents, pull / numbers.betas[level + 1], 0.0)
        )
    else:
        best = np.sqrt(pull / push)
    return np.maximum(best, noise[level])


def _kappa(numbers: Numbers, sigma_2: Std) -> Float:
    assert sigma_2 is not None
    ratio = np.sqrt(numbers.betas[1] / np.asarray(numbers.betas[0]))
    return np.asarray(ratio * (numbers.etas[1] / numbers.eta_enc) * np.asarray(sigma_2))
