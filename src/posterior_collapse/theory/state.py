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
import numpy.typing as npt

from posterior_collapse.arrays import Float
from posterior_collapse.specs import Spec

Bool = npt.NDArray[np.bool_]
THRESHOLD_ROUNDING = 1e-12
"""A signal this close (relative) to its threshold counts as at it, hence collapsed."""
ACTIVE_INFORMATION = 0.005
"""Nats of I(x; z_i) from which a trained unit counts as active; the forecast calls a unit active
from 0 on, where no trained unit is. At the prior's scale, Var(z_i) = 1, it is the usual
Var_x(E[z_i|x]) > 0.01 (Burda et al. 2016), and it means the same at every scale: -1/2 log(1 - 0.01)
= 0.005."""


def at_least_one(ratio: Float) -> Float:
    """Return max(1, ratio), with 1 for anything within rounding of it."""
    return np.where(ratio > 1 + THRESHOLD_ROUNDING, ratio, 1.0)


def fit(values: Float, width: int) -> Float:
    """Cut or extend by zeros the last axis to `width`."""
    missing = width - values.shape[-1]
    if missing <= 0:
        return values[..., :width]
    return np.concatenate([values, np.zeros((*values.shape[:-1], missing))], axis=-1)


def weighted(theta: Float, spec: Spec, times: Sequence[float]) -> int:
    """Return how many units live where each has a KL weight of its own.

    At best the strongest modes have the cheapest units.

    Args:
        theta: Roots of the variances of the data's modes, descending.
        spec: Of one level, its stds learned; beta is the least of the weights.
        times: The weights in multiples of beta; units beyond them are as dear as the dearest.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> weighted(np.array([3.0, 2.0, 1.5]), VAESpec(3), [1, 10, 2])
        2
    """
    units = spec.dims[0]
    each = np.sort([*times, *[max(times)] * (units - len(times))])[:units]
    (beta,), (eta,) = spec.beta_levels, spec.eta_levels
    threshold = beta * each * (1.0 if isinstance(eta, str) else eta) ** 2
    return int(np.count_nonzero(fit(theta, units) ** 2 > threshold * (1 + THRESHOLD_ROUNDING)))


@dataclass(frozen=True, eq=False)
class Numbers:
    """Weights and standard deviations of the objective, per level, bottom first.

    Each is a number, or an array that broadcasts with the modes: a grid with a last axis of 1, or
    one value per mode.

    Attributes:
        etas: Std of p(y|z1), then of p(z_l|z_{l+1}).
    """

    betas: Sequence[Float | float]
    etas: Sequence[Float | float]
    eta_enc: float

    @property
    def priors(self) -> list[Float | float]:
        """Std of the prior that each level is compared with."""
        return [*self.etas[1:], self.eta_enc]

    def cut(self, width: int) -> Numbers:
        """Return the numbers of the first `width` modes, where they differ from mode to mode."""
        betas, etas = (
            [n[..., :width] if np.ndim(n) else n for n in numbers]  # type: ignore[index]
            for numbers in (self.betas, self.etas)
        )
        return Numbers(betas, etas, self.eta_enc)


@dataclass(frozen=True, eq=False)
class State:
    """An aligned optimum: per level, E[z^2] and posterior variance of each mode's unit."""

    theta: Float
    second: list[Float]
    noise: list[Float]

    @property
    def unheard(self) -> list[Float]:
        """Share of each unit's variance that is injected noise; 1 exactly when it is collapsed."""
        shares = [noise / second for noise, second in zip(self.noise, self.second, strict=True)]
        for level in range(1, len(shares)):
            shares[level][..., shares[level - 1].shape[-1] :] = 1
        return shares

    @property
    def correlation(self) -> list[Float]:
        """Squared correlation of each unit with its input; 0 exactly when it is collapsed."""
        return [1 - share for share in self.unheard]

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
    def lost(self) -> list[Float]:
        """Share of each unit's variance that the data do not explain, through all levels below.

        Kept rather than its complement, which has no digits left where little is lost.
        """
        found = self.unheard[:1]
        for share in self.unheard[1:]:
            below = found[-1]
            missing = share.shape[-1] - below.shape[-1]
            if missing > 0:
                ones = np.ones((*below.shape[:-1], missing))
                below = np.concatenate([below, ones], axis=-1)
            found.append(share + (1 - share) * below[..., : share.shape[-1]])
        return found

    @property
    def information(self) -> list[Float]:
        """I(x; z_i) in nats (theory section 6)."""
        return [-np.log(lost) / 2 + 0.0 for lost in self.lost]

    @property
    def informed(self) -> list[Bool]:
        """Whether each unit knows anything of the data."""
        return [lost < 1 for lost in self.lost]

    def kl(self, numbers: Numbers) -> list[Float]:
        """E_q[log q(z_l|.) - log p(z_l|z_{l+1})] per unit, in nats (may be negative)."""
        t = self.correlation
        kls = []
        for level, (s, noise) in enumerate(zip(self.second, self.noise, strict=True)):
            variance = np.square(numbers.priors[level])
            parent = fit(t[level + 1], s.shape[-1]) if level + 1 < len(t) else 0.0
            kls.append((s * (1 - parent) / variance - np.log(noise / variance) - 1) / 2)
        return kls

    def loss(self, numbers: Numbers, outside: float, target_dim: int) -> float:
        """Negative beta-ELBO per sample in nats, every constant kept (scalar `numbers` only).

        Args:
            numbers: Weights and stds.
            outside: Variance of the target in modes that have no unit.
            target_dim: Number of features of the target.
        """
        variance = float(numbers.etas[0]) ** 2
        theta = fit(self.theta, self.second[0].shape[-1])
        error = outside + float(np.sum(theta**2 * self.unheard[0]))
        kl = sum(
            float(b) * float(np.sum(k))
            for b, k in zip(numbers.betas, self.kl(numbers), strict=True)
        )
        return (error / variance + target_dim * math.log(2 * math.pi * variance)) / 2 + kl
