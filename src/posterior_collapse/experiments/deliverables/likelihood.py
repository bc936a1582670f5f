"""Tables of NLL, KL and active units, with their spread over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from posterior_collapse.experiments import figures
from posterior_collapse.experiments.checks import (
    Check,
    Pair,
    Part,
    Result,
    Setting,
    Way,
    by_grid,
    direction,
    monotone,
    near_count,
    near_kl,
    of_level,
    some_active,
    way_of_training,
)
from posterior_collapse.experiments.deliverables.diagnosed import diagnosed
from posterior_collapse.experiments.tables import BY_THEORY, Table

__all__ = ["likelihood_table"]

NLL, KL, ACTIVE = "NLL (nats)", "KL (nats)", "active units"
EFFECTIVE = "effective sample size"
ENOUGH = 10
"""Effective samples below which an NLL is off by more than about 1/20 nat, always upwards."""
EXPECTED: dict[str, dict[str, Way]] = {
    "beta": {NLL: "rises", KL: "falls", ACTIVE: "falls"},
    "eta_dec": {
        NLL: "rises", KL: "falls", ACTIVE: "falls",
        "KL of z2 (nats)": "falls", "active units of z2": "falls",
    },
    "beta_2": {"KL of z2 (nats)": "falls", "active units of z2": "falls"},
    "beta_1": {"KL of z1 (nats)": "falls"},
}  # fmt: skip
"""How measures move as a value grows, by claim and theory (the NLL where there is no closed form of
it); of hierarchies nothing is said of the NLL. Along eta_enc theory gives one number for all: there
each is held against it."""
SLACK = 0.02
"""Of a measure's range over the settings: less is not seen in a figure (see the document)."""
Numbers: TypeAlias = Mapping[str, float]
"""A run's measures by name."""


def likelihood_table(results: Sequence[Result]) -> Part:
    """Set NLL, KL, active units and `kl_active_share` in a table, beside theory's active units."""
    names = list(_numbers(results[0]))
    records: list[dict[str, Any]] = []
    checks: list[Check] = []
    for grid, settings in by_grid(results).items():
        found = [(s, [_numbers(result) for result in s.results]) for s in settings]
        records += [
            {"varying": grid, "value": s.text or grid, **one} for s, seeds in found for one in seeds
        ]
        checks += _moves(grid, found)
        checks += _near_theory(grid, found)
    checks += _learned_against_fixed(records)
    note = (
        f"NLL on {results[0].measured['nll_rows']:,} rows with "
        f"{results[0].run.evaluation.samples:,} importance samples each. The NLL error is the "
        "standard error over rows; the effective sample size is the median over rows. An estimate "
        "of the likelihood by few effective samples is too low on average: where they are fewer "
        f"than {ENOUGH:g}, the NLL is called an upper bound. By theory it is that of the linear "
        "optimum, exact, on the training rows."
    )
    table = _bounds_named(Table.over_seeds(records, ["varying", "value"], names))
    notes = [note, *diagnosed(results, results[0].depth)]
    return Part({"likelihood": table}, _charts(results, names), checks, notes)


def _charts(
    results: Sequence[Result], names: Sequence[str]
) -> dict[str, tuple[figures.Chart, str]]:
    """Draw a column per variable; nothing where a table of a few words says as much."""
    shown = [n for n in names if n.startswith((NLL, "KL", ACTIVE)) and not n.endswith(BY_THEORY)]
    variables: dict[str, dict[str, dict[str, figures.Points]]] = {}
    for grid, settings in by_grid(results).items():
        if len(settings[0].labels) != 1:
            continue
        (variable,) = settings[0].labels
        _, own, of_runs = grid.partition(", ")
        found = [[_numbers(result) for result in setting.results] for setting in settings]
        at = _values(grid, settings)
        number = isinstance(at[0], float)
        panels = variables.setdefault(variable if number else grid, {name: {} for name in shown})
        for name in shown:
            lines = panels[name]
            lines[of_runs if own else AS_PUBLISHED] = figures.Points.of(
                at, [[one[name] for one in seeds] for seeds in found]
            )
            expected = [seeds[0].get(f"{name} {BY_THEORY}") for seeds in found]
            if None not in expected and number:
                lines[figures.THEORY] = figures.Points(at, [float(e or 0) for e in expected], [])
    if not variables:
        return {}
    several = len({result.seed for result in results}) > 1
    caption = (
        "NLL, KL and active units, a column per variable"
        f"{'; error bars are standard deviations over seeds' if several else ''}. Dotted: the "
        "linear optimum (its NLL on training rows)."
    )
    return {"likelihood": (figures.columns(variables, own=[NLL]), caption)}


AS_PUBLISHED = "no warm-up"


def _bounds_named(table: Table) -> Table:
    """Say after the effective sample size what the NLL is."""
    place = list(table.columns).index(EFFECTIVE) + 1
    rows = []
    for row in table.rows:
        bound = row[place - 1]["mean"] < ENOUGH
        rows.append([*row[:place], "upper bound" if bound else "estimate", *row[place:]])
    return Table([*table.columns[:place], "the NLL is an", *table.columns[place:]], rows)


def _near_theory(grid: str, found: Sequence[tuple[Setting, Sequence[Numbers]]]) -> Iterator[Check]:
    """Hold KL and active units of each level against the linear optimum."""
    if not all(setting.has_theory for setting, _ in found):
        return

    def pairs(name: str) -> list[Pair]:
        return [
            Pair(
                s.at, float(np.mean([one[name] for one in seeds])), seeds[0][f"{name} {BY_THEORY}"]
            )
            for s, seeds in found
        ]

    depth = found[0][0].first.depth
    for of in (of_level(number, depth) for number in range(1, depth + 1)):
        yield near_kl(f"KL{of}, {grid}", pairs(f"KL{of} (nats)"))
        yield near_count(f"Active units{of}, {grid}", pairs(f"{ACTIVE}{of}"))


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
        EFFECTIVE: measured["effective_sample_size"],
    }
    if "nll" in result.theory:
        found[f"{NLL} {BY_THEORY}"] = result.theory["nll"]
    for number, level in enumerate(levels, start=1):
        of = of_level(number, len(levels))
        found[f"KL{of} (nats)"] = float(np.sum(level["kl"]))
        if "kl" in result.theory:
            found[f"KL{of} (nats) {BY_THEORY}"] = result.theory["levels"][number - 1]["kl"]
        found[ACTIVE + of] = level["active_units"]
        found[f"kl_active_share{of}"] = level["kl_active_share"]
        if result.theory:
            found[f"{ACTIVE}{of} {BY_THEORY}"] = result.theory["levels"][number - 1]["n_active"]
    return found


def _moves(grid: str, found: Sequence[tuple[Setting, Sequence[Numbers]]]) -> Iterator[Check]:
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
        if measure == NLL:
            expected = _way_of_the_optimum(settings) or expected
        points = [(s.labels[name], mean) for s, mean in zip(settings, means, strict=True)]
        slack = SLACK * float(np.ptp(means))
        what = (f"The number of {measure}" if counts else measure) + way_of_training(grid)
        yield monotone(what, name, points, expected, slack)


def _way_of_the_optimum(settings: Sequence[Setting]) -> Way | None:
    """Return which way the NLL of the linear optimum goes: in beta it is least at beta = 1."""
    if not all("nll" in setting.first.theory for setting in settings):
        return None
    values = [setting.first.theory["nll"] for setting in settings]
    return direction(values, SLACK * float(np.ptp(values)))


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
