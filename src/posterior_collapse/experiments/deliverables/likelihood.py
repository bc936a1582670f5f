"""Tables of NLL, KL and active units, with their spread over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from posterior_collapse.experiments import figures
from posterior_collapse.experiments.checks import (
    Check,
    Part,
    Result,
    Setting,
    Way,
    by_grid,
    monotone,
    of_level,
    some_active,
)
from posterior_collapse.experiments.tables import BY_THEORY, Table

__all__ = ["likelihood_table"]

NLL, KL, ACTIVE = "NLL (nats)", "KL (nats)", "active units"
EXPECTED: dict[str, dict[str, Way]] = {
    "beta": {NLL: "rises", KL: "falls", ACTIVE: "falls"},
    "eta_dec": {
        NLL: "rises", KL: "falls", ACTIVE: "falls",
        "KL of z2 (nats)": "falls", "active units of z2": "falls",
    },
    "beta_2": {"KL of z2 (nats)": "falls", "active units of z2": "falls"},
    "beta_1": {"KL of z1 (nats)": "falls"},
}  # fmt: skip
"""How measures move as a value grows, by claim and theory; of hierarchies nothing is said of the
NLL."""
SLACK = 0.02
"""Of a measure's range over the settings: less is noise of seeds and rows."""
Numbers: TypeAlias = Mapping[str, float]
"""A run's measures by name."""


def likelihood_table(results: Sequence[Result]) -> Part:
    """Set NLL, KL, active units and `kl_active_share` in a table, beside theory's active units."""
    names = list(_numbers(results[0]))
    shown = [n for n in names if n.startswith((NLL, "KL", ACTIVE, "kl_"))]
    shown = [name for name in shown if not name.endswith(BY_THEORY)]
    panels: dict[str, dict[str, figures.Points]] = {name: {} for name in shown}
    records: list[dict[str, Any]] = []
    checks: list[Check] = []
    for grid, settings in by_grid(results).items():
        found = [(s, [_numbers(result) for result in s.results]) for s in settings]
        records += [
            {"varying": grid, "value": s.text or grid, **one} for s, seeds in found for one in seeds
        ]
        for name in shown:
            values = [[one[name] for one in seeds] for _, seeds in found]
            panels[name][grid] = figures.Points.of(_values(grid, settings), values)
        checks += _moves(found)
    checks += _learned_against_fixed(records)
    variables = list(panels[NLL])
    chart = figures.spread(panels, variable=variables[0] if len(variables) == 1 else "setting")
    caption = "NLL, KL and active units; error bars are standard deviations over seeds."
    note = (
        f"NLL on {results[0].measured['nll_rows']:,} rows with "
        f"{results[0].run.evaluation.samples:,} importance samples each. The NLL error is the "
        "standard error over rows; the effective sample size is the median over rows."
    )
    table = Table.over_seeds(records, ["varying", "value"], names)
    return Part({"likelihood": table}, {"likelihood": (chart, caption)}, checks, [note])


def _values(grid: str, settings: Sequence[Setting]) -> list[float] | list[str]:
    """Return the values of a grid over one hyperparameter, or its settings in words."""
    values = [value for setting in settings for value in setting.labels.values()]
    if len(values) == len(settings) and all(isinstance(value, float) for value in values):
        return values
    return [setting.text or grid for setting in settings]


def _numbers(result: Result) -> Numbers:
    measured = result.measured
    levels = measured["levels"]
    found = {
        NLL: measured["nll"],
        "NLL error": measured["nll_error"],
        "effective sample size": measured["effective_sample_size"],
    }
    for number, level in enumerate(levels, start=1):
        of = of_level(number, len(levels))
        found[f"KL{of} (nats)"] = float(np.sum(level["kl"]))
        found[ACTIVE + of] = level["active_units"]
        found[f"kl_active_share{of}"] = level["kl_active_share"]
        if result.theory:
            found[f"{ACTIVE}{of} {BY_THEORY}"] = result.theory["levels"][number - 1]["n_active"]
    return found


def _moves(found: Sequence[tuple[Setting, Sequence[Numbers]]]) -> Iterator[Check]:
    """Hold the way each measure moves along a grid of one value against what is expected."""
    settings = [setting for setting, _ in found]
    (name, *others), measured = list(settings[0].labels) or [""], found[0][1][0]
    if others:
        return
    for measure, expected in EXPECTED.get(name, {}).items():
        if measure not in measured or (measure == NLL and KL not in measured):
            continue
        means = [float(np.mean([one[measure] for one in seeds])) for _, seeds in found]
        counts = measure.startswith(ACTIVE)
        # Without active units neither counts nor KLs mean anything.
        level = 2 if "z2" in measure else 1
        if not (any(means) if counts else measure == NLL or some_active(settings, level)):
            yield Check(None, f"{measure}: no unit is active at any value of {name}.")
            continue
        points = [(s.labels[name], mean) for s, mean in zip(settings, means, strict=True)]
        what = f"The number of {measure}" if counts else measure
        yield monotone(what, name, points, expected, SLACK * float(np.ptp(means)))


def _learned_against_fixed(records: Sequence[Mapping[str, Any]]) -> list[Check]:
    """Compare a learned with a fixed sigma, where both are among the grids."""
    own = {
        kind: [r for r in records if str(r["varying"]).startswith(kind)]
        for kind in ("learned", "fixed")
    }
    if not all(own.values()):
        return []

    def compared(measure: str) -> tuple[float, float, str]:
        learned, fixed = (float(np.mean([r[measure] for r in rs])) for rs in own.values())
        return learned, fixed, f"{learned:.4g} learned, {fixed:.4g} fixed"

    (active, most, counts), (nll, worst, values) = compared(ACTIVE), compared(NLL)
    if not (active or most):
        return [Check(None, "No unit is active, with a learned or a fixed sigma.")]
    return [
        Check(active < most, f"Active units: {counts}; expected: fewer learned."),
        Check(nll < worst, f"NLL (nats): {values}; expected: lower learned."),
    ]
