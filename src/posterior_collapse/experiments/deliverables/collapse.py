"""Deliverables on collapse: curves over epsilon, and the digits' order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from posterior_collapse.experiments import figures
from posterior_collapse.experiments.checks import (
    Check,
    Part,
    Result,
    Way,
    by_grid,
    by_labels,
    monotone,
    one_seed,
    some_active,
    text,
)
from posterior_collapse.experiments.measuring import DELTA
from posterior_collapse.experiments.tables import Table

__all__ = [
    "collapse_curves",
    "collapse_level",
    "correlation",
    "curve",
    "digit_curves",
    "digit_order",
    "digit_spectra",
]

EXPECTED: dict[str, Way] = {
    "beta": "rises", "eta_dec": "rises", "beta_2": "rises", "beta_1": "falls",
    "the correlation of x and y": "rises",
}  # fmt: skip
"""How the collapse level of the top level moves as a value grows, by claim and theory."""
CORRELATIONS = {"random": 0.0, "1/8": 0.125, "1/4": 0.25, "1/2": 0.5, "identical": 1.0}
SLACK = 0.01
"""Of the collapse level: less is noise of the rows."""


def curve(results: Sequence[Result]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return eps and the share of collapsed units of the top level, averaged over seeds."""
    arrays = [result.record.arrays for result in results]
    top = len(results[0].record.run.spec.dims)
    share = np.mean([a[f"collapse_{top}"] for a in arrays], axis=0)
    return arrays[0]["epsilon"], share


def collapse_level(result: Result) -> float:
    """Return the mean of the collapse curve over log eps, 0 (nothing collapses) to 1."""
    return float(np.mean(curve([result])[1]))


def collapse_curves(results: Sequence[Result]) -> Part:
    """Draw a curve per value, a panel per grid; check that collapse grows as claimed."""
    panels, records, checks = {}, [], []
    for grid, members in by_grid(results).items():
        lines, levels, values = {}, [], []
        for labels, seeds in by_labels(members):
            lines[text(labels)] = curve(seeds)
            levels.append(float(np.mean([collapse_level(seed) for seed in seeds])))
            values.append(labels)
            records += [_record(grid, text(labels), seed) for seed in seeds]
        panels[f"varying {grid}"] = lines
        name = next(iter(values[0]))
        if len(values[0]) == 1 and name in EXPECTED:
            points = [(v[name], level) for v, level in zip(values, levels, strict=True)]
            checks.append(_check(name, points, members))
    top = len(results[0].record.run.spec.dims)
    unit = f"z{top}" if top > 1 else "z"
    measures = ["collapse level", f"active units of {unit}", f"active units of {unit} by theory"]
    caption = (
        f"Share of (eps, {DELTA:g})-collapsed units of {unit} against eps, one curve per value."
    )
    return Part(
        {"collapse": Table.over_seeds(records, ["varying", "value"], measures)},
        {"collapse-curves": (figures.collapse_curves(panels, delta=DELTA), caption)},
        checks,
        [
            "The collapse level is the mean of the curve over log eps, from 0 to 1.",
            *_counts(records),
        ],
    )


def correlation(results: Sequence[Result]) -> Part:
    """Check that collapse grows with correlation, and what a quadratic x does."""
    levels = {
        text(labels): float(np.mean([collapse_level(seed) for seed in seeds]))
        for labels, seeds in by_labels(results)
    }
    points = [(rho, levels[kind]) for kind, rho in CORRELATIONS.items() if kind in levels]
    checks = [_check("the correlation of x and y", points, results)]
    notes = []
    if {"quadratic", "random"} <= set(levels):
        difference = levels["quadratic"] - levels["random"]
        notes.append(
            "x = y^2 - 1 is uncorrelated with y: to linear theory it is random. The ReLU network's "
            f"collapse level differs from that of random pairs by {difference:+.3f}."
        )
    return Part(checks=checks, notes=notes)


def _record(grid: str, label: str, result: Result) -> dict[str, Any]:
    level, top = result.measured["levels"][-1], len(result.measured["levels"])
    unit = f"z{top}" if top > 1 else "z"
    found = {
        "varying": grid,
        "value": label,
        "collapse level": collapse_level(result),
        f"active units of {unit}": level["n_active"],
    }
    if result.theory:
        found[f"active units of {unit} by theory"] = result.theory["levels"][-1]["n_active"]
    return found


def _check(name: str, points: Sequence[tuple[float, float]], results: Sequence[Result]) -> Check:
    top = len(results[0].record.run.spec.dims)
    if not some_active(results, top):
        return Check(None, f"No unit is active at any value of {name}: nothing left to collapse.")
    return monotone("The collapse level", name, points, EXPECTED[name], SLACK)


def _counts(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """How often the network keeps as many units as a linear model would."""
    keys = [key for key in records[0] if key.startswith("active units")]
    pairs = [tuple(r[key] for key in keys) for r in records if len(r) == len(records[0])]
    if len(keys) < 2 or not pairs:
        return
    fewer = sum(found < theory for found, theory in pairs)
    more = sum(found > theory for found, theory in pairs)
    yield (
        f"Of {len(pairs)} runs {len(pairs) - fewer - more} keep as many active units as the best "
        f"linear model, {fewer} fewer and {more} more."
    )


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
        checks.append(_order_check(grid, expected, levels, some_active(members, 1)))
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


def _order_check(
    grid: str, expected: Sequence[float], levels: Sequence[float], active: bool
) -> Check:
    if not active or np.ptp(expected) == 0 or np.ptp(levels) == 0:
        return Check(None, f"{grid}: the digits cannot be told apart, in theory or as trained.")
    found = float(spearmanr(expected, levels).statistic)
    ordered = found <= -ORDERED
    return Check(
        ordered,
        f"{grid}: digits to which theory gives less KL {'' if ordered else 'do not '}collapse more "
        f"(rank correlation of KL and collapse level {found:.2f}; expected: {-ORDERED:g} or less).",
    )
