"""What of a loss trains: its value may count what no gradient reaches."""

from __future__ import annotations

import math

import numpy as np

from posterior_collapse.adapters.kl import ALIKE, OF_ONE_WEIGHT
from posterior_collapse.adapters.probing import Probe
from posterior_collapse.adapters.terms import Terms

WIDER = 0.7
"""Log-variance above the prior's at which the pull is felt."""


def trained(found: Terms) -> tuple[Terms, tuple[str, ...]]:
    """Return the terms with the KL that the gradient has, and the roles that no gradient reaches.

    Part of a KL may stand behind `.detach()`: its value counts it, training does not.
    """
    reconstruction, kl, sizes, probe = found
    if probe is None or reconstruction.kind == "none" or kl.kind not in OF_ONE_WEIGHT:
        return found, ()
    # Beyond any floor, up to which the KL pulls at nothing.
    away = kl.prior_mean + kl.prior_std * math.sqrt(2 * (kl.floor + 1))
    log_var = 2 * math.log(kl.prior_std) + WIDER
    slopes = probe.slopes(away, log_var)
    size = {role: float(np.abs(slope).sum()) for role, slope in slopes.items()}
    least = 1e-6 * abs(kl.weight) * min(1.0, kl.prior_std**-2)
    limits = {"reconstruction": 0.0, "mean": least, "log_var": least}
    cut = tuple(role for role in slopes if size[role] <= limits[role])
    seen = slopes and math.isfinite(sum(size.values()))
    if cut or not seen or (kl.weighed_by and probe.beside):  # of a weight at another error
        return found, cut
    weight = kl.weight * sizes.latents if kl.weights is None else sum(kl.weights)
    expected = {
        "mean": (away - kl.prior_mean) / kl.prior_std**2,
        "log_var": math.expm1(WIDER) / 2 / _times(probe, log_var),
    }
    of_mean, of_spread = (
        float(slopes[role].sum()) / (weight * slope) for role, slope in expected.items()
    )
    if abs(of_mean - of_spread) > ALIKE * max(abs(of_mean), abs(of_spread)):
        return found._replace(kl=kl._replace(kind="uneven", pulls=(of_mean, of_spread))), ()
    if abs(of_mean - 1) <= ALIKE:
        return found, ()
    kl = kl.times(of_mean)._replace(pulls=(of_mean, of_spread))
    return found._replace(kl=kl), ()


def _times(probe: Probe, log_var: float, step: float = 1e-4) -> float:
    """Return how fast a loss's last argument grows with the log-variance."""
    there = probe.spread.argument
    return (there(log_var + step) - there(log_var - step)) / (2 * step)
