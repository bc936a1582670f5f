"""How many units a loss keeps on its data, and what its weight must be to keep others."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from posterior_collapse import checks
from posterior_collapse.adapters.terms import KLReading
from posterior_collapse.diagnosis.conclusions import count_of, is_attainable
from posterior_collapse.theory import Forecast

if TYPE_CHECKING:
    from posterior_collapse.adapters.audit import LossAudit


def lower_weight(audit: LossAudit, active: int | None) -> str:
    """Return how to turn the KL's weight so that a linear model keeps some units, a sentence.

    Of a loss with its forecast; `active` None: all the units that there are modes for.
    """
    forecast, kl, weight = audit.forecast, audit.kl, audit.weight
    assert forecast is not None
    level, beta = forecast.levels[0], float(forecast.spec.beta_levels[0])
    units, modes = len(level.status), int(np.count_nonzero(forecast.spectrum))
    wanted = min(units, modes) if active is None else checks.count("active", active)
    if wanted > modes:
        return f"The data have only {modes} modes: no weight keeps {wanted} units."
    wider = f"Give the model at least {wanted} latent units." if wanted > units else ""
    if wider and (kl.has_floor or kl.weights is not None):
        return wider  # what further units of such a loss cost is not known
    if wanted <= forecast.n_active:
        return "Nothing needs to change."
    if kl.has_floor:
        return (
            f"Raise the floor of {kl.floor:.4g} nats, or lower the KL's weight until more than the "
            "floor is worth paying for."
        )
    learned = forecast.spec.eta_levels[0] == "learned"
    if learned:
        changes = [c for c in forecast.advice(wanted).changes if c.parameter == "beta"]
        least = changes[0].value if changes else math.nan
    elif wider:
        least = beta * float(np.sort(forecast.spectrum)[::-1][wanted - 1] / level.threshold[0])
    else:
        least = float(np.sort(level.critical_beta)[::-1][wanted - 1])
    if wider and audit.reductions["latents"] == "mean":
        beta *= units / wanted  # over more of them
    if wider and not least <= beta:
        return wider
    if not least > 0:
        return f"No weight of the KL keeps {wanted} units."
    # Of a learned eta_dec not far below there is no minimum any more.
    shown = "{:.6g}".format if learned else lambda value: f"{_below(value):.3g}"
    factor = shown(least / beta)
    whom = "in a linear model" if is_attainable(forecast) else "by the quadratic approximation"
    kept = f"to keep {count_of(wanted, 'unit')} {whom}; a network may keep fewer"
    if weight is None or weight < 0:  # of a loss whose signs are both turned
        turn = f"Multiply your KL weight by {factor} {kept}."
    else:
        turn = (
            f"Lower your weight from {weight:.6g} to {shown(weight * least / beta)} (multiply it "
            f"by {factor}) {kept}."
        )
    return f"{wider} {turn}".lstrip()


def units_kept(forecast: Forecast, kl: KLReading) -> str:
    """Return how many units a loss keeps on its data, and how much more it bears, a sentence."""
    times, units = forecast.onset / forecast.spec.beta_levels[0], forecast.spec.dims[0]
    who = "a linear model" if is_attainable(forecast) else "the quadratic approximation"
    kept = f"On these data {who} keeps {forecast.n_active} of {units} units"
    if kl.has_floor:
        said = "costs nothing" if kl.kind == "free bits" else "is rewarded"
        each = " of each unit" if kl.floor_over == "unit" else ""
        return f"{kept}; no weight collapses all, for a KL up to {kl.floor:.4g} nats{each} {said}."
    above = (
        f"above {times:.3g} times the weight no unit gains by a small step, whatever the network"
    )
    return f"{kept}; {above}."


def _below(value: float) -> float:
    """Return the next lower number of three digits: at a threshold itself the unit is dead."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    # Less than what rounding adds to a value of three digits, which would stay what it is.
    return (math.ceil(value / unit * (1 - 1e-9)) - 1) * unit
