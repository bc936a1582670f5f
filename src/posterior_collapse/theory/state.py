"""What is known of every mode at the optimum, from two numbers per level: s and sigma^2.

At every solved optimum the levels align with the data modes, so each mode is a scalar Markov
chain: `second[l]` is E[z_l^2] of its unit at level l, `noise[l]` the posterior variance injected
there. The squared correlation t_l = 1 - noise/second then gives weights, KL, information and the
loss (theory sections 0, 3 and 6). All functions broadcast: the last axis runs over modes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from posterior_collapse.moments.arrays import Float

THRESHOLD_ROUNDING = 1e-12
"""A signal this close (relative) to its threshold counts as at it, hence collapsed."""


def at_least_one(ratio: Float) -> Float:
    """Return max(1, ratio), with 1 for anything within rounding of it."""
    return np.where(ratio > 1 + THRESHOLD_ROUNDING, ratio, 1.0)


def fit(values: Float, width: int) -> Float:
    """Cut or extend by zeros the last axis to `width`."""
    missing = width - values.shape[-1]
    if missing <= 0:
        return values[..., :width]
    return np.concatenate([values, np.zeros((*values.shape[:-1], missing))], axis=-1)


@dataclass(frozen=True, eq=False)
class Numbers:
    """Weights and standard deviations of the objective, per level, bottom first.

    Attributes:
        betas: Beta per level.
        etas: Std of p(y|z1), then of p(z_l|z_{l+1}).
        eta_enc: Prior std of the last level.
    """

    betas: Sequence[Float | float]
    etas: Sequence[Float | float]
    eta_enc: float

    @property
    def priors(self) -> list[Float | float]:
        """Std of the prior that each level is compared with."""
        return [*self.etas[1:], self.eta_enc]


@dataclass(frozen=True, eq=False)
class State:
    """An aligned optimum: per level, E[z^2] and posterior variance of each mode's unit."""

    theta: Float
    second: list[Float]
    noise: list[Float]

    @property
    def correlation(self) -> list[Float]:
        """Squared correlation of each unit with its input; 0 exactly when it is collapsed."""
        t = [1 - noise / second for noise, second in zip(self.noise, self.second, strict=True)]
        for level in range(1, len(t)):
            t[level][..., t[level - 1].shape[-1] :] = 0
        return t

    @property
    def encoder(self) -> list[Float]:
        """Singular values of W_l S_{l-1}^{1/2}."""
        return [np.sqrt(s * t) for s, t in zip(self.second, self.correlation, strict=True)]

    @property
    def decoder(self) -> list[Float]:
        """Singular values of U_l."""
        below = [fit(self.theta, self.second[0].shape[-1]) ** 2, *self.second[:-1]]
        return [
            np.sqrt(t * fit(b, s.shape[-1]) / s)
            for b, s, t in zip(below, self.second, self.correlation, strict=True)
        ]

    @property
    def shared(self) -> list[Float]:
        """Squared correlation of each unit with the data, through all levels below it."""
        product = [self.correlation[0]]
        for t in self.correlation[1:]:
            product.append(t * fit(product[-1], t.shape[-1]))
        return product

    @property
    def information(self) -> list[Float]:
        """I(x; z_i) in nats (theory section 6)."""
        return [-np.log1p(-g) / 2 for g in self.shared]

    def kl(self, numbers: Numbers) -> list[Float]:
        """E_q[log q(z_l|.) - log p(z_l|z_{l+1})] per unit, in nats (may be negative)."""
        t = self.correlation
        kls = []
        for level, (s, noise) in enumerate(zip(self.second, self.noise, strict=True)):
            variance = np.square(numbers.priors[level])
            parent = fit(t[level + 1], s.shape[-1]) if level + 1 < len(t) else 0.0
            kls.append((s * (1 - parent) / variance - np.log(noise / variance) - 1) / 2)
        return kls

    def loss(self, numbers: Numbers, total: float, target_dim: int) -> float:
        """Negative beta-ELBO per sample in nats, every constant kept (scalar `numbers` only)."""
        variance = float(numbers.etas[0]) ** 2
        theta = fit(self.theta, self.second[0].shape[-1])
        error = total - float(np.sum(theta**2 * self.correlation[0]))
        kl = sum(
            float(b) * float(np.sum(k))
            for b, k in zip(numbers.betas, self.kl(numbers), strict=True)
        )
        return (error / variance + target_dim * math.log(2 * math.pi * variance)) / 2 + kl
