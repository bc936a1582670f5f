"""Digits one by one: their collapse curves, their spectra, and whether one orders the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr

from posterior_collapse.experiments import figures
from posterior_collapse.experiments.deliverables.curves import collapse_level, curve
from posterior_collapse.experiments.measuring import DELTA
from posterior_collapse.experiments.parts import (
    Check,
    Part,
    Result,
    by_grid,
    one_seed,
    some_active,
    text,
)
from posterior_collapse.experiments.tables import Table

__all__ = ["digit_curves", "digit_order", "digit_spectra"]

ORDERED = 0.6
"""Rank correlation from which the digits count as ordered: p = 0.05 for ten of them."""


def digit_curves(results: Sequence[Result]) -> Part:
    """Draw a curve per digit, a panel per architecture."""
    panels = {
        grid: {text(result.labels): curve([result]) for result in one_seed(members)}
        for grid, members in by_grid(results).items()
    }
    caption = f"Share of (eps, {DELTA:g})-collapsed units against eps, a curve per digit."
    return Part(charts={"collapse-curves": (figures.collapse_curves(panels, delta=DELTA), caption)})


def digit_spectra(results: Sequence[Result]) -> Part:
    """Draw the eigenvalues of each digit's E with the threshold."""
    first = next(iter(by_grid(results).values()))
    spectra = {text(r.labels): np.array(r.theory["spectrum"]) for r in first}
    threshold = first[0].theory["levels"][0]["threshold"][0]
    chart = figures.spectra(spectra, threshold=threshold, name="beta * eta_dec^2")
    caption = "Eigenvalues of each digit's residual covariance E, and the threshold of collapse."
    return Part(charts={"spectra": (chart, caption)})


def digit_order(results: Sequence[Result]) -> Part:
    """Set the measured collapse of each digit beside the forecast KL, and check the order."""
    points, rows, checks = {}, [], []
    for grid, members in by_grid(results).items():
        expected = [r.theory["kl"] for r in members]
        levels = [collapse_level(r) for r in members]
        points[grid] = (expected, levels)
        rows += [
            [
                grid, r.labels["label"], r.theory["levels"][0]["n_active"], kl,
                r.measured["levels"][0]["n_active"], r.measured["kl"], level,
            ]
            for r, kl, level in zip(members, expected, levels, strict=True)
        ]  # fmt: skip
        checks.append(_check(grid, expected, levels, some_active(members, 1)))
    columns = [
        "architecture", "digit", "active units by theory", "KL by theory (nats)",
        "active units", "KL (nats)", "collapse level",
    ]  # fmt: skip
    names = [str(r.labels["label"]) for r in next(iter(by_grid(results).values()))]
    chart = figures.scatter(
        points, x="KL of the linear optimum (nats)", y="collapse level", names=names
    )
    caption = "Collapse level of each digit against the KL of its linear optimum."
    return Part({"digits": Table(columns, rows)}, {"order": (chart, caption)}, checks)


def _check(grid: str, expected: Sequence[float], levels: Sequence[float], active: bool) -> Check:
    if not active or np.ptp(expected) == 0 or np.ptp(levels) == 0:
        return Check(None, f"{grid}: the digits cannot be told apart, in theory or as trained.")
    found = float(spearmanr(expected, levels).statistic)
    ordered = found <= -ORDERED
    return Check(
        ordered,
        f"{grid}: digits to which theory gives less KL {'' if ordered else 'do not '}collapse more "
        f"(rank correlation of KL and collapse level {found:.2f}; expected: {-ORDERED:g} or less).",
    )
