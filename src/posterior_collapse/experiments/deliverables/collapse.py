"""How much collapses: curves over eps, the order of the digits, and the onset of total collapse."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from posterior_collapse.arrays import Float
from posterior_collapse.errors import count_of
from posterior_collapse.experiments.checks import (
    Check,
    Pair,
    Part,
    Result,
    Setting,
    by_grid,
    missed,
    near_count,
    near_kl,
    near_onset,
    some_active,
    way_of_training,
)
from posterior_collapse.experiments.deliverables.explained import (
    BOUNDED,
    CONCLUDED,
    beside_theory,
    bounded,
    concluded,
    diagnosed,
)
from posterior_collapse.experiments.figures import Panels, cells, lines
from posterior_collapse.experiments.measuring import DELTA
from posterior_collapse.experiments.tables import BY_THEORY, Table
from posterior_collapse.experiments.ways import Way, monotone

EXPECTED: dict[str, Way] = {
    "beta": "rises", "eta_dec": "rises", "beta_2": "rises", "beta_1": "falls",
    "the correlation of x and y": "rises",
}  # fmt: skip
"""How the collapse level of the top level moves as a value grows, by claim and theory."""
CORRELATIONS = {"random": 0.0, "1/8": 0.125, "1/4": 0.25, "1/2": 0.5, "identical": 1.0}
LEAST = 1e-4
"""Nats below which a KL by theory counts as none: there the curves' axis begins."""
THEORY_SAID = "Legends: the share of units that have no KL by theory. "
SLACK = 0.01
"""Change of the collapse level that is no trend: a line in a figure is as thick."""


def collapse_curves(results: Sequence[Result]) -> Part:
    """Draw a curve per value, a panel per grid; check that collapse grows as claimed."""
    records: list[dict[str, Any]] = []
    shown: dict[str, dict[str, Sequence[Result]]] = {}
    checks, conclusions = [], []
    several = len({result.seed for result in results}) > 1
    top = results[0].depth
    unit = f"z{top}" if top > 1 else "z"
    active = f"active units of {unit}"
    for grid, settings in by_grid(results).items():
        title, _, name = grid.partition(": ")  # single settings of one kind share a panel
        title = f"varying {grid}" if len(settings) > 1 else title
        shown.setdefault(title, {}).update((name or s.at, s.results) for s in settings)
        conclusions += [concluded(setting.results) for setting in settings]
        for setting in settings:
            limit = bounded(setting.first)
            records += [
                {
                    "varying": grid,
                    "value": setting.at,
                    **_levels(result),
                    active: result.active(top),
                    f"{active} {BY_THEORY}": result.active_by_theory(top),
                    **({} if limit is None else {f"{active} {BOUNDED}": limit[0]}),
                    f"t of {unit}": _signal(result, top),
                }
                for result in setting.results
            ]
        if all(setting.has_theory for setting in settings):
            counts = [setting.active(top) for setting in settings]
            checks.append(near_count(f"Active units of {unit}, {grid}", counts))
        varied = list(settings[0].labels)
        if len(varied) == 1 and varied[0] in EXPECTED:
            points = [(s.labels[varied[0]], s.mean(_collapse_level)) for s in settings]
            checks.append(_grows(varied[0], points, settings, way_of_training(grid)))
    measures = list(records[0])[2:]
    theory = {
        title: {at: dead for at, seeds in each.items() if (dead := _dead(seeds[0])) is not None}
        for title, each in shown.items()
    }
    caption = (
        f"Share of (eps, {DELTA:g})-collapsed units of {unit} against eps, one curve per value"
        f"{', the mean over seeds between the least and the most of them' if several else ''}. "
        f"{THEORY_SAID if any(theory.values()) else ''}{lines.APART_SAID}"
    )

    def drawn(of: Callable[[Sequence[Result]], tuple[Float, Float]]) -> Panels:
        return {
            title: {at: of(seeds) for at, seeds in each.items()} for title, each in shown.items()
        }

    bands = drawn(_band) if several else None
    chart = lines.collapse_curves(drawn(_curve), delta=DELTA, bands=bands, theory=theory)
    table = Table.over_seeds(records, ["varying", "value"], measures)
    if any(conclusions):
        table = table.beside(CONCLUDED, conclusions)
    return Part(
        {"collapse": table},
        {"collapse-curves": (chart, caption)},
        checks,
        [
            "The collapse level is the mean of the curve over log eps, from 0 to 1.",
            *beside_theory(results, top),
            *diagnosed(results, top),
        ],
    )


def _signal(result: Result, level: int) -> float | None:
    """Return the certificate's signal: above 1 one more unit would pay."""
    found = result.measured.get("signal") or ()
    return float(found[level - 1]) if len(found) >= level else None


def _levels(result: Result) -> dict[str, float]:
    """Return the collapse level on each split that was measured."""
    arrays, top = result.record.arrays, result.depth
    found = {"collapse level": _collapse_level(result)}
    for split in ("train", "test"):
        if f"{split}_collapse_{top}" in arrays:
            found[f"on {split}ing rows"] = float(np.mean(arrays[f"{split}_collapse_{top}"]))
    return found


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
    notes += _by_width(results)
    return Part(checks=[_grows("the correlation of x and y", points, settings)], notes=notes)


def _by_width(results: Sequence[Result]) -> Iterator[str]:
    """Say how many units random pairs keep with more hidden units, where they were trained."""
    random = [result for result in results if result.run.data.name == "pairs:random"]
    widths = sorted({result.run.architecture.hidden[0] for result in random})
    if len(widths) < 2:
        return
    found = [
        Setting([r for r in random if r.run.architecture.hidden[0] == width]) for width in widths
    ]
    kept = [setting.mean(lambda r: r.active(1)) for setting in found]
    losses = [setting.mean(lambda r: r.measured["loss"]) for setting in found]
    kls = [
        setting.mean(lambda r: float(np.sum(r.measured["levels"][0]["kl"]))) for setting in found
    ]
    falling = all(max(np.diff(values)) < 0 for values in (losses, kls))
    left = [setting.mean(lambda r: _signal(r, 1) or 0) for setting in found]
    theory = random[0].theory
    modes = np.exp(2 * np.sort(theory["levels"][0]["unit_kl"])[::-1])  # 1/2 log t nats each
    modes = np.append(modes, 0.0)  # with all units in use nothing is left
    seeds = [len(s.results) for s in found]
    counts = ", ".join(count_of(count, "seed") for count in seeds)
    yield (
        f"Random pairs keep {_listed(kept, '.3g')} units that carry information with "
        f"{', '.join(map(str, widths))} hidden units ({counts}), "
        f"of {random[0].active_by_theory(1)} by theory. A network can memorise pairs, y given x"
        f"{', the more of them the wider it is' if falling else ''}; what it has memorised of y, "
        f"units need not carry: their KL is {_listed(kls, '.3g')} nats. The network's loss is "
        f"{_listed(losses, '.3g')} nats, where the linear optimum, which cannot, has "
        f"{theory['loss']:.4g}, and the t that is left is {_listed(left, '.2g')}, where a linear "
        f"model with as many units would leave {_listed([modes[int(k)] for k in kept], '.2g')}."
    )


def _listed(values: Sequence[float], form: str) -> str:
    return ", ".join(f"{value:{form}}" for value in values)


def _shares(results: Sequence[Result]) -> Float:
    """Return the share of collapsed units of the top level by eps, a row per result."""
    return np.array([result.record.arrays[f"collapse_{result.depth}"] for result in results])


def _curve(seeds: Sequence[Result]) -> tuple[Float, Float]:
    """Return eps and the shares, averaged over seeds."""
    return seeds[0].record.arrays["epsilon"], _shares(seeds).mean(0)


def _band(seeds: Sequence[Result]) -> tuple[Float, Float]:
    """Return the least and the most of the shares over seeds."""
    return _shares(seeds).min(0), _shares(seeds).max(0)


def _dead(result: Result) -> float | None:
    """Return the share of units of the top level without KL by theory; None where it has none."""
    level = result.theory["levels"][-1] if result.theory else {}
    kls = level.get("unit_kl")
    return None if kls is None else float(np.mean(np.asarray(kls) < LEAST))


def _collapse_level(result: Result) -> float:
    """Return the mean of the collapse curve over log eps, 0 (nothing collapses) to 1."""
    return float(_shares([result])[0].mean())


def _grows(
    name: str, points: Sequence[tuple[float, float]], settings: Sequence[Setting], how: str = ""
) -> Check:
    if not some_active(settings, settings[0].first.depth):
        return Check(None, f"No unit is active at any value of {name}: nothing left to collapse.")
    return monotone(f"The collapse level{how}", name, points, EXPECTED[name], SLACK)


ORDERED = 0.6
"""Rank correlation from which the digits count as ordered: p = 0.05 for ten of them."""


def digits(results: Sequence[Result]) -> Part:
    """Draw each digit's collapse curve and spectrum; check that theory's KL orders the digits."""
    curves, points = {}, {}
    records: list[dict[str, Any]] = []
    checks: list[Check] = []
    dead: list[str] = []
    by_kl = sorted(results, key=lambda result: -result.theory["kl"])
    ranks = {result.labels["label"]: rank for rank, result in enumerate(by_kl)}
    grids = {
        grid: sorted(settings, key=lambda setting: ranks[setting.labels["label"]])
        for grid, settings in by_grid(results).items()
    }
    for grid, settings in grids.items():
        runs = [setting.first for setting in settings]
        curves[grid] = {s.text: _curve([s.first]) for s in settings}
        theory = [r.theory["kl"] for r in runs]
        points[grid] = (theory, [r.measured["kl"] for r in runs])
        records += [
            {
                "architecture": grid,
                "digit": r.labels["label"],
                "active units by theory": r.active_by_theory(1),
                "KL by theory (nats)": r.theory["kl"],
                "active units": r.active(1),
                "KL (nats)": r.measured["kl"],
                "KL on training rows (nats)": r.measured.get("on_train", {}).get("kl"),
                **_levels(r),
            }
            for r in runs
        ]
        known = some_active(settings, 1)
        checks.append(_ordered(f"{grid}, test rows", theory, points[grid][1], known))
        if all("on_train" in r.measured for r in runs):  # as the scripts do
            kls = [r.measured["on_train"]["kl"] for r in runs]
            checks.append(_ordered(f"{grid}, training rows", theory, kls, known))
        dead += _wholly_dead(grid, runs)
        pairs = [Pair(s.text, s.first.measured["kl"], s.first.theory["kl"]) for s in settings]
        checks.append(near_kl(f"KL, {grid}", pairs))
    shown = next(iter(grids.values()))
    spectra = lines.spectra(
        {s.text: s.first.theory["spectrum"] for s in shown},
        threshold=shown[0].first.theory["levels"][0]["threshold"][0],
        name=f"beta * eta_dec^2{' / 2' * shown[0].first.halved}",
    )
    names = [str(s.labels["label"]) for s in shown]
    x = "KL of the linear optimum (nats)"
    rho = {
        grid: f"rank correlation {spearmanr(*line).statistic:.2f}" for grid, line in points.items()
    }
    order = lines.scatter(points, x=x, y="KL (nats)", names=names, notes=rho)
    charts = {
        "collapse-curves": (
            lines.collapse_curves(curves, delta=DELTA),
            f"Share of (eps, {DELTA:g})-collapsed units against eps, a curve per digit, in the "
            f"order of theory's KL. {lines.APART_SAID}",
        ),
        "spectra": (
            spectra,
            "Eigenvalues of each digit's residual covariance E, and the threshold of collapse.",
        ),
        "order": (
            order,
            "KL of each digit on test rows against that of its linear optimum. Dotted: the same.",
        ),
    }
    note = (
        "Digits are ordered by KL: a collapse level counts units and saturates where a network "
        "keeps as many of every digit."
    )
    notes = [note, *dead, *diagnosed(results, 1, apart=True)]
    return Part({"digits": Table.of(records)}, charts, checks, notes)


def _ordered(what: str, expected: Sequence[float], kls: Sequence[float], active: bool) -> Check:
    if not active or np.ptp(expected) == 0 or np.ptp(kls) == 0:
        return Check(None, f"{what}: the digits cannot be told apart, in theory or as trained.")
    found = float(spearmanr(expected, kls).statistic)
    return Check(
        found >= ORDERED,
        f"{what}: the rank correlation of the digits' KL with theory's is {found:.2f}; expected: "
        f"{ORDERED:g} or more.",
    )


def _wholly_dead(grid: str, runs: Sequence[Result]) -> Iterator[str]:
    """Say which digits have no unit where theory keeps some, and how the others are ordered."""
    dead = [r for r in runs if not r.active(1) and r.active_by_theory(1)]
    alive = [r for r in runs if r not in dead]
    if dead and len(alive) > 2:
        digits = " and ".join(str(r.labels["label"]) for r in dead)
        signals = [_signal(r, 1) or math.nan for r in dead]
        failed = "training failed there, and " * all(signal > 1 for signal in signals)
        kls = [r.theory["kl"] for r in alive], [r.measured["kl"] for r in alive]
        yield (
            f"{grid}: no unit is alive on the digits {digits}, where t is "
            f"{' and '.join(f'{signal:.2g}' for signal in signals)}: {failed}their KL of 0 counts "
            f"in the rank correlation. That of the other {len(alive)} digits is "
            f"{spearmanr(*kls).statistic:.2f} (test rows)."
        )


def onset(results: Sequence[Result]) -> Part:
    """Draw the phase diagram; state the error of the predicted threshold."""
    grids = {
        name: {(s.labels["beta"], s.labels["eta_dec"]): s for s in settings}
        for name, settings in by_grid(results).items()
    }
    places = [place for at in grids.values() for place in at]
    betas, etas = (sorted(set(values)) for values in zip(*places, strict=True))
    records, checks = [], []
    active, theory, trained = {}, {}, {}
    for name, at in grids.items():
        active[name] = [
            [at[b, e].mean(lambda r: r.active(1)) if (b, e) in at else math.nan for e in etas]
            for b in betas
        ]
        theory[name] = [_predicted(next(iter(at.values())).first, eta) for eta in etas]
        trained[name] = [math.nan] * len(etas)
        for place, eta in enumerate(etas):
            if column := [at[beta, eta] for beta in betas if (beta, eta) in at]:
                trained[name][place], record, check = _onset(name, eta, column)
                records.append(record)
                checks.append(check)
    chart = cells.phase(betas, etas, active, theory, trained)
    seeds = {name: max(len(s.results) for s in at.values()) for name, at in grids.items()}
    counted = ", ".join(f"{name}: {count_of(count, 'seed')}" for name, count in seeds.items())
    caption = (
        f"Active units of trained VAEs over beta and eta_dec, means over seeds ({counted}), and "
        "the onset of total collapse by linear theory."
    )
    note = (
        "Total collapse begins between the last beta at which a seed has active units and the "
        "first from which on it has none; of several seeds, the least and the greatest are given. "
        "So the error is only known to lie between these two. Betas are 12% apart: an error of 5 "
        "to 10%, as X3a finds with finer betas, may not show. (There the majority of runs "
        "decides.) Only beta * eta_dec^2 matters where the decoder is Gaussian: other eta_dec try "
        "other betas in the same experiment, and are no further evidence."
    )
    return Part({"onset": Table.of(records)}, {"phase": (chart, caption)}, checks, [note])


def _step(column: Sequence[Result]) -> tuple[float, float, str]:
    """Return where the units of one seed die, betas ascending: all that is dead has to stay dead.

    Returns:
        The largest beta with active units; the smallest from which on there are none; what is
        concluded of the run there. NaN and "" where there is no such beta.
    """
    betas = [r.labels["beta"] for r in column]
    alive = max((number for number, r in enumerate(column, 1) if r.active(1)), default=0)
    last = betas[alive - 1] if alive else math.nan
    if alive == len(column):
        return last, math.nan, ""
    return last, betas[alive], str(column[alive].measured["conclusion"])


def _by_seed(column: Sequence[Setting]) -> list[list[Result]]:
    """Return the runs of each seed, betas ascending, of those seeds that have most."""
    seeds: dict[int, list[Result]] = {}
    for setting in column:
        for result in setting.results:
            seeds.setdefault(result.seed, []).append(result)
    most = max(map(len, seeds.values()))
    return [runs for runs in seeds.values() if len(runs) == most]


def _onset(name: str, eta: float, column: Sequence[Setting]) -> tuple[float, dict[str, Any], Check]:
    """Find between which betas a kind of model collapses wholly, at one eta_dec.

    The column has settings of ascending beta; seeds that lack some do not count. Returned are the
    middle of the step (geometric, over seeds; NaN where units live at no beta or at all), and
    record and check of the bracket, the widest over the seeds.
    """
    theory = _predicted(column[0].first, eta)
    steps = [_step(runs) for runs in _by_seed(column)]
    lasts, firsts, conclusions = zip(*steps, strict=True)
    last, first = float(np.min(lasts)), float(np.max(firsts))  # NaN where any is
    middles = np.sqrt(np.multiply(lasts, firsts))
    beta = float(np.exp(np.mean(np.log(middles))))
    several = len(steps) > 1
    record = {
        "architecture": name,
        "eta_dec": eta,
        "onset by theory (beta)": theory,
        "last beta with active units": last,
        "first beta of total collapse": first,
        "error of the onset": None if math.isnan(beta) else missed(last, first, theory),
        "certificate at that beta": ", ".join(
            f"{count} {which}" if several else which
            for which, count in Counter(filter(None, conclusions)).most_common()
        ),
    }
    agrees: bool | None
    if math.isnan(last):
        agrees = None
        text = f"no unit is active at any beta{_of_seeds(lasts)} (theory: below {theory:.3g})."
    elif math.isnan(first):
        largest = float(column[-1].labels["beta"])
        agrees = False if theory < largest else None
        text = f"units are active up to the largest beta, {largest:.3g}{_of_seeds(firsts)} "
        text += f"(theory: below {theory:.3g})."
    else:
        agrees = near_onset(last, first, theory)
        seeds = f" ({len(steps)} seeds)" if several else ""
        text = (
            f"total collapse begins between beta = {last:.3g} and {first:.3g}"
            f"{seeds}, predicted at {theory:.3g} (error {missed(last, first, theory)})."
        )
    return beta, record, Check(agrees, f"{name}, eta_dec = {eta:g}: {text}", "numbers")


def _of_seeds(betas: Sequence[float]) -> str:
    """Return of how many seeds there is no such beta, where others have one."""
    without = sum(map(math.isnan, betas))
    return f" in {without} of {len(betas)} seeds" if without < len(betas) else ""


def _predicted(result: Result, eta_dec: float) -> float:
    """Return theory's beta of total collapse, theta_1^2 / eta_dec^2, named as the loss names it."""
    return (2 if result.halved else 1) * float(result.theory["spectrum"][0]) / eta_dec**2
