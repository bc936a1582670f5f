"""Tables of NLL, KL and active units, with their spread over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from posterior_collapse.experiments import figures
from posterior_collapse.experiments.checks import (
    Check,
    Part,
    Result,
    Way,
    by_grid,
    by_labels,
    monotone,
    some_active,
    text,
)
from posterior_collapse.experiments.tables import BY_THEORY, Table

__all__ = ["likelihood_table"]

EXPECTED: dict[str, dict[str, Way]] = {
    "beta": {"NLL (nats)": "rises", "KL (nats)": "falls", "active units": "falls"},
    "eta_dec": {
        "NLL (nats)": "rises", "KL (nats)": "falls", "active units": "falls",
        "KL of z2 (nats)": "falls", "active units of z2": "falls",
    },
    "beta_2": {"KL of z2 (nats)": "falls", "active units of z2": "falls"},
    "beta_1": {"KL of z1 (nats)": "falls"},
}  # fmt: skip
"""How measures move as a value grows, by claim and theory."""
SLACK = 0.02
"""Of a measure's range over the settings: less is noise of seeds and rows."""


def likelihood_table(results: Sequence[Result]) -> Part:
    """Set NLL, KL, active units and `kl_active_share` in a table, beside theory's active units."""
    records, checks = [], []
    names = list(_numbers(results[0]))
    shown = [name for name in names if name.startswith(("NLL (", "KL", "active units", "kl_"))]
    shown = [name for name in shown if not name.endswith(BY_THEORY)]
    panels: dict[str, dict[str, figures.Points]] = {name: {} for name in shown}
    for grid, members in by_grid(results).items():
        found = []
        for labels, seeds in by_labels(members):
            numbers = [_numbers(seed) for seed in seeds]
            records += [{"varying": grid, "value": text(labels) or grid, **one} for one in numbers]
            found.append((labels, numbers))
        settings = _settings(grid, [labels for labels, _ in found])
        for name in shown:
            values = [[one[name] for one in numbers] for _, numbers in found]
            mean = [float(np.mean(v)) for v in values]
            std = [float(np.std(v, ddof=1)) if len(v) > 1 else float("nan") for v in values]
            panels[name][grid] = (settings, mean, std)
        checks += _moves(found, members)
    table = Table.over_seeds(records, ["varying", "value"], names)
    first = results[0].measured
    notes = [
        f"NLL on {first['nll_rows']:,} rows with {results[0].record.run.evaluation.samples:,} "
        "importance samples each. The NLL error is the standard error over rows; the effective "
        "sample size is the median over rows."
    ]
    caption = "NLL, KL and active units; error bars are standard deviations over seeds."
    one = next(iter(panels[shown[0]])) if len(panels[shown[0]]) == 1 else "setting"
    chart = figures.spread(panels, variable=one)
    checks += _sigma(records)
    return Part({"likelihood": table}, {"likelihood": (chart, caption)}, checks, notes)


def _settings(grid: str, each: Sequence[Mapping[str, Any]]) -> list[float] | list[str]:
    """Return the values of a grid over one hyperparameter, or its settings in words."""
    values = [value for labels in each for value in labels.values()]
    if len(values) == len(each) and all(isinstance(value, float) for value in values):
        return values
    return [text(labels) or grid for labels in each]


def _numbers(result: Result) -> dict[str, float]:
    measured = result.measured
    levels = measured["levels"]
    found = {
        "NLL (nats)": measured["nll"],
        "NLL error": measured["nll_error"],
        "effective sample size": measured["effective_sample_size"],
    }
    for number, level in enumerate(levels, start=1):
        of = f" of z{number}" if len(levels) > 1 else ""
        found[f"KL{of} (nats)"] = float(np.sum(level["kl"]))
        found[f"active units{of}"] = level["active_units"]
        found[f"kl_active_share{of}"] = level["kl_active_share"]
        if result.theory:
            found[f"active units{of} by theory"] = result.theory["levels"][number - 1]["n_active"]
    return found


def _moves(
    found: Sequence[tuple[Any, Sequence[dict[str, float]]]], members: Sequence[Result]
) -> list[Check]:
    labels = found[0][0]
    if len(labels) != 1 or (name := next(iter(labels))) not in EXPECTED:
        return []
    checks = []
    for measure, expected in EXPECTED[name].items():
        there = found[0][1][0]
        if measure not in there or ("NLL" in measure and "KL (nats)" not in there):
            continue  # of hierarchies nothing is said of the NLL
        means = [float(np.mean([one[measure] for one in numbers])) for _, numbers in found]
        values = [labels[name] for labels, _ in found]
        if not _shown(measure, means, members):
            checks.append(Check(None, f"{measure}: no unit is active at any value of {name}."))
            continue
        points = list(zip(values, means, strict=True))
        what = f"The number of {measure}" if measure.startswith("active") else measure
        checks.append(monotone(what, name, points, expected, SLACK * float(np.ptp(means))))
    return checks


def _shown(measure: str, means: Sequence[float], members: Sequence[Result]) -> bool:
    """Whether anything could fall: without active units neither counts nor KLs mean anything."""
    if measure.startswith("active"):
        return any(means)
    return "NLL" in measure or some_active(members, 2 if "z2" in measure else 1)


def _sigma(records: Sequence[dict[str, Any]]) -> list[Check]:
    """For a learned against a fixed sigma."""
    mean: dict[str, dict[str, float]] = {}
    for kind in ("learned", "fixed"):
        own = [r for r in records if str(r["varying"]).startswith(kind)]
        if not own:
            return []
        mean[kind] = {
            name: float(np.mean([r[name] for r in own])) for name in ("NLL (nats)", "active units")
        }
    words = {
        name: f"{mean['learned'][name]:.4g} learned, {mean['fixed'][name]:.4g} fixed"
        for name in mean["learned"]
    }
    if not any(one["active units"] for one in mean.values()):
        return [Check(None, "No unit is active, with a learned or a fixed sigma.")]
    fewer = mean["learned"]["active units"] < mean["fixed"]["active units"]
    better = mean["learned"]["NLL (nats)"] < mean["fixed"]["NLL (nats)"]
    return [
        Check(fewer, f"Active units: {words['active units']}; expected: fewer learned."),
        Check(better, f"NLL (nats): {words['NLL (nats)']}; expected: lower learned."),
    ]
