"""One latent level (theory section 1): VAE and, on residuals, conditional VAE.

Level two of a hierarchy is the same problem with z1 as data, noise eta_dec and
beta = beta_2 / beta_1 (section 3), so these functions serve there too.
"""

from __future__ import annotations

import math

import numpy as np

from posterior_collapse.arrays import Float
from posterior_collapse.errors import UnboundedObjectiveError
from posterior_collapse.theory.state import at_least_one

Number = Float | float


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
        "Pass eta_dec as a number."
        if rank < 2
        else "Pass eta_dec as a number, or use fewer units.",
    )
