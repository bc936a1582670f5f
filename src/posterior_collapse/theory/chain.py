"""Markov hierarchies of any depth (theory sections 3 and 4): the optimum as a `State`.

Arrays broadcast over leading axes (grids of betas or etas); the last axis runs over modes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from posterior_collapse.arrays import Float
from posterior_collapse.errors import UnboundedObjectiveError
from posterior_collapse.theory import single
from posterior_collapse.theory.state import Numbers, State, at_least_one, fit

Bool = npt.NDArray[np.bool_]
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
    one, two = numbers.cut(dims[0]), numbers.cut(dims[1])
    noise = np.square(sigma_1) * np.ones(dims[0])
    reach = fit(theta, dims[0]) * np.sqrt(noise)
    alone = reach / np.sqrt(one.betas[0]) * (one.etas[1] / np.asarray(one.etas[0]))
    if sigma_2 is None:
        helped = reach**2 / (one.betas[1] * np.square(one.etas[0]))
    else:
        kappa = fit(_kappa(two, sigma_2) * np.ones(dims[1]), dims[0])
        helped = (alone**2 / np.where(kappa > 0, kappa, 1.0)) ** (2 / 3)
    has_parent = np.arange(dims[0]) < dims[1]
    second = np.maximum(alone, np.where(has_parent, helped, 0.0))
    second = noise * at_least_one(second / noise)
    heard = fit(second, dims[1])
    if sigma_2 is None:
        threshold = two.betas[1] / np.asarray(two.betas[0]) * np.square(two.etas[1])
        above = single.learned(heard, threshold, numbers.eta_enc)
    else:
        above = single.fixed(np.sqrt(heard), _kappa(two, sigma_2), sigma_2)
    return State(theta, [second, above[0]], [noise * np.ones_like(second), above[1]])


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
        unit_state = single.learned(fit(second[-1], dims[-1]), threshold, numbers.eta_enc)
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
    points = len(terms)
    gains = [np.zeros(np.broadcast_shapes(*map(np.shape, terms)))] * (points + 1)
    linked = [np.logical_and.reduce(present[first:]) for first in range(points)]
    for first in range(points):
        # Rise per level of the steepest straight line from here to a point beyond `stop`.
        steepest = np.where(linked[first], -most, -np.inf)
        for stop in range(points, first, -1):
            reached = np.logical_and.reduce(present[first:stop])
            slope = -sum(terms[first:stop]) / (stop - first)
            lifted = (stop - first) * (steepest - slope)
            gains[stop] = np.maximum(gains[stop], np.where(reached, lifted, 0.0))
            steepest = np.maximum(steepest, np.where(reached, slope, -np.inf))
    return gains[1:]


def _kappa(numbers: Numbers, sigma_2: Std) -> Float:
    assert sigma_2 is not None
    ratio = np.sqrt(numbers.betas[1] / np.asarray(numbers.betas[0]))
    return np.asarray(ratio * (numbers.etas[1] / numbers.eta_enc) * np.asarray(sigma_2))
