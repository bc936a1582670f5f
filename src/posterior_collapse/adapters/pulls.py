"""What of a loss trains: its value may count what no gradient reaches."""

from __future__ import annotations

import math

import numpy as np

from posterior_collapse.adapters.kl import ALIKE, OF_ONE_WEIGHT
from posterior_collapse.adapters.probing import Probe
from posterior_collapse.adapters.reconstruction import plain
from posterior_collapse.adapters.terms import Terms
from posterior_collapse.arrays import Float

ABOVE = 0.7
"""Log-variance above the prior's at which the pull is felt, and between two such."""


def trained(found: Terms) -> tuple[Terms, tuple[str, ...]]:
    """Return the terms with the KL that the gradient has, and the roles that no gradient reaches.

    Part of a KL may stand behind `.detach()`: its value counts it, training does not. Of a unit
    with the weight w and a prior of std s the mean's pull grows by w / s^2 with the mean, twice the
    log-variance's by as much with the variance, of which that is w less: whatever the prior.
    """
    reconstruction, kl, sizes, probe = found
    if probe is None or reconstruction.kind == "none" or kl.kind not in OF_ONE_WEIGHT:
        return found, ()
    # Beyond any floor, up to which the KL pulls at nothing.
    away = kl.prior_mean + kl.prior_std * math.sqrt(2 * (kl.floor + 1))
    log_var = 2 * math.log(kl.prior_std) + ABOVE
    slopes = probe.slopes(away, log_var)
    size = {role: float(np.abs(slope).sum()) for role, slope in slopes.items()}
    least = 1e-6 * abs(kl.weight) * min(1.0, kl.prior_std**-2)
    limits = {"reconstruction": 0.0, "mean": least, "log_var": least}
    cut = tuple(role for role in slopes if size[role] <= limits[role])
    seen = slopes and math.isfinite(sum(size.values()))
    if cut or not seen or (kl.weighed_by and probe.beside):  # of a weight at another error
        return found, cut
    further, wider = probe.slopes(away + kl.prior_std, log_var), probe.slopes(away, log_var + ABOVE)
    of_mean = (further["mean"] - slopes["mean"]).sum(axis=0) / kl.prior_std
    here, there = (
        2 * _times(probe, at) * one["log_var"].sum(axis=0)
        for at, one in ((log_var, slopes), (log_var + ABOVE, wider))
    )
    of_spread = (there - here) / (math.exp(log_var + ABOVE) - math.exp(log_var))
    each = np.array(kl.weights or (kl.weight,) * sizes.latents)
    if not _agree(of_mean, of_spread):
        whole = each.sum() / kl.prior_std**2
        pulls = float(of_mean.sum() / whole), float(of_spread.sum() / whole)
        return found._replace(kl=kl._replace(kind="uneven", pulls=pulls)), ()
    felt = math.exp(log_var) * of_spread - here
    if _agree(felt, each):
        return found, ()
    share = float(felt.sum() / each.sum())
    if _agree(felt, share * each):
        kl = kl.times(share)
    else:
        weights = tuple(plain(one) for one in felt.round(9))
        kl = kl._replace(weight=min(weights), weights=weights)
        share = 1.0 if abs(share - 1) <= ALIKE else share
    return found._replace(kl=kl._replace(pulls=(share, share))), ()


def _agree(some: Float, others: Float) -> bool:
    return float(np.abs(some - others).max()) <= ALIKE * float(np.abs([some, others]).max())


def _times(probe: Probe, log_var: float, step: float = 1e-4) -> float:
    """Return how fast a loss's last argument grows with the log-variance."""
    there = probe.spread.argument
    return (there(log_var + step) - there(log_var - step)) / (2 * step)
