"""X3c: what one more unit brought when it was trained, beside what the diagnosis said of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from posterior_collapse.experiments.checks import Check, Part, Result, Setting
from posterior_collapse.experiments.tables import Table
from posterior_collapse.experiments.trust import figures
from posterior_collapse.experiments.trust.reading import (
    WORTH,
    by_problem,
    is_whole,
    quantiles,
    worth_of,
)
from posterior_collapse.theory.thresholds import SURE

__all__ = ["ANSWERS", "confusion", "outcome", "trust_gain"]

ANSWERS: Mapping[str, str] = {
    "more-units-pay": "pays", "signal-unclaimed": "pays",
    "nothing-to-do": "does not pay", "collapse-optimal": "does not pay",
    "undecided": "undecided", "cannot-tell-yet": "undecided", "diverged": "undecided",
}  # fmt: skip
"""What a conclusion says of one more unit."""
OUTCOMES = ("paid", "too close", "did not")
SAYS = "the diagnosis says: one more unit"
RIGHT = 0.9
"""Share of answers that must be right."""
LEAST_OF_THREE = 0.75
"""Std of the least of three normal numbers, over that of one."""


def trust_gain(results: Sequence[Result]) -> Part:
    """Hold what one more unit brought against the prediction, per problem, beta and units."""
    records = [record for name, kinds in by_problem(results).items() for record in _of(name, kinds)]
    if not records:
        return Part(checks=[Check(None, "No pair of runs can be compared.")])
    drawn = {
        name: [
            (r["said (nats)"], r["brought (nats)"], r["answer"])
            for r in records
            if r["network"] == name
        ]
        for name in dict.fromkeys(r["network"] for r in records)
    }
    table = confusion(records)
    charts = {
        "gain": (
            figures.predicted(drawn),
            "What one more unit brought against what the diagnosis of the smaller network said. "
            "Dotted: as said. Gains of less than 0.001 nats are drawn at 0.001, and what was said "
            "at most at ten times the largest gain.",
        )
    }
    checks, notes = _checks(records)
    tables = {"confusion": table, "gains": _gains(records), "pairs": Table.of(records)}
    return Part(tables, charts, checks, notes)


def _of(name: str, kinds: Mapping[str, Sequence[Setting]]) -> Iterator[dict[str, Any]]:
    """Yield a record for each beta and number of units of which one more was trained."""
    restarts = _by_place(kinds.get("restarts", ()))
    warm = _by_place(kinds.get("warm start", ()))
    for units, beta in restarts:
        here, above = (units, beta), (units + 1, beta)
        if above not in restarts:
            continue
        fewer, more = restarts[here], restarts[above]
        error = math.hypot(_error(fewer), _error(more))
        if here in warm and above in warm:  # on both sides or on none: they trained twice as long
            fewer, more = [*fewer, *warm[here]], [*more, *warm[above]]
        best = min(fewer, key=_loss)
        (gain,) = best.measured["gains"]
        brought, worth = _loss(best) - min(map(_loss, more)), worth_of(best, _loss(best))
        yield {
            "network": name,
            "beta": beta,
            "units": units,
            "active": best.active(1),
            "said (nats)": gain["nats"],
            "said, error": gain["error"],
            "parts": gain["parts"],
            "t": best.measured["signal"][0],
            "answer": ANSWERS[best.measured["conclusion"]],
            "brought (nats)": brought,
            "brought, error": error,
            "worth a unit (nats)": worth,
            "all units brought (nats)": worth / WORTH,
            "outcome": outcome(brought, error, worth),
        }


def outcome(brought: float, error: float, worth: float) -> str:
    """Return whether a unit paid, as far as what restarts differ by lets one tell.

    Args:
        brought: Nats by which one more unit lowered the least loss.
        error: Standard error of that.
        worth: Nats that a unit must bring.

    Example:
        >>> [outcome(brought, 0.1, 0.05) for brought in (0.3, 0.1, -0.2)]
        ['paid', 'too close', 'did not']
    """
    if abs(brought - worth) <= SURE * error:
        return "too close"
    return "paid" if brought > worth else "did not"


def _error(runs: Sequence[Result]) -> float:
    """Return the standard error of the least of several losses, about that of their mean."""
    if len(runs) < 2:
        return math.inf
    return float(np.std([_loss(run) for run in runs], ddof=1)) * LEAST_OF_THREE


def _by_place(settings: Sequence[Setting]) -> dict[tuple[int, float], list[Result]]:
    found: dict[tuple[int, float], list[Result]] = {}
    for setting in settings:
        whole = [r for r in setting.results if is_whole(r)]
        if whole:
            found[int(setting.labels["latent_dim"]), float(setting.labels["beta"])] = whole
    return found


def _loss(result: Result) -> float:
    return float(result.measured["loss"])


def confusion(records: Sequence[Mapping[str, Any]]) -> Table:
    """Return how many pairs have each answer and outcome.

    Args:
        records: With `answer` and `outcome`.

    Example:
        >>> confusion([{"answer": "pays", "outcome": "paid"}] * 3).rows[0]
        ['pays', 3, 0, 0]
    """
    places = Counter((record["answer"], record["outcome"]) for record in records)
    rows = [
        [answer, *(places[answer, each] for each in OUTCOMES)]
        for answer in ("pays", "undecided", "does not pay")
    ]
    return Table([SAYS, "it paid", "too close to tell", "it did not"], rows)


def _gains(records: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for name in dict.fromkeys(r["network"] for r in records):
        own = [r for r in records if r["network"] == name]
        said, brought, most = (
            np.array([r[key] for r in own])
            for key in ("said (nats)", "brought (nats)", "all units brought (nats)")
        )
        sure = np.array([r["answer"] == "pays" and r["outcome"] == "paid" for r in own])
        absurd = said > most
        ratio = quantiles(brought[sure & ~absurd] / said[sure & ~absurd])
        varied = np.ptp(said) > 0 and np.ptp(brought) > 0
        rank = float(spearmanr(said, brought).statistic) if varied else None
        rows.append([name, len(own), rank, int(sure.sum()), *ratio, int(absurd.sum())])
    columns = [
        "network", "pairs", "rank correlation of said and brought", "said to pay and paid",
        "brought / said, median", "10%", "90%", "said more than all units brought",
    ]  # fmt: skip
    return Table(columns, rows)


def _checks(records: Sequence[Mapping[str, Any]]) -> tuple[list[Check], list[str]]:
    checks = []
    for answer, right in (("pays", "paid"), ("does not pay", "did not")):
        own = [r for r in records if r["answer"] == answer and r["outcome"] != "too close"]
        true = sum(r["outcome"] == right for r in own)
        did = "did" if right == "paid" else "did not"
        text = f"Of {len(own)} units of which the diagnosis says that one more {answer}, {true} "
        agrees = None if not own else true >= RIGHT * len(own)
        checks.append(Check(agrees, f"{text}{did} (expected: 90%)."))
    note = (
        "What a unit brought is the least loss of the runs with k units less the least with k + 1: "
        "of restarts, and of warm starts where both have them. It paid when that is more than 1% "
        "of what the k units have brought, by two standard errors, which follow from what restarts "
        "differ by; within these it is too close to tell."
    )
    return checks, [note]
