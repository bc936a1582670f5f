"""Tables of NLL, KL and active units, beside theory and beside what the published scripts print."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from posterior_collapse.diagnosis.levels import gaussian_kl
from posterior_collapse.errors import of_level
from posterior_collapse.experiments.checks import (
    Check,
    Pair,
    Part,
    Result,
    Setting,
    by_grid,
    near_count,
    near_kl,
    rounded,
    some_active,
    way_of_training,
)
from posterior_collapse.experiments.deliverables.explained import (
    BOUNDED,
    bounded,
    diagnosed,
    within_bound,
)
from posterior_collapse.experiments.figures import Chart, measures
from posterior_collapse.experiments.tables import BY_THEORY, Table
from posterior_collapse.experiments.ways import SLACK, Way, least, monotone

NLL, KL, ACTIVE = "NLL (nats)", "KL (nats)", "active units"
EFFECTIVE = "effective sample size"
ENOUGH = 10
"""Effective samples below which an NLL is too high by an amount that is not known."""
EXCESS = 2.0
"""Nats by which an NLL may be too high, times its effective samples: half a nat for weights that
vary little, 2.2 were found of log-normal ones that leave 16 of 2,000 samples, 1.5 from 34 on."""
EXPECTED: dict[str, dict[str, Way]] = {
    "beta": {NLL: "rises", KL: "falls", ACTIVE: "falls"},
    "eta_dec": {
        NLL: "rises", KL: "falls", ACTIVE: "falls",
        "KL of z2 (nats)": "falls", "active units of z2": "falls",
    },
    "beta_2": {"KL of z2 (nats)": "falls", "active units of z2": "falls"},
    "beta_1": {"KL of z1 (nats)": "falls"},
}  # fmt: skip
"""How measures move as a value grows, by claim and theory (the NLL over beta only where there is no
closed form of it, else it is least where that is); of hierarchies nothing is said of the NLL. Along
eta_enc theory gives one number for all: there each is held against it."""
Numbers: TypeAlias = Mapping[str, float]
"""A run's measures by name."""
AS_PUBLISHED = "no warm-up"


class Measured(NamedTuple):
    """A setting with the measures of its seeds."""

    setting: Setting
    seeds: Sequence[Numbers]

    def mean(self, name: str) -> float:
        """Return a measure, over the seeds."""
        return float(np.mean([one[name] for one in self.seeds]))

    def pair(self, name: str) -> Pair:
        """Return a measure beside what theory says of it."""
        return Pair(self.setting.at, self.mean(name), self.seeds[0][f"{name} {BY_THEORY}"])

    @property
    def is_bound(self) -> bool:
        """Whether the NLL is an upper bound only.

        Example:
            >>> one = {EFFECTIVE: 51, "NLL error": 0.04}
            >>> few, high = one | {EFFECTIVE: 9.9}, one | {EFFECTIVE: 13, "NLL error": 0.15}
            >>> [Measured(None, [numbers]).is_bound for numbers in (one, few, high)]
            [False, True, True]
        """
        samples = self.mean(EFFECTIVE)
        return samples < ENOUGH or EXCESS / samples > self.mean("NLL error")


Found: TypeAlias = Sequence[Measured]
"""The settings of a grid."""


def likelihood_table(results: Sequence[Result]) -> Part:
    """Set NLL, KL, active units and `kl_active_share` in a table, beside theory's active units."""
    names = list(_numbers(results[0]))
    records: list[dict[str, Any]] = []
    checks: list[Check] = []
    grids: dict[str, Found] = {
        grid: [Measured(setting, [_numbers(r) for r in setting.results]) for setting in settings]
        for grid, settings in by_grid(results).items()
    }
    for grid, found in grids.items():
        records += [{"varying": grid, "value": s.at, **one} for s, seeds in found for one in seeds]
        checks += _moves(grid, found)
        checks += _near_theory(grid, found)
    checks += _learned_against_fixed(grids)
    note = (
        f"NLL on {results[0].measured['nll_rows']:,} rows with "
        f"{results[0].run.evaluation.samples:,} importance samples each. The NLL error is the "
        "standard error over rows; the effective sample size is the median over rows. An NLL from "
        f"n effective samples is too high, by up to about {EXCESS:g}/n nats: it is called an upper "
        f"bound where that exceeds its error, or n is below {ENOUGH:g}. Theory's NLL is that of "
        "the linear optimum, exact, on the training rows."
    )
    table = Table.over_seeds(records, ["varying", "value"], names)
    each = (one for found in grids.values() for one in found)
    bounds = ["upper bound" if one.is_bound else "estimate" for one in each]
    table = table.beside("the NLL is an", bounds, after=EFFECTIVE)
    depth = results[0].depth
    notes = [note, *_without_units(grids), *within_bound(results), *diagnosed(results, depth)]
    several = len({result.seed for result in results}) > 1
    return Part({"likelihood": table}, _charts(grids, names, several), checks, notes)


def _charts(
    grids: Mapping[str, Found], names: Sequence[str], several: bool
) -> dict[str, tuple[Chart, str]]:
    """Draw a column per variable; nothing where a table of a few words says as much.

    Settings of a grid of their own stand beside those that are named by words.
    """
    shown = [n for n in names if n.startswith((NLL, "KL", ACTIVE)) and not n.endswith(BY_THEORY)]
    alone = [one for found in grids.values() if not found[0][0].labels for one in found]
    plain = AS_PUBLISHED if any(", " in grid for grid in grids) else "trained"
    variables: dict[str, dict[str, dict[str, measures.Points]]] = {}
    for grid, found in grids.items():
        if len(found[0][0].labels) != 1:
            continue
        (variable,) = found[0][0].labels
        at: list[Any] = [setting.labels[variable] for setting, _ in found]
        number = all(isinstance(value, float) for value in at)
        if not number:
            found, alone = [*found, *alone], []
            at = [setting.at.replace(" pairs: ", ": ") for setting, _ in found]
        _, _, of_runs = grid.partition(", ")
        panels = variables.setdefault(variable if number else grid, {name: {} for name in shown})
        for name, lines in panels.items():
            points = measures.Points.of(at, [[one[name] for one in seeds] for _, seeds in found])
            if name == NLL:
                points = points._replace(bounds=[one.is_bound for one in found])
            lines[of_runs or plain] = points
            expected = [seeds[0].get(f"{name} {BY_THEORY}") for _, seeds in found]
            if None not in expected:
                lines[measures.THEORY] = measures.Points(at, [float(e or 0) for e in expected], [])
    if not variables:
        return {}
    drawn = [points for of in variables.values() for line in of.values() for points in line.items()]
    caption = (
        "NLL, KL and active units, a column per variable"
        f"{'; error bars are standard deviations over seeds' if several else ''}."
    )
    if any(any(points.bounds) for _, points in drawn):
        caption += " An arrow down: the NLL is an upper bound."
    theory = [points for label, points in drawn if label == measures.THEORY]
    if theory:
        mark = "Dashes" if isinstance(theory[0].settings[0], str) else "Dotted"
        caption += f" {mark}: the linear optimum (its NLL on training rows)."
    return {"likelihood": (measures.columns(variables, own=[NLL]), caption)}


def _without_units(grids: Mapping[str, Found]) -> Iterator[str]:
    """Say why seeds do not tell where the NLL is least: units are dead at the beta of theory."""
    checked = [(f, check) for g, f in grids.items() if (check := _least_nll(g, f)) is not None]
    shown = [_kept_at_best(found) for found, check in checked if check.agrees]
    for found, check in checked:
        kept, of, beta = _kept_at_best(found)
        if check.agrees is None and kept < of / 2:
            carry = "carries" if kept == 1 else "carry"
            yield (
                f"{check.text.partition(' is by theory')[0]} cannot tell where it is least: at "
                f"beta = {beta:g}, the best by theory, only {kept:.3g} of {of} units {carry} "
                "information on the data, so what is measured there is not the optimum."
            ) + (f" Runs in which {shown[0][0]:.3g} do show it." if shown else "")


def _kept_at_best(found: Found) -> tuple[float, int, float]:
    """Return how many units live where the NLL is least by theory, of how many, and where."""
    best = min((setting for setting, _ in found), key=lambda s: float(s.first.theory["nll"]))
    kept = best.mean(lambda result: result.active(1))
    return kept, best.first.active_by_theory(1) or 0, float(best.labels["beta"])


def _near_theory(grid: str, found: Found) -> Iterator[Check]:
    """Hold KL and active units of each level against the linear optimum."""
    if not all(setting.has_theory for setting, _ in found):
        return
    depth = found[0].setting.first.depth
    for of in (of_level(number, depth) for number in range(1, depth + 1)):
        kls = [one.pair(f"KL{of} (nats)") for one in found]
        fixed = _of_fixed_stds(found[0].setting.first)
        beyond = f" beyond the {fixed:.3g} nats of fixed stds" if fixed else ""
        kls = [Pair(at, kl - fixed, theory - fixed) for at, kl, theory in kls]
        yield near_kl(f"KL{of}{beyond}, {grid}", kls)
        yield near_count(f"Active units{of}, {grid}", [one.pair(ACTIVE + of) for one in found])


def _of_fixed_stds(result: Result) -> float:
    """Return the KL that fixed stds have, whatever the units carry; 0 where it may go to 0."""
    if result.depth > 1 or isinstance(result.run.spec.sigma_levels[0], str):
        return 0.0
    (sigma,), (units,) = result.run.spec.sigma_levels, result.run.spec.dims
    stds, zero = np.broadcast_to(sigma, units), np.zeros(())
    return float(gaussian_kl(zero, stds, zero, np.array(result.run.spec.eta_enc)).sum())


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
            kl = rounded(result.theory["levels"][number - 1]["kl"])
            found[f"KL{of} (nats) {BY_THEORY}"] = kl
            limit = bounded(result) if number == 2 else None
            if limit is not None:
                found[f"KL{of} (nats) {BOUNDED}"] = limit[1]
        found[ACTIVE + of] = level["active_units"]
        found[f"kl_active_share{of}"] = level["kl_active_share"]
        if result.theory:
            found[f"{ACTIVE}{of} {BY_THEORY}"] = result.theory["levels"][number - 1]["n_active"]
    return found


def _moves(grid: str, found: Found) -> Iterator[Check]:
    """Hold the way each measure moves along a grid of one value against what is expected."""
    settings, measured = [setting for setting, _ in found], found[0].seeds[0]
    if len(settings[0].labels) != 1:
        return
    (name,) = settings[0].labels
    for measure, expected in EXPECTED.get(name, {}).items():
        if measure not in measured or (measure == NLL and KL not in measured):
            continue
        means = [one.mean(measure) for one in found]
        counts = measure.startswith(ACTIVE)
        # Without active units neither counts nor KLs mean anything.
        level = 2 if "z2" in measure else 1
        if not (any(means) if counts else measure == NLL or some_active(settings, level)):
            yield Check(None, f"{measure}: no unit is active at any value of {name}.")
            continue
        if measure == NLL and (check := _least_nll(grid, found)) is not None:
            yield check
            continue
        points = [(s.labels[name], mean) for s, mean in zip(settings, means, strict=True)]
        slack = SLACK * float(np.ptp(means))
        what = (f"The number of {measure}" if counts else measure) + way_of_training(grid)
        yield monotone(what, name, points, expected, slack)


def _least_nll(grid: str, found: Found) -> Check | None:
    """Hold where the NLL is least over beta against theory; None where there is no closed form."""
    settings = [setting for setting, _ in found]
    if list(settings[0].labels) != ["beta"] or not all("nll" in s.first.theory for s in settings):
        return None
    best = min(settings, key=lambda setting: setting.first.theory["nll"])
    at = {setting.labels["beta"]: setting for setting in settings}
    return _nll_is_least(f"{NLL}{way_of_training(grid)}", "beta", at, best.labels["beta"])


def _nll_is_least(what: str, name: str, settings: Mapping[Any, Setting], expected: Any) -> Check:
    """Say whether the NLL is least at a setting, as far as seeds and samples tell."""
    too_high = {
        at: EXCESS / s.mean(lambda r: float(r.measured["effective_sample_size"]))
        for at, s in settings.items()
    }
    nlls = _by_seed(settings, lambda r: float(r.measured["nll"]))
    return least(what, name, nlls, expected, too_high)


def _by_seed(
    settings: Mapping[Any, Setting], measure: Callable[[Result], float]
) -> dict[Any, list[float]]:
    """Return a measure of the seeds that all settings have, in the same order."""
    found = {at: {r.seed: measure(r) for r in s.results} for at, s in settings.items()}
    first, *others = found.values()
    common = [seed for seed in first if all(seed in of for of in others)]
    return {at: [of[seed] for seed in common] for at, of in found.items()}


def _learned_against_fixed(grids: Mapping[str, Found]) -> list[Check]:
    """Compare a learned with a fixed sigma, where both are among the grids."""
    own = {
        kind: found[0]
        for kind in ("learned", "fixed")
        for grid, found in grids.items()
        if grid.startswith(kind)
    }
    if len(own) < 2:
        return []
    active, most = (one.mean(ACTIVE) for one in own.values())
    if not (active or most):
        return [Check(None, "No unit is active, with a learned or a fixed sigma.")]
    settings = {kind: setting for kind, (setting, _) in own.items()}
    counts = _by_seed(settings, lambda r: float(r.measured["levels"][0]["active_units"]))
    fewer = least(ACTIVE, "Sigma", counts, "learned").agrees
    if len(counts["learned"]) > 1 and counts["learned"] == counts["fixed"]:
        fewer = False  # as many in every seed
    text = f"Active units: {active:.4g} learned, {most:.4g} fixed; expected: fewer learned"
    text += " (not sure)." if fewer is None else "."
    return [Check(fewer, text), _nll_is_least(NLL, "Sigma", settings, "learned")]


class Quote(NamedTuple):
    """What a script printed of one run, on a CPU, with its seed.

    Attributes:
        note: How it was run, where that differs from the row.
    """

    network: str
    labels: Mapping[str, Any]
    numbers: Mapping[str, float]
    note: str = ""


QUOTES = (
    Quote("cvae-relu", {"beta": 0.5}, {"NLL": 554.36, "KL": 7.15, "kl_active_share": 0.495}),
    Quote("cvae-relu", {"beta": 0.5}, {"KL": 5.67, "kl_active_share": 0.25}, "its seed 2"),
    Quote("cvae-relu", {"eta_dec": 0.25}, {"NLL": -147.0, "KL": 22.9, "kl_active_share": 0.80}),
    Quote("cvae-relu", {"name": "pairs:1/2"}, {"KL": 66.5, "kl_active_share": 0.509}),
    Quote("linear", {"beta": 1.0}, {"loss": 554.102, "KL": 1.511}),
    Quote(
        "linear", {"beta_2": 2.0}, {"loss": 257.81, "KL of z1": 5.04, "KL of z2": 5.54},
        "20 epochs",
    ),
)  # fmt: skip
"""The scripts of networks minimise the loss of the convention `reference`."""


def published_numbers(results: Sequence[Result]) -> Part:
    """Set printed numbers beside ours; nothing where the loss is another, or warmed up to."""
    records = []
    for grid, settings in by_grid(results).items():
        for setting in settings:
            run, network = setting.first.run, setting.first.run.architecture.name
            same_loss = network == "linear" or run.settings.convention == "reference"
            if run.method != "minibatch" or run.settings.warm_up or not same_loss:
                continue
            for quote in QUOTES:
                if (network, setting.labels) == (quote.network, quote.labels):
                    records += [
                        {
                            "varying": grid,
                            "value": setting.at + (f" ({quote.note})" if quote.note else ""),
                            "measure": name,
                            "published script": printed,
                            "here": found,
                            f"here {BY_THEORY}": theory,
                        }
                        for name, printed in quote.numbers.items()
                        for result in setting.results
                        for found, theory in [_beside_theory(name, result)]
                    ]
    if not records:
        return Part()
    by = ["varying", "value", "measure", "published script"]
    return Part({"published": Table.over_seeds(records, by, ["here", f"here {BY_THEORY}"])})


def _beside_theory(name: str, result: Result) -> tuple[float, float | None]:
    """Return what was measured and what theory says of it, of a linear model without noise."""
    linear = result.run.architecture.name == "linear"
    measured, theory = result.exact if linear else result.measured, result.theory
    if name == "kl_active_share":
        return float(measured["levels"][0][name]), None
    if name.startswith("KL"):
        level = int(name[-1]) - 1 if result.depth > 1 else 0
        kl = float(np.sum(measured["levels"][level]["kl"]))
        return kl, float(theory["levels"][level]["kl"]) if "levels" in theory else None
    return float(measured[name.lower()]), theory.get(name.lower())
