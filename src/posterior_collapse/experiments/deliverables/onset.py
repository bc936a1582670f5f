"""Where trained non-linear models collapse wholly, beside linear theory's onset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.experiments import figures
from posterior_collapse.experiments.parts import Check, Part, Result, by_grid, one_seed
from posterior_collapse.experiments.tables import Table

__all__ = ["onset"]

Float = NDArray[np.float64]


def onset(results: Sequence[Result]) -> Part:
    """Draw the phase diagram; state the error of the predicted threshold."""
    grids = {title: one_seed(members) for title, members in by_grid(results).items()}
    betas = np.array(sorted({r.labels["beta"] for m in grids.values() for r in m}))
    etas = np.array(sorted({r.labels["eta_dec"] for m in grids.values() for r in m}))
    first = next(iter(grids.values()))[0]
    theory = float(first.theory["spectrum"][0]) / etas**2 / _factor(first)
    measured, found, rows, checks = {}, {}, [], []
    for name, members in grids.items():
        counts = np.full((len(betas), len(etas)), np.nan)
        for r in members:
            place = (
                np.searchsorted(betas, r.labels["beta"]),
                np.searchsorted(etas, r.labels["eta_dec"]),
            )
            counts[place] = r.measured["levels"][0]["n_active"]
        measured[name] = counts
        found[name] = np.full(len(etas), np.nan)
        for j, eta in enumerate(etas):
            last, dead = _bracket(betas, counts[:, j])
            if np.isnan(counts[:, j]).all():
                continue
            found[name][j] = np.sqrt(last * dead)
            error = found[name][j] / theory[j] - 1
            rows.append([name, float(eta), float(theory[j]), last, dead, float(error)])
            if np.isfinite(error):
                near = last <= theory[j] * (1 + STEP) and theory[j] <= dead * (1 + STEP)
                checks.append(
                    Check(
                        bool(near),
                        f"{name}, eta_dec = {eta:g}: total collapse between beta = {last:.3g} and "
                        f"{dead:.3g}, predicted at {theory[j]:.3g} (error {error:+.1%}).",
                    )
                )
    columns = [
        "architecture", "eta_dec", "onset by theory (beta)", "last beta with active units",
        "first beta of total collapse", "relative error of the onset",
    ]  # fmt: skip
    chart = figures.phase(betas, etas, measured, theory, found=found)
    caption = "Active units of trained VAEs over beta and eta_dec, and linear theory's onset."
    return Part({"onset": Table(columns, rows)}, {"phase": (chart, caption)}, checks)


STEP = 0.12
"""Relative distance of neighbouring betas: what the grid can tell apart."""


def _bracket(betas: Float, counts: Float) -> tuple[float, float]:
    """Return the last beta with an active unit and the first of those that stay without; NaN."""
    known = np.isfinite(counts)
    values, alive = betas[known], counts[known] > 0
    if not alive.any() or alive.all():
        return np.nan, np.nan
    last = int(np.flatnonzero(alive)[-1])
    if last + 1 == len(values):
        return float(values[last]), np.nan
    return float(values[last]), float(values[last + 1])


def _factor(result: Result) -> float:
    """How much of the nominal beta counts under the convention of the run."""
    settings = result.record.run.settings
    return 0.5 if settings.convention == "reference" else 1.0
