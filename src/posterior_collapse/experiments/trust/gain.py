"""X3c: what one more unit brought when it was trained, beside what the diagnosis said of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from posterior_collapse.experiments.checks import Check, Part, Result, Setting
from posterior_collapse.experiments.tables import Table
from posterior_collapse.experiments.trust import figures
from posterior_collapse.experiments.trust.reading import by_problem, is_whole, quantiles, worth_of

__all__ = ["ANSWERS", "confusion", "trust_gain"]

ANSWERS: Mapping[str, str] = {
    "more-units-pay": "pays", "signal-unclaimed": "pays",
    "nothing-to-do": "does not pay", "collapse-optimal": "does not pay",
    "undecided": "undecided", "cannot-tell-yet": "undecided", "diverged": "undecided",
}  # fmt: skip
"""What a conclusion says of one more unit."""
RIGHT = 0.9
"""Share of answers that must be right."""


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
            "Dotted: as said. Gains of less than 0.001 nats are drawn at 0.001.",
        )
    }
    checks, notes = _checks(records)
    tables = {"confusion": table, "gains": _gains(records), "pairs": Table.of(records)}
    return Part(tables, charts, checks, notes)


def _of(name: str, kinds: Mapping[str, Sequence[Setting]]) -> Iterator[dict[str, Any]]:
    """Yield a record for each beta and number of units of which one more was trained."""
    trained = _by_place(kinds.get("restarts", ()))
    warm = _by_place(kinds.get("warm start", ()))
    for (units, beta), runs in trained.items():
        more = [*trained.get((units + 1, beta), ()), *warm.get((units + 1, beta), ())]
        if not more or (units + 1, beta) not in warm:
            continue
        best = min(runs, key=_loss)
        brought = _loss(best) - min(map(_loss, more))
        (gain,) = best.measured["gains"]
        yield {
            "network": name,
            "beta": beta,
            "units": units,
            "said (nats)": gain["nats"],
            "error": gain["error"],
            "parts": gain["parts"],
            "t": best.measured["signal"][0],
            "worth a unit (nats)": worth_of(best, _loss(best)),
            "brought (nats)": brought,
            "answer": ANSWERS[best.measured["conclusion"]],
            "pays": brought > worth_of(best, _loss(best)),
        }


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
        records: With `answer` and whether the unit `pays`.

    Example:
        >>> confusion([{"answer": "pays", "pays": True}] * 3).rows[0]
        ['pays', 3, 0]
    """
    each = ("pays", "undecided", "does not pay")
    count = {
        (answer, pays): sum(r["answer"] == answer and r["pays"] is pays for r in records)
        for answer in each
        for pays in (True, False)
    }
    rows = [[answer, count[answer, True], count[answer, False]] for answer in each]
    return Table(["the diagnosis says: one more unit", "it paid", "it did not"], rows)


def _gains(records: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for name in dict.fromkeys(r["network"] for r in records):
        own = [r for r in records if r["network"] == name]
        said, brought = (
            np.array([r[key] for r in own]) for key in ("said (nats)", "brought (nats)")
        )
        sure = np.array([r["answer"] == "pays" and r["pays"] for r in own])
        ratio = quantiles(brought[sure] / said[sure])
        rank = float(spearmanr(said, brought).statistic) if len(own) > 2 else None
        rows.append([name, len(own), rank, int(sure.sum()), *ratio])
    columns = [
        "network", "pairs", "rank correlation of said and brought", "said to pay and paid",
        "brought / said, median", "10%", "90%",
    ]  # fmt: skip
    return Table(columns, rows)


def _checks(records: Sequence[Mapping[str, Any]]) -> tuple[list[Check], list[str]]:
    checks = []
    for answer, pays in (("pays", True), ("does not pay", False)):
        own = [r for r in records if r["answer"] == answer]
        right = sum(r["pays"] is pays for r in own)
        text = f"Of {len(own)} units of which the diagnosis says that one more {answer}, {right} "
        agrees = None if not own else right >= RIGHT * len(own)
        checks.append(Check(agrees, f"{text}{'did' if pays else 'did not'} (expected: 90%)."))
    ranks = [r["brought (nats)"] for r in records]
    note = (
        "What a unit brought is the least loss of any run with k units less the least with k + 1, "
        "from restarts and from warm starts; it pays when that is more than 1% of what the k units "
        f"have brought. In {sum(v < 0 for v in ranks)} of {len(ranks)} pairs no run with one more "
        "unit was better."
    )
    return checks, [note]
