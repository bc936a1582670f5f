"""(eps, delta)-collapse curves of what varies, and of correlated pairs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.experiments import figures
from posterior_collapse.experiments.measuring import DELTA
from posterior_collapse.experiments.parts import Check, Part, Result, by_grid, by_labels, text
from posterior_collapse.experiments.tables import Table

__all__ = ["collapse_curves", "collapse_level", "correlation", "curve"]

RISES = {"beta": 1, "eta_dec": 1, "beta_2": 1, "beta_1": -1}
"""Whether the top level collapses more (1) or less (-1) as a value grows, by claim and theory."""
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
        if len(values[0]) == 1 and name in RISES:
            checks.append(_monotone(name, [v[name] for v in values], levels))
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
        ["The collapse level is the mean of the curve over log eps, from 0 to 1."],
    )


def correlation(results: Sequence[Result]) -> Part:
    """Check that collapse grows with correlation, and what a quadratic x does."""
    levels = {
        text(labels): float(np.mean([collapse_level(seed) for seed in seeds]))
        for labels, seeds in by_labels(results)
    }
    ordered = [
        levels[kind] for kind in ("random", "1/8", "1/4", "1/2", "identical") if kind in levels
    ]
    grows = all(b >= a - SLACK for a, b in pairwise(ordered))
    words = ", ".join(f"{kind} {level:.3f}" for kind, level in levels.items())
    checks = [Check(grows, f"Collapse levels, which grow with the correlation: {words}.")]
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


def _monotone(name: str, values: Sequence[float], levels: Sequence[float]) -> Check:
    order = np.argsort(values)
    sorted_levels = np.array(levels)[order] * RISES[name]
    agrees = bool(np.all(np.diff(sorted_levels) >= -SLACK))
    words = ", ".join(f"{values[i]:g}: {levels[i]:.3f}" for i in order)
    way = "rises" if RISES[name] > 0 else "falls"
    verb = way if agrees else f"does not always {way[:-1]}"
    return Check(agrees, f"The collapse level {verb} with {name} ({words}).")
