"""X3a and X3b: where networks lose their last unit, and how many they keep below, beside theory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from posterior_collapse.diagnosis.conclusions import kept_of
from posterior_collapse.errors import count_of
from posterior_collapse.experiments.checks import (
    ONE_UNIT,
    Check,
    Part,
    Result,
    Setting,
    by_grid,
    missed,
    near_onset,
)
from posterior_collapse.experiments.figures import Line, measures
from posterior_collapse.experiments.tables import Table
from posterior_collapse.experiments.trust_columns import ABOVE, COSTS, ERROR, FIRST, GAIN, LAST, WHY
from posterior_collapse.specs import VAESpec
from posterior_collapse.theory.thresholds import unit_gain

RATE = "learning rate "
WARM_UPS = {"": "no", "warm-up": "yes"}
"""Of the kinds that are held against onset and bracket: whether they had a warm-up."""
LONGER = {"longer": "no"}
"""The same of runs that train on."""
LONG = {"slower": "yes", "as long": "yes"}
"""The same of runs that train on near the onset, at a lower learning rate or the same."""
KINDS = ("restarts", "warm start", "a dead unit", "dead start", *WARM_UPS, *LONGER, *LONG)
MOST = 0.9
"""Share of the onset up to which units are counted: nearer to it X3a says what there is to say."""
RIGHT = 0.9
"""Share of answers, or of runs, that must be right."""
TIMES = (0.125, 0.25, 0.5, 1.0)
"""Shares of a run at which it is looked at."""
Records = Sequence[Mapping[str, Any]]


def by_problem(results: Iterable[Result]) -> dict[str, dict[str, list[Setting]]]:
    """Return the settings by problem and by kind of run, "" for plain training.

    Example:
        >>> results = [Result(f"digits, mlp, gaussian{end}", {}, None) for end in ("", ", warm-up")]
        >>> {name: list(kinds) for name, kinds in by_problem(results).items()}
        {'digits, mlp, gaussian': ['', 'warm-up']}
    """
    found: dict[str, dict[str, list[Setting]]] = {}
    for grid, settings in by_grid(results).items():
        name, _, kind = grid.rpartition(", ")
        known = kind in KINDS or kind.startswith(RATE)
        found.setdefault(name if known else grid, {})[kind if known else ""] = settings
    return found


def is_whole(result: Result) -> bool:
    """Whether a run came to its end with numbers that can be read."""
    return result.measured["loss"] is not None and not result.record.stopped.startswith("non-fin")


def quantiles(values: ArrayLike, decimals: int = 12) -> list[float | None]:
    """Return median, tenth and ninetieth percentile; None of nothing.

    Example:
        >>> quantiles([1.0, 2.0, 3.0])
        [2.0, 1.2, 2.8]
        >>> quantiles([])
        [None, None, None]
    """
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        return [None] * 3
    # To 12 digits first, so that rounding does not decide which way a half goes.
    found = (round(float(value), 12) for value in np.quantile(array, (0.5, 0.1, 0.9)))
    return [round(value, decimals) for value in found]


def usable(
    results: Sequence[Result], ways: Mapping[str, str] = WARM_UPS
) -> dict[tuple[str, str], list[Setting]]:
    """Return by problem and warm-up the settings without runs that diverged, by ascending beta.

    Of kinds of runs, `ways` says whether they had a warm-up.
    """
    found = {}
    for name, kinds in by_problem(results).items():
        for kind, words in ways.items():
            kept = (Setting([r for r in s.results if is_whole(r)]) for s in kinds.get(kind, ()))
            settings = sorted((s for s in kept if s.results), key=lambda s: float(s.labels["beta"]))
            if settings:
                found[name, words] = settings
    return found


def _onset(result: Result) -> float:
    """Return the beta from which theory says that every unit collapses."""
    return float(np.nanmax(result.theory["levels"][0]["critical_beta"]))


def share_of_onset(result: Result) -> float:
    """Return beta, as the loss amounts to it, as a share of the predicted onset."""
    return _beta(result) / _onset(result)


def _beta(result: Result) -> float:
    """Return the beta that theory's numbers are of: of the published loss, half of its own."""
    return float(result.labels["beta"]) / (2 if result.halved else 1)


def linear_units(result: Result) -> int:
    """Return how many units of the linear optimum know as much as a unit that counts as active."""
    return kept_of(result.theory["levels"][0])


def _gain_by_linear(result: Result) -> float:
    """Return the nats that the units of the linear optimum bring, near the onset for any model."""
    beta = _beta(result)
    t = np.nan_to_num(np.asarray(result.theory["levels"][0]["critical_beta"], float)) / beta
    return float(unit_gain(VAESpec(1, beta), t).sum())


def trust_onset(results: Sequence[Result]) -> Part:
    """State per network where the last unit dies, as shares of the predicted onset."""
    records: list[dict[str, Any]] = []
    alive: dict[str, dict[str, Line]] = {}
    for (name, warm_up), settings in usable(results).items():
        shares, living = alive_over(settings)
        at = {"network": name, "warm-up": warm_up}
        records.append({**at, **of_onset(settings, shares, living)})
        alive.setdefault(name, {})[f"warm-up: {warm_up}"] = shares, living
    charts = {
        "onset": (
            measures.curves(alive, x="beta / predicted onset", y="share of runs alive"),
            "Share of runs in which a unit lives, over beta as a share of the predicted onset "
            "(dotted). Left of what is drawn a unit lives in every run.",
        )
    }
    note = (
        "A unit counts as active from 0.005 nats of information on the data: those of the linear "
        "optimum stop counting 1% below the onset. A network lives at a beta where at least half "
        "of its runs have an active unit; the first beta dead is the next in the grid, where a "
        "smaller share may still have one. So the error is only known to lie between these two."
    )
    causes = (
        "Causes, as far as these runs tell. Start: at the first beta that is dead without a "
        "warm-up, runs after a warm-up live, so training is the cause. Noise: what a linear model "
        "would gain at the first beta dead is less than what the noise of Adam's steps costs, by "
        "which the collapsed runs miss their optimum. That may be the cause or not: units live "
        "where they bring less than that, too; X3f tries it with less noise. Kept up by noise: "
        "above the onset units live on at higher losses than total collapse has at its optimum. "
        "Another optimum: after a warm-up, units live on above the onset at a lower loss than "
        "total collapse at its optimum, although collapse is stable there. Not known: the gain "
        "exceeds the noise, or the noise is not known; fewer than half of the runs live there."
    )
    verdicts = (
        "The verdict there is that of the first seed at the first beta dead. Signal-unclaimed: a "
        "unit would lower the loss without the noise of the steps, which may still kill that unit. "
        "Undecided: within the error a unit may bring something or nothing."
    )
    told = [{**record, WHY: _cause(record, records)} for record in records]
    checks = [_near_onset(record) for record in told]
    return Part({"onset": Table.of(told)}, charts, checks, [note, causes, verdicts])


def _cause(record: Mapping[str, Any], records: Records) -> str:
    """Return why the last unit does not die where predicted, in a word; "" where it does."""
    last, first = record[LAST], record[FIRST]
    if not last or first is None or last <= 1 <= first:
        return ""
    if last > 1:
        return "another optimum" if record[ABOVE] < 0 else "kept up by noise"
    same = [r for r in records if r["network"] == record["network"] and r["warm-up"] == "yes"]
    if record["warm-up"] == "no" and any(r[LAST] >= first for r in same):
        return "start"
    costs = record[COSTS]
    return "noise" if costs is not None and record[GAIN] <= costs else "not known"


def alive_over(
    settings: Sequence[Setting], count: Callable[[Result], int] = lambda r: r.active(1)
) -> tuple[list[float], list[float]]:
    """Return shares of the onset, and at each the share of the runs that count a unit."""
    living = [s.mean(lambda r: float(count(r) > 0)) for s in settings]
    return [share_of_onset(s.first) for s in settings], living


def named(record: Mapping[str, Any]) -> str:
    """Return what to call the runs of a record."""
    return f"{record['network']}, warm-up: {record['warm-up']}"


def last_alive(betas: Sequence[float], alive: Sequence[float]) -> tuple[float, float]:
    """Return the last of ascending betas at which half of the runs have a unit, and the next.

    0 where they live at none; the next is infinite where they live at all.

    Example:
        >>> last_alive([1.0, 2.0, 3.0], [1.0, 0.67, 0.33])
        (2.0, 3.0)
    """
    at = [beta for beta, share in zip(betas, alive, strict=True) if share >= 0.5]
    last = max(at, default=0.0)
    return last, min((beta for beta in betas if beta > last), default=float("inf"))


def of_onset(
    settings: Sequence[Setting], shares: Sequence[float], living: Sequence[float]
) -> dict[str, Any]:
    """Return what is measured between the last share alive and the first dead, and beyond 1."""
    last, first = last_alive(shares, living)
    dead = shares.index(first) if first in shares else None
    beyond = [
        (r.active(1) > 0, -r.gain)
        for setting, share in zip(settings, shares, strict=True)
        if share > 1
        for r in setting.results
        if r.measured["collapsed_loss"] is not None
    ]
    higher = [over for lives, over in beyond if lives]
    return {
        "predicted onset (beta)": _onset(settings[0].first),
        LAST: round(last, 3),
        FIRST: None if dead is None else round(first, 3),
        "share of runs alive there": None if dead is None else living[dead],
        ERROR: error_of(last, first),
        GAIN: None if dead is None else _gain_by_linear(settings[dead].first),
        COSTS: quantiles([over for lives, over in beyond if not lives])[0],
        "verdict there": "" if dead is None else settings[dead].first.measured["conclusion"],
        "runs alive above the onset": len(higher),
        ABOVE: min(higher, default=None),
    }


def error_of(last: float, first: float) -> str | None:
    """Return between what the error of the onset lies; None where the runs do not show it.

    The last beta alive and the first dead are shares of the predicted onset.

    Example:
        >>> error_of(0.9, 0.95), error_of(0.0, 0.5)
        ('-10% to -5%', None)
    """
    return missed(last, first) if last and np.isfinite(first) else None


def _near_onset(record: Mapping[str, Any]) -> Check:
    name = named(record)
    error, last, first = record[ERROR], record[LAST], record[FIRST]
    if error is None:
        lives = "no unit lives at any beta" if not last else "units live at all betas"
        return Check(None, f"{name}: {lives}.", "numbers")
    text = f"{name}: the last unit of most runs dies at {last:.3g} to {first:.3g} of the predicted "
    why = f"; cause: {record[WHY]}" if record[WHY] else ""
    return Check(near_onset(last, first), f"{text}beta (error {error}{why}).", "numbers")


def trust_units(results: Sequence[Result]) -> Part:
    """State per network how often its counts are in the bracket, and its KL beside theory's."""
    records: list[dict[str, Any]] = []
    course: list[dict[str, Any]] = []
    drawn: dict[str, dict[str, Line]] = {}
    for (name, warm_up), settings in usable(results).items():
        below = [s for s in settings if share_of_onset(s.first) < MOST]
        if not below:
            continue
        runs = [run for setting in below for run in setting.results]
        at = {"network": name, "warm-up": warm_up}
        records.append({**at, **_beside_bracket(runs)})
        course.append({**at, **_over_time(runs)})
        shares = [share_of_onset(s.first) for s in below]
        curves = drawn.setdefault(name, {})
        curves.setdefault("fewest", (shares, [fewest_units(s.first) for s in below]))
        curves.setdefault("linear", (shares, [linear_units(s.first) for s in below]))
        kept = [s.mean(lambda r: float(r.active(1))) for s in below]
        curves["with warm-up" if warm_up == "yes" else "without warm-up"] = (shares, kept)
    charts = {
        "units": (
            measures.brackets(drawn),
            "Active units over beta as a share of the predicted onset: the bracket (grey, from "
            "the fewest in parts of the data to the linear count) and the means over seeds.",
        )
    }
    checks = [
        Check(
            r["within a unit of it"] >= RIGHT,
            f"{named(r)}: {r['in the bracket']:.0%} of {count_of(r['runs'], 'run')} "
            f"{'keeps' if r['runs'] == 1 else 'keep'} as many units as the bracket says, "
            f"{r['within a unit of it']:.0%} within a unit of it (expected: 90%).",
            "numbers",
        )
        for r in records
    ]
    note = "Betas up to 0.9 of the predicted onset count; nearer to it see X3a."
    tables = {"units": Table.of(records), "over-training": Table.of(course)}
    return Part(tables, charts, checks, [note])


def fewest_units(result: Result) -> int:
    """Return how many units a network keeps at least, as forecast; a linear one all of theory's."""
    if result.run.architecture.name == "linear":
        return linear_units(result)
    return min(int(result.measured["bracket"][0]), linear_units(result))


def outside(count: float, fewest: float, most: float) -> float:
    """Return by how many units a count is below (negative) or above its bracket.

    Example:
        >>> outside(5, 6, 12), outside(7, 6, 12), outside(14, 6, 12)
        (-1, 0, 2)
    """
    return min(count - fewest, 0) + max(count - most, 0)


def _beside_bracket(runs: Sequence[Result]) -> dict[str, Any]:
    off = np.array([outside(r.active(1), fewest_units(r), linear_units(r)) for r in runs])
    ratios = [float(r.measured["kl"]) / float(r.theory["kl"]) for r in runs]
    median, tenth, ninetieth = quantiles(ratios, 3)
    return {
        "runs": len(runs),
        "in the bracket": float((off == 0).mean()),
        "within a unit of it": float((np.abs(off) <= ONE_UNIT).mean()),
        "most above": int(off.max(initial=0)),
        "most below": int(-off.min(initial=0)),
        "kept": float(np.mean([r.active(1) for r in runs])),
        "kept by the linear optimum": float(np.mean([linear_units(r) for r in runs])),
        "fewest, mean": float(np.mean([fewest_units(r) for r in runs])),
        "KL / linear KL, median": median,
        "10%": tenth,
        "90%": ninetieth,
        "loss moved in the last half (share of gain)": _moved(runs),
    }


def _moved(runs: Sequence[Result]) -> float | None:
    """Return the median change of the loss in the last half, as a share of what units brought."""
    shares = []
    for run in runs:
        middle, end = (_within(run, "loss", share) for share in (0.5, 1.0))
        if run.gain > 0:
            shares.append((middle - end) / run.gain)
    return quantiles(shares, 3)[0]


def _over_time(runs: Sequence[Result]) -> dict[str, float | None]:
    """Return units and KL over the linear optimum's at some shares of the training, medians."""
    expected = {
        "units": ("active_1", linear_units),
        "KL": ("kl_1", lambda r: float(r.theory["kl"])),
    }
    return {
        f"{word} / linear at {time:g}": quantiles(
            [_within(r, measure, time) / linear(r) for r in runs], 3
        )[0]
        for word, (measure, linear) in expected.items()
        for time in TIMES
    }


def _within(run: Result, name: str, share: float) -> float:
    """Return a column of the history as the mean over an eighth of the run that ends at `share`."""
    steps = np.asarray(run.record.history["step"], dtype=float)
    near: Any = (steps <= share * steps[-1]) & (steps > (share - 0.125) * steps[-1])
    if not near.any():
        near = np.abs(steps - share * steps[-1]).argmin()
    return float(np.mean(np.asarray(run.record.history[name], dtype=float)[near]))
