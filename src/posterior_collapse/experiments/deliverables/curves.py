"""(eps, delta)-collapse curves of what varies, and of correlated pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.experiments import figures
from posterior_collapse.experiments.measuring import DELTA
from posterior_collapse.experiments.parts import (
    Check,
    Part,
    Result,
    by_grid,
    by_labels,
    some_active,
    text,
)
from posterior_collapse.experiments.tables import Table
from posterior_collapse.experiments.trends import Way, monotone

__all__ = ["collapse_curves", "collapse_level", "correlation", "curve"]

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
