"""X3b: how many units networks keep, and how much KL, beside the bracket and the linear optimum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from posterior_collapse.experiments.checks import Check, Part, Result, Setting
from posterior_collapse.experiments.tables import Table
from posterior_collapse.experiments.trust import figures
from posterior_collapse.experiments.trust.reading import (
    WARM_UPS,
    by_problem,
    kept_by_linear,
    onset_of,
    quantiles,
    usable,
    within,
)

__all__ = ["outside", "trust_units"]

MOST = 0.9
"""Share of the onset up to which units are counted: nearer to it X3a says what there is to say."""
TIMES = (0.125, 0.25, 0.5, 1.0)
"""Shares of a run at which it is looked at."""
NEAR = 1.0
"""Units by which a count may leave its bracket and still agree: a unit near its threshold is
counted or not by chance."""


def outside(count: float, fewest: float, most: float) -> float:
    """Return by how many units a count is below (negative) or above its bracket.

    Example:
        >>> outside(5, 6, 12), outside(7, 6, 12), outside(14, 6, 12)
        (-1, 0, 2)
    """
    return min(count - fewest, 0) + max(count - most, 0)


def trust_units(results: Sequence[Result]) -> Part:
    """State per network how often its counts are in the bracket, and its KL beside theory's."""
    runs: list[dict[str, Any]] = []
    course: list[dict[str, Any]] = []
    drawn: dict[str, dict[str, Any]] = {}
    checks: list[Check] = []
    for name, kinds in by_problem(results).items():
        for kind, settings in kinds.items():
            below = [s for s in usable(settings) if _share(s.first) < MOST]
            if kind not in WARM_UPS or not below:
                continue
            runs.append(_record(name, WARM_UPS[kind], below))
            course.append(_over_time(name, WARM_UPS[kind], below))
            _add(drawn.setdefault(name, {}), kind, below)
            checks.append(_check(runs[-1]))
    charts = {
        "units": (
            figures.brackets(drawn),
            "Active units over beta as a share of the predicted onset: the bracket (grey, from "
            "the fewest in parts of the data to the linear count) and the means over seeds.",
        )
    }
    note = "Betas up to 0.9 of the predicted onset count; nearer to it see X3a."
    tables = {"units": Table.of(runs), "over-training": Table.of(course)}
    return Part(tables, charts, checks, [note])


def _share(result: Result) -> float:
    return float(result.labels["beta"]) / onset_of(result)


def _runs(settings: Sequence[Setting]) -> list[Result]:
    return [r for s in settings for r in s.results]


def _fewest(result: Result) -> int:
    bracket = result.measured["bracket"]
    return min(int(bracket[0]), kept_by_linear(result))


def _kl_ratio(result: Result) -> float:
    return float(result.measured["kl"]) / float(result.theory["kl"])


def _record(name: str, warm_up: str, settings: Sequence[Setting]) -> dict[str, Any]:
    runs = _runs(settings)
    off = np.array([outside(r.active(1), _fewest(r), kept_by_linear(r)) for r in runs])
    linear = np.array([kept_by_linear(r) for r in runs])
    kept = np.array([r.active(1) for r in runs])
    ratio = quantiles([_kl_ratio(r) for r in runs])
    return {
        "network": name,
        "warm-up": warm_up,
        "runs": len(runs),
        "in the bracket": float((off == 0).mean()),
        "within a unit of it": float((np.abs(off) <= NEAR).mean()),
        "most above": int(off.max(initial=0)),
        "most below": int(-off.min(initial=0)),
        "kept": float(kept.mean()),
        "kept by the linear optimum": float(linear.mean()),
        "fewest, mean": float(np.mean([_fewest(r) for r in runs])),
        "KL / linear KL, median": _rounded(ratio[0]),
        "10%": _rounded(ratio[1]),
        "90%": _rounded(ratio[2]),
        "loss moved in the last half (share of gain)": _moved(runs),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _moved(runs: Sequence[Result]) -> float | None:
    """Return the median change of the loss in the last half, as a share of what units brought."""
    shares = []
    for run in runs:
        end = within(run.record.history, "loss", 1.0)
        gain = float(run.measured["collapsed_loss"]) - float(run.measured["loss"])
        if gain > 0:
            shares.append((within(run.record.history, "loss", 0.5) - end) / gain)
    return _rounded(quantiles(shares)[0])


def _over_time(name: str, warm_up: str, settings: Sequence[Setting]) -> dict[str, Any]:
    runs = _runs(settings)
    found: dict[str, Any] = {"network": name, "warm-up": warm_up}
    for measure, expected in (("active_1", kept_by_linear), ("kl_1", _kl)):
        word = "units" if measure == "active_1" else "KL"
        for time in TIMES:
            ratio = [within(r.record.history, measure, time) / expected(r) for r in runs]
            found[f"{word} / linear at {time:g}"] = _rounded(quantiles(ratio)[0])
    return found


def _kl(result: Result) -> float:
    return float(result.theory["kl"])


def _add(lines: dict[str, Any], kind: str, settings: Sequence[Setting]) -> None:
    onset = onset_of(settings[0].first)
    x = [float(s.labels["beta"]) / onset for s in settings]
    lines.setdefault("fewest", (x, [_fewest(s.first) for s in settings]))
    lines.setdefault("linear", (x, [kept_by_linear(s.first) for s in settings]))
    kept = [s.mean(lambda r: float(r.active(1))) for s in settings]
    lines["with warm-up" if kind else "without warm-up"] = (x, kept)


def _check(record: dict[str, Any]) -> Check:
    share = record["within a unit of it"]
    return Check(
        share >= 0.9,
        f"{record['network']}, warm-up: {record['warm-up']}: {record['in the bracket']:.0%} of "
        f"{record['runs']} runs keep as many units as the bracket says, {share:.0%} within a unit "
        f"of it (expected: 90%).",
    )
