"""Where trained non-linear models collapse wholly, beside linear theory's onset."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from posterior_collapse.experiments import figures
from posterior_collapse.experiments.checks import Check, Part, Result, by_grid, one_seed
from posterior_collapse.experiments.tables import Table

__all__ = ["onset"]


class _Onset(NamedTuple):
    """Between which betas a kind of model collapses wholly, at one eta_dec; NaN where unknown."""

    name: str
    eta_dec: float
    theory: float
    last: float
    dead: float
    certificate: str
    step: float

    @property
    def told(self) -> str:
        return f"{self.theory:.3g}"

    @property
    def beta(self) -> float:
        return math.sqrt(self.last * self.dead)

    @property
    def error(self) -> float:
        return self.beta / self.theory - 1

    def check(self) -> Check:
        """One step of the grid to either side is what the grid can tell apart."""
        where = f"{self.name}, eta_dec = {self.eta_dec:g}: "
        if math.isnan(self.last):
            return Check(None, f"{where}no unit is active at any beta (theory: below {self.told}).")
        if math.isnan(self.dead):
            inside = self.theory * self.step < self.last
            return Check(
                False if inside else None,
                f"{where}units are active up to the largest beta, {self.last:.3g} "
                f"(theory: below {self.told}).",
            )
        return Check(
            self.last / self.step <= self.theory <= self.dead * self.step,
            f"{where}total collapse begins between beta = {self.last:.3g} and {self.dead:.3g}, "
            f"predicted at {self.told} (error {self.error:+.1%}; a step of the grid is a factor of "
            f"{self.step:.3g}).",
        )


def onset(results: Sequence[Result]) -> Part:
    """Draw the phase diagram; state the error of the predicted threshold."""
    grids = {title: one_seed(members) for title, members in by_grid(results).items()}
    betas = sorted({r.labels["beta"] for members in grids.values() for r in members})
    etas = sorted({r.labels["eta_dec"] for members in grids.values() for r in members})
    counts = {name: np.full((len(betas), len(etas)), np.nan) for name in grids}
    found = {name: np.full(len(etas), np.nan) for name in grids}
    onsets = []
    for name, members in grids.items():
        for j, eta in enumerate(etas):
            column = sorted(
                (r for r in members if r.labels["eta_dec"] == eta), key=lambda r: r.labels["beta"]
            )
            for r in column:
                i = betas.index(r.labels["beta"])
                counts[name][i, j] = r.measured["levels"][0]["n_active"]
            if column:
                onsets.append(_onset(name, column))
                found[name][j] = onsets[-1].beta
    theory = {name: [_theory(members[0], eta) for eta in etas] for name, members in grids.items()}
    columns = [
        "architecture", "eta_dec", "onset by theory (beta)", "last beta with active units",
        "first beta of total collapse", "relative error of the onset", "certificate at that beta",
    ]  # fmt: skip
    rows = [[*one[:5], one.error, one.certificate] for one in onsets]
    chart = figures.phase(betas, etas, counts, theory, found=found)
    caption = "Active units of trained VAEs over beta and eta_dec, and linear theory's onset."
    return Part(
        {"onset": Table(columns, rows)},
        {"phase": (chart, caption)},
        [one.check() for one in onsets],
    )


def _onset(name: str, column: Sequence[Result]) -> _Onset:
    """Return the onset from runs of ascending beta: what is dead has to stay dead."""
    alive = [r.measured["levels"][0]["n_active"] > 0 for r in column]
    eta = column[0].labels["eta_dec"]
    first = len(alive) - alive[::-1].index(True) if any(alive) else 0
    last = column[first - 1].labels["beta"] if first else math.nan
    dead = column[first].labels["beta"] if first < len(column) else math.nan
    certificate = column[first].measured["conclusion"] if first < len(column) else ""
    betas = [r.labels["beta"] for r in column]
    step = max(b / a for a, b in pairwise(betas)) if len(betas) > 1 else 1.0
    return _Onset(name, eta, _theory(column[0], eta), last, dead, certificate, step)


def _theory(result: Result, eta_dec: float) -> float:
    """Of the nominal beta, half of which counts in the published loss: theta_1^2 / eta_dec^2."""
    halved = result.record.run.settings.convention == "reference"
    variance = float(result.theory["spectrum"][0])
    return (2 if halved else 1) * variance / eta_dec**2
