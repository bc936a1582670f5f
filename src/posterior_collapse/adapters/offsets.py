"""What a loss adds to each std or variance, so that none falls below it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize_scalar

from posterior_collapse.adapters.kl import KLReading, losses_at
from posterior_collapse.adapters.precision import rounding
from posterior_collapse.adapters.probing import Probe
from posterior_collapse.adapters.reconstruction import TOLERANCE
from posterior_collapse.adapters.spreads import LOGGED, PLAIN, STDS, Spread
from posterior_collapse.errors import InvalidArgumentError

FAR = (20.0, 30.0, 40.0)
"""Means so far from any prior that the KL exceeds every floor."""
LOW = 6.0
"""Log-variance below the prior's at which a least std shows."""
TRIED = np.linspace(-7.0, 3.0, 11)
"""Log-variances whose last arguments are tried."""
LEAST, MOST = 1e-4, 0.4
"""Between which a least std or variance is sought."""


def with_offset(probe: Probe, kl: KLReading) -> Probe | None:
    """Return the probe with what the loss adds to each std or variance, as softplus(s) + 0.1 does.

    Next to the prior such a KL looks like one to a narrower prior, of another weight. None: nothing
    is added.
    """
    try:
        plain = kl.kind != "other" and _falls_as_low(probe, kl)
        return None if plain else _added(probe)
    except InvalidArgumentError:  # of numbers that it does not take
        return None


def _falls_as_low(probe: Probe, kl: KLReading) -> bool:
    """Whether a low log-variance costs what its logarithm says."""
    prior = 2 * math.log(kl.prior_std)
    mean = kl.prior_mean + FAR[0] * kl.prior_std
    ends = losses_at(probe)([(mean, prior), (mean, prior - LOW)])
    weight = probe.sizes.latents * kl.weight if kl.weights is None else sum(kl.weights)
    expected = weight * (math.expm1(-LOW) + LOW) / 2
    missing = abs(float(ends[1] - ends[0]) - expected)
    return missing <= TOLERANCE * abs(expected) + 8 * rounding(ends)


def _added(probe: Probe) -> Probe | None:
    """Return the probe with what makes a KL of the posterior's term, if anything does."""
    spreads = LOGGED if probe.spread.logged else PLAIN
    at = losses_at(replace(probe, spread=spreads[0]))
    losses = at([(FAR[0], log_var) for log_var in TRIED])
    raw = np.array([spreads[0].argument(log_var) for log_var in TRIED])
    apart = at([(mean, 0.0) for mean in FAR])
    of_square = float(np.diff(apart, 2)[0]) / (FAR[1] - FAR[0]) ** 2 / 2

    def missed(spread: Spread) -> float:
        """Return by how much `of_square var - of_log log var`, of any of_log, misses the losses."""
        kind, added, to = spread
        std = STDS[kind](raw)
        variance = (std + added) ** 2 if to == "std" else std**2 + added
        rest = losses - of_square * variance
        design = np.stack([np.log(variance), np.ones_like(variance)], 1)
        factors, *_ = np.linalg.lstsq(design, rest, rcond=None)
        return float(np.abs(design @ factors - rest).max())

    least, found = min(_best(missed, one.kind, to) for one in spreads for to in ("std", "variance"))
    return replace(probe, spread=found) if least <= TOLERANCE * float(np.ptp(losses)) else None


def _best(missed: Callable[[Spread], float], kind: str, to: str) -> tuple[float, Spread]:
    """Return by how much the best number from LEAST to MOST misses, and it, of six digits."""

    def at(added: float) -> float:
        return missed(Spread(kind, added, to))

    grid = np.geomspace(LEAST, MOST, 40)
    near = int(np.argmin([at(one) for one in grid]))
    bounds = grid[max(near - 1, 0)], grid[min(near + 1, len(grid) - 1)]
    found = minimize_scalar(at, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    best = Spread(kind, float(f"{found.x:.6g}"), to)
    return missed(best), best
