"""How much collapses: curves over eps, the order of the digits, and the onset of total collapse."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from posterior_collapse.arrays import Float
from posterior_collapse.experiments import figures
from posterior_collapse.experiments.checks import (
    Check,
    Part,
    Result,
    Setting,
    Way,
    by_grid,
    monotone,
    some_active,
)
from posterior_collapse.experiments.measuring import DELTA
from posterior_collapse.experiments.tables import BY_THEORY, Table

__all__ = ["collapse_curves", "correlation", "digits", "onset"]

EXPECTED: dict[str, Way] = {
    "beta": "rises", "eta_dec": "rises", "beta_2": "rises", "beta_1": "falls",
    "the correlation of x and y": "rises",
}  # fmt: skip
"""How the collapse level of the top level moves as a value grows, by claim and theory."""
CORRELATIONS = {"random": 0.0, "1/8": 0.125, "1/4": 0.25, "1/2": 0.5, "identical": 1.0}
SLACK = 0.01
"""Of the collapse level: less is noise of the rows."""


def collapse_curves(results: Sequence[Result]) -> Part:
    """Draw a curve per value, a panel per grid; check that collapse grows as claimed."""
    records: list[dict[str, Any]] = []
    panels, checks = {}, []
    top = results[0].depth
    unit = f"z{top}" if top > 1 else "z"
    active = f"active units of {unit}"
    by_theory = f"{active} {BY_THEORY}"
    for grid, settings in by_grid(results).items():
        panels[f"varying {grid}"] = {s.text or grid: _curve(s.results) for s in settings}
        records += [
            {
                "varying": grid,
                "value": setting.text or grid,
                "collapse level": _collapse_level(result),
                active: result.active(top),
                by_theory: result.active_by_theory(top),
            }
            for setting in settings
            for result in setting.results
        ]
        varied = list(settings[0].labels)
        if len(varied) == 1 and varied[0] in EXPECTED:
            points = [(s.labels[varied[0]], s.mean(_collapse_level)) for s in settings]
            checks.append(_grows(varied[0], points, settings))
    measures = ["collapse level", active, by_theory]
    caption = (
        f"Share of (eps, {DELTA:g})-collapsed units of {unit} against eps, one curve per value."
    )
    return Part(
        {"collapse": Table.over_seeds(records, ["varying", "value"], measures)},
        {"collapse-curves": (figures.collapse_curves(panels, delta=DELTA), caption)},
        checks,
        [
            "The collapse level is the mean of the curve over log eps, from 0 to 1.",
            *_beside_theory([(record[active], record[by_theory]) for record in records]),
        ],
    )


def correlation(results: Sequence[Result]) -> Part:
    """Check that collapse grows with correlation, and what a quadratic x does."""
    settings = next(iter(by_grid(results).values()))
    levels = {setting.text: setting.mean(_collapse_level) for setting in settings}
    points = [(rho, levels[kind]) for kind, rho in CORRELATIONS.items() if kind in levels]
    notes = []
    if {"quadratic", "random"} <= set(levels):
        difference = levels["quadratic"] - levels["random"]
        notes.append(
            "x = y^2 - 1 is uncorrelated with y: to linear theory it is random. The ReLU network's "
            f"collapse level differs from that of random pairs by {difference:+.3f}."
        )
    return Part(checks=[_grows("the correlation of x and y", points, settings)], notes=notes)


def _curve(seeds: Sequence[Result]) -> tuple[Float, Float]:
    """Return eps and the share of collapsed units of the top level, averaged over seeds."""
    arrays = [result.record.arrays for result in seeds]
    shares = [each[f"collapse_{seeds[0].depth}"] for each in arrays]
    return arrays[0]["epsilon"], np.mean(shares, axis=0)


def _collapse_level(result: Result) -> float:
    """Return the mean of the collapse curve over log eps, 0 (nothing collapses) to 1."""
    return float(np.mean(_curve([result])[1]))


def _grows(name: str, points: Sequence[tuple[float, float]], settings: Sequence[Setting]) -> Check:
    if not some_active(settings, settings[0].first.depth):
        return Check(None, f"No unit is active at any value of {name}: nothing left to collapse.")
    return monotone("The collapse level", name, points, EXPECTED[name], SLACK)


def _beside_theory(counts: Iterable[tuple[int, int | None]]) -> Iterator[str]:
    """Say how often the network keeps as many units as a linear model would."""
    pairs = [(found, theory) for found, theory in counts if theory is not None]
    if pairs:
        fewer = sum(found < theory for found, theory in pairs)
        more = sum(found > theory for found, theory in pairs)
        yield (
            f"Of {len(pairs)} runs {len(pairs) - fewer - more} keep as many active units as the "
            f"best linear model, {fewer} fewer and {more} more."
        )


ORDERED = 0.6
"""Rank correlation from which the digits count as ordered: p = 0.05 for ten of them."""


def digits(results: Sequence[Result]) -> Part:
    """Draw each digit's collapse curve and spectrum; check that theory's KL orders the digits."""
    curves, points, records, checks = {}, {}, [], []
    for grid, settings in by_grid(results).items():
        runs = [setting.first for setting in settings]
        curves[grid] = {s.text: _curve([s.first]) for s in settings}
        points[grid] = ([r.theory["kl"] for r in runs], [_collapse_level(r) for r in runs])
        records += [
            {
                "architecture": grid,
                "digit": r.labels["label"],
                "active units by theory": r.active_by_theory(1),
                "KL by theory (nats)": r.theory["kl"],
                "active units": r.active(1),
                "KL (nats)": r.measured["kl"],
                "collapse level": _collapse_level(r),
            }
            for r in runs
        ]
        checks.append(_ordered(grid, *points[grid], some_active(settings, 1)))
    shown = next(iter(by_grid(results).values()))
    spectra = figures.spectra(
        {s.text: s.first.theory["spectrum"] for s in shown},
        threshold=shown[0].first.theory["levels"][0]["threshold"][0],
        name="beta * eta_dec^2",
    )
    names = [str(s.labels["label"]) for s in shown]
    x = "KL of the linear optimum (nats)"
    order = figures.scatter(points, x=x, y="collapse level", names=names)
    charts = {
        "collapse-curves": (
            figures.collapse_curves(curves, delta=DELTA),
            f"Share of (eps, {DELTA:g})-collapsed units against eps, a curve per digit.",
        ),
        "spectra": (
            spectra,
            "Eigenvalues of each digit's residual covariance E, and the threshold of collapse.",
        ),
        "order": (order, "Collapse level of each digit against the KL of its linear optimum."),
    }
    return Part({"digits": Table.of(records)}, charts, checks)


def _ordered(grid: str, expected: Sequence[float], levels: Sequence[float], active: bool) -> Check:
    if not active or np.ptp(expected) == 0 or np.ptp(levels) == 0:
        return Check(None, f"{grid}: the digits cannot be told apart, in theory or as trained.")
    found = float(spearmanr(expected, levels).statistic)
    ordered = found <= -ORDERED
    return Check(
        ordered,
        f"{grid}: digits to which theory gives less KL {'' if ordered else 'do not '}collapse more "
        f"(rank correlation of KL and collapse level {found:.2f}; expected: {-ORDERED:g} or less).",
    )


def onset(results: Sequence[Result]) -> Part:
    """Draw the phase diagram; state the error of the predicted threshold."""
    grids = {title: [s.first for s in settings] for title, settings in by_grid(results).items()}
    shown = [run for runs in grids.values() for run in runs]
    betas, etas = (sorted({r.labels[name] for r in shown}) for name in ("beta", "eta_dec"))
    records, checks = [], []
    active, theory = {}, {}
    trained: dict[str, list[float]] = {name: [] for name in grids}
    for name, runs in grids.items():
        at = {(r.labels["beta"], r.labels["eta_dec"]): r for r in runs}
        active[name] = [
            [at[beta, eta].active(1) if (beta, eta) in at else math.nan for eta in etas]
            for beta in betas
        ]
        theory[name] = [_predicted(runs[0], eta) for eta in etas]
        for eta in etas:
            beta = math.nan
            if column := [at[beta, eta] for beta in betas if (beta, eta) in at]:
                beta, record, check = _onset(name, column)
                records.append(record)
                checks.append(check)
            trained[name].append(beta)
    chart = figures.phase(betas, etas, active, theory, trained)
    caption = "Active units of trained VAEs over beta and eta_dec, and linear theory's onset."
    return Part({"onset": Table.of(records)}, {"phase": (chart, caption)}, checks)


def _onset(name: str, column: Sequence[Result]) -> tuple[float, dict[str, Any], Check]:
    """Find between which betas a kind of model collapses wholly, at one eta_dec.

    Args:
        name: The kind of model.
        column: Runs of ascending beta. What is dead has to stay dead.

    Returns:
        The middle of the step (geometric; NaN where units live at no beta or at all), the record
        and the check: a step of the grid to either side is what the grid can tell apart.
    """
    betas, eta = [r.labels["beta"] for r in column], column[0].labels["eta_dec"]
    step = max((b / a for a, b in pairwise(betas)), default=1.0)
    alive = max((number for number, r in enumerate(column, 1) if r.active(1)), default=0)
    dead = column[alive:]
    last, first = betas[alive - 1] if alive else math.nan, betas[alive] if dead else math.nan
    theory, beta = _predicted(column[0], eta), math.sqrt(last * first)
    record = {
        "architecture": name,
        "eta_dec": eta,
        "onset by theory (beta)": theory,
        "last beta with active units": last,
        "first beta of total collapse": first,
        "relative error of the onset": beta / theory - 1,
        "certificate at that beta": dead[0].measured["conclusion"] if dead else "",
    }
    if not alive:
        agrees = None
        text = f"no unit is active at any beta (theory: below {theory:.3g})."
    elif not dead:
        agrees = False if theory * step < last else None
        text = f"units are active up to the largest beta, {last:.3g} (theory: below {theory:.3g})."
    else:
        agrees = last / step <= theory <= first * step
        text = (
            f"total collapse begins between beta = {last:.3g} and {first:.3g}, predicted at "
            f"{theory:.3g} (error {beta / theory - 1:+.1%}; a step of the grid is a factor of "
            f"{step:.3g})."
        )
    return beta, record, Check(agrees, f"{name}, eta_dec = {eta:g}: {text}")


def _predicted(result: Result, eta_dec: float) -> float:
    """Return theory's beta of total collapse, theta_1^2 / eta_dec^2, named as the loss names it."""
    halved = result.run.settings.convention == "reference"
    return (2 if halved else 1) * float(result.theory["spectrum"][0]) / eta_dec**2
