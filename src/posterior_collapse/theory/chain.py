"""Markov hierarchies of any depth (theory sections 3 and 4): the optimum as a `State`.

Arrays broadcast over leading axes (grids of betas or etas); the last axis runs over modes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from posterior_collapse.errors import UnboundedObjectiveError
from posterior_collapse.moments.arrays import Float
from posterior_collapse.theory import single
from posterior_collapse.theory.state import Numbers, State, at_least_one, fit

MAX_POLICIES = 1000
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
    """Optimum of L levels with every sigma but perhaps the last fixed (section 4).

    Each mode is a geometric programme in (E[z_1^2], ..., E[z_L^2]). In logarithms its stationary
    point is x_l = max(floor_l, affine functions of the neighbours with weights >= 0), which
    policy iteration solves exactly in a few steps.
    """
    top = sigmas[-1]
    noise = [np.square(s) for s in sigmas if s is not None]
    width, free = max(dims), len(noise)
    rules = [_rule(level, theta, dims, numbers, noise, width) for level in range(free)]
    floors = [rule.floor for rule in rules]
    shape = np.broadcast_shapes(*(np.shape(a) for r in rules for a in (r.balance, r.relay)))
    x = np.stack([np.broadcast_to(f, shape) for f in floors], axis=-1)
    chosen = np.zeros_like(x, dtype=int)
    for _ in range(MAX_POLICIES):
        options = np.stack([rule.options(level, x) for level, rule in enumerate(rules)], axis=-1)
        best = options.argmax(axis=0)
        if np.array_equal(best, chosen):
            break
        chosen = best
        x = _follow(chosen, rules, shape)
    second = [np.exp(x[..., level])[..., : dims[level]] for level in range(free)]
    second = [n * at_least_one(s / n) for s, n in zip(second, noise, strict=True)]
    if top is None:
        below = numbers.betas[-2] if free else 1.0
        heard = fit(second[-1], dims[-1]) if free else fit(theta, dims[0]) ** 2
        ratio = numbers.betas[-1] / np.asarray(below)
        unit = single.learned(heard, ratio * np.square(numbers.etas[-1]), numbers.eta_enc)
        second.append(unit[0])
        noise.append(unit[1])
    return State(theta, second, [n * np.ones_like(s) for s, n in zip(second, noise, strict=True)])


@dataclass(frozen=True, eq=False)
class _Rule:
    """How log E[z_l^2] depends on its neighbours': the largest of three options.

    `floor`: the injected noise alone. `balance`: half the sum of a constant, x_{l-1} if `below`
    and x_{l+1} if `above`. `relay`: a constant plus x_{l-1}, when the level above is learned and
    listens. Minus infinity bars an option.
    """

    floor: Float
    balance: Float
    relay: Float
    below: Bool
    above: Bool

    def options(self, level: int, x: Float) -> Float:
        lower = np.where(self.below, x[..., level - 1], 0.0)
        upper = np.where(self.above, x[..., min(level + 1, x.shape[-1] - 1)], 0.0)
        shape = x.shape[:-1]
        rows = (self.floor, (self.balance + lower + upper) / 2, self.relay + lower)
        return np.stack([np.broadcast_to(row, shape) for row in rows])


def _rule(
    level: int,
    theta: Float,
    dims: Sequence[int],
    numbers: Numbers,
    noise: list[Float],
    width: int,
) -> _Rule:
    unit = np.arange(width)
    signal = fit(theta, width) if level == 0 else np.ones(width)
    heard = (unit < min(dims[max(level - 1, 0) : level + 1])) & (signal > 0)
    parent = unit < (dims[level + 1] if level + 1 < len(dims) else 0)
    floor = np.log(fit(noise[level], width) + (unit >= dims[level]))
    weight = 1.0 if level == 0 else numbers.betas[level - 1]
    pull = np.log(weight / np.square(numbers.etas[level])) + floor
    pull = pull + 2 * np.log(np.where(signal > 0, signal, 1.0))
    balance = pull - np.log(numbers.betas[level] / np.square(numbers.priors[level]))
    relay = np.full_like(balance, -np.inf)
    above = parent & (level + 1 < len(noise))
    if level + 1 < len(noise):
        balance = balance - np.where(above, np.log(fit(noise[level + 1], width) + ~above), 0.0)
    elif level + 1 < len(dims):
        relay = np.where(parent & heard, pull - np.log(numbers.betas[level + 1]), -np.inf)
    return _Rule(
        floor, np.where(heard, balance, -np.inf), relay, heard & (level > 0), above & heard
    )


def _follow(chosen: npt.NDArray[np.int_], rules: list[_Rule], shape: tuple[int, ...]) -> Float:
    """Solve for all x with one option chosen per level and mode: a small linear system each."""
    free = len(rules)
    matrix = np.zeros((*shape, free, free))
    right = np.zeros((*shape, free))
    for level, rule in enumerate(rules):
        option = chosen[..., level]
        rows = (rule.floor, rule.balance / 2, rule.relay)
        right[..., level] = np.choose(option, [np.broadcast_to(row, shape) for row in rows])
        matrix[..., level, level] = 1.0
        if level:
            share = np.choose(option, [0.0, 0.5, 1.0])
            matrix[..., level, level - 1] = np.where(rule.below, -share, 0.0)
        if level + 1 < free:
            matrix[..., level, level + 1] = np.where(rule.above & (option == 1), -0.5, 0.0)
    return np.asarray(np.linalg.solve(matrix, right[..., None])[..., 0], dtype=np.float64)


def _kappa(numbers: Numbers, sigma_2: Std) -> Float:
    assert sigma_2 is not None
    ratio = np.sqrt(numbers.betas[1] / np.asarray(numbers.betas[0]))
    return np.asarray(ratio * (numbers.etas[1] / numbers.eta_enc) * np.asarray(sigma_2))
