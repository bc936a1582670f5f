"""X3a: the beta at which networks lose their last unit, beside the predicted onset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from posterior_collapse.experiments.checks import Check, Part, Result, Setting
from posterior_collapse.experiments.tables import Table
from posterior_collapse.experiments.trust import figures
from posterior_collapse.experiments.trust.reading import (
    WARM_UPS,
    by_problem,
    gain_by_linear,
    onset_of,
    quantiles,
    usable,
)
from posterior_collapse.experiments.trust.summary import NEAR

__all__ = ["last_alive", "trust_onset"]


def trust_onset(results: Sequence[Result]) -> Part:
    """State per network where the last unit dies, as shares of the predicted onset."""
    records: list[dict[str, Any]] = []
    alive: dict[str, dict[str, Any]] = {}
    for name, kinds in by_problem(results).items():
        for kind, settings in kinds.items():
            if kind in WARM_UPS and (found := usable(settings)):
                records.append(_record(name, WARM_UPS[kind], found))
                alive.setdefault(name, {})[f"warm-up: {WARM_UPS[kind]}"] = _shares(found)
    charts = {
        "onset": (
            figures.curves(alive, x="beta / predicted onset", y="share of runs alive"),
            "Share of runs in which a unit lives, over beta as a share of the predicted onset "
            "(dotted).",
        )
    }
    checks = [_check(record) for record in records]
    note = (
        "A unit counts as active from 0.005 nats of information on the data: those of the linear "
        "optimum stop counting 1% below the onset. The grid of betas is 2 to 7% dense about it. "
        "At the first beta that is dead below the onset a linear model would still gain a little. "
        "Where that is less than what the noise of Adam's steps costs the runs that have "
        "collapsed, that noise is enough to kill the unit; where it is more and the verdict is "
        "signal-unclaimed, the optimiser failed."
    )
    return Part({"onset": Table.of(records)}, charts, checks, [note])


def _shares(settings: Sequence[Setting]) -> tuple[list[float], list[float]]:
    onset = onset_of(settings[0].first)
    return (
        [float(s.labels["beta"]) / onset for s in settings],
        [s.mean(lambda r: float(r.active(1) > 0)) for s in settings],
    )


def last_alive(betas: Sequence[float], alive: Sequence[float]) -> tuple[float, float]:
    """Return the last beta at which half of the runs have an active unit, and the next.

    Args:
        betas: Ascending.
        alive: Share of the runs with an active unit at each.

    Returns:
        0 where they live at none; the next is infinite where they live at all.

    Example:
        >>> last_alive([1.0, 2.0, 3.0], [1.0, 0.67, 0.33])
        (2.0, 3.0)
    """
    at = [beta for beta, share in zip(betas, alive, strict=True) if share >= 0.5]
    last = max(at, default=0.0)
    return last, min((beta for beta in betas if beta > last), default=float("inf"))


def _record(name: str, warm_up: str, settings: Sequence[Setting]) -> dict[str, Any]:
    betas, alive = _shares(settings)
    last, first = last_alive(betas, alive)
    middle = float(np.sqrt(last * first)) if last and np.isfinite(first) else None
    beyond = [s for s, b in zip(settings, betas, strict=True) if b > 1]
    dead = [s.first for s, b in zip(settings, betas, strict=True) if b == first]
    noise = [
        float(r.measured["loss"]) - float(r.measured["collapsed_loss"])
        for s in beyond
        for r in s.results
        if not r.active(1)
    ]
    lower = [
        float(r.measured["collapsed_loss"]) - float(r.measured["loss"])
        for s in beyond
        for r in s.results
        if r.active(1) and r.measured["collapsed_loss"] is not None
    ]
    return {
        "network": name,
        "warm-up": warm_up,
        "predicted onset (beta)": onset_of(settings[0].first),
        "last beta alive / onset": round(last, 3),
        "first beta dead / onset": round(first, 3) if np.isfinite(first) else None,
        "error of the onset": None if middle is None else round(middle - 1, 3) + 0.0,
        "a linear model would gain there (nats)": gain_by_linear(dead[0]) if dead else None,
        "collapsed runs miss their optimum by (nats)": quantiles(noise)[0],
        "verdict there": dead[0].measured["conclusion"] if dead else "",
        "runs alive above the onset": len(lower),
        "their loss below the collapsed (nats, most)": max(lower, default=None),
    }


def _check(record: dict[str, Any]) -> Check:
    name = f"{record['network']}, warm-up: {record['warm-up']}"
    error, last = record["error of the onset"], record["last beta alive / onset"]
    if error is None:
        lives = "no unit lives at any beta" if not last else "units live at all betas"
        return Check(None, f"{name}: {lives}.")
    first = record["first beta dead / onset"]
    agrees = abs(error) <= NEAR
    return Check(
        agrees,
        f"{name}: the last unit dies between {last:.3g} and {first:.3g} of the predicted beta "
        f"(error {error:+.1%}).",
    )
