"""X3d: whether the verdict knows a run in which the optimiser failed from one that is as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from posterior_collapse.experiments.checks import Check, Part, Result, Setting
from posterior_collapse.experiments.tables import Table
from posterior_collapse.experiments.trust.reading import by_problem, is_whole, worth_of

__all__ = ["trust_failures"]

FAILED = ("signal-unclaimed", "more-units-pay", "diverged")
"""Conclusions that say: this is not what the objective asks for."""
FINE = ("collapse-optimal", "nothing-to-do")
PLANTED = "a dead unit"
WORDS = {"": "without warm-up", "warm-up": "with warm-up", PLANTED: "a unit planted dead"}
RIGHT = 0.9


def trust_failures(results: Sequence[Result]) -> Part:
    """Count per kind of failure how many failed runs the verdict recognises, and false alarms."""
    judged = [j for name, kinds in by_problem(results).items() for j in _judged(name, kinds)]
    if not judged:
        return Part(checks=[Check(None, "No runs can be compared.")])
    kinds = list(dict.fromkeys(j["kind"] for j in judged))
    records = [_counted(kind, [j for j in judged if j["kind"] == kind]) for kind in kinds]
    records.append(_counted("all", judged))
    per_network = [
        {"network": name, **_counted("all", [j for j in judged if j["network"] == name])}
        for name in dict.fromkeys(j["network"] for j in judged)
    ]
    for record in per_network:
        del record["runs that"]
    note = (
        "A run failed if its loss exceeds the least that any run of the same network, data, beta "
        "and number of units reached by more than 1% of what the best one's units brought, and it "
        "has fewer active units; for a unit planted dead, beside the best with that unit alive. "
        "Runs that are as much worse with as many units are in another local optimum: whether an "
        "alarm is right there, these runs cannot tell."
    )
    return Part(
        {"failures": Table.of(records), "by-network": Table.of(per_network)},
        checks=_checks(records[-1]),
        notes=[note],
    )


def _judged(name: str, kinds: Mapping[str, Sequence[Setting]]) -> Iterator[dict[str, Any]]:
    """Yield per run what became of it and what the verdict says."""
    planted = kinds.get(PLANTED, ())
    free = {kind: kinds[kind] for kind in kinds if kind in ("", "warm-up", "dead start")}
    free |= {kind: kinds[kind] for kind in kinds if kind.startswith("learning rate")}
    asked = {s.labels["beta"] for s in kinds.get("dead start", ())}
    for beta in sorted(asked):
        pool = {
            kind: [r for s in settings if s.labels["beta"] == beta for r in s.results]
            for kind, settings in free.items()
        }
        yield from _of_pool(name, pool, [r for runs in pool.values() for r in runs])
    others = [*kinds.get("restarts", ()), *kinds.get("warm start", ())]
    for setting in planted:
        same = [r for s in others if s.labels == setting.labels for r in s.results]
        yield from _of_pool(name, {PLANTED: list(setting.results)}, [*same, *setting.results])


def _of_pool(
    name: str, judged: Mapping[str, Sequence[Result]], pool: Sequence[Result]
) -> Iterator[dict[str, Any]]:
    whole = [r for r in pool if is_whole(r)]
    if not whole:
        return
    best = min(whole, key=lambda r: float(r.measured["loss"]))
    least = float(best.measured["loss"])
    worth = worth_of(best, least)
    for kind, runs in judged.items():
        for run in runs:
            lost = not is_whole(run)
            worse = lost or float(run.measured["loss"]) - least > worth
            fewer = lost or run.active(1) < best.active(1)
            yield {
                "network": name,
                "kind": WORDS.get(kind, kind),
                "outcome": ("failed" if fewer else "worse") if worse else "good",
                "conclusion": run.measured["conclusion"],
            }


def _counted(kind: str, judged: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def count(outcome: str, *conclusions: str) -> int:
        return sum(
            j["outcome"] == outcome and (not conclusions or j["conclusion"] in conclusions)
            for j in judged
        )

    return {
        "runs that": kind,
        "failed": count("failed"),
        "recognised": count("failed", *FAILED),
        "undecided": count("failed", "undecided"),
        "called fine": count("failed", *FINE),
        "good": count("good"),
        "false alarms": count("good", *FAILED),
        "good, undecided": count("good", "undecided"),
        "worse, as many units": count("worse"),
        "of these, alarms": count("worse", *FAILED),
    }


def _checks(all_runs: Mapping[str, Any]) -> list[Check]:
    failed, good = all_runs["failed"], all_runs["good"]
    known, alarms = all_runs["recognised"], all_runs["false alarms"]
    return [
        Check(
            known >= RIGHT * failed if failed else None,
            f"Of {failed} runs that failed, the verdict recognises {known} (expected: 90%).",
        ),
        Check(
            alarms <= (1 - RIGHT) * good if good else None,
            f"Of {good} runs that are as good as any, the verdict calls {alarms} failed (expected: "
            "10% at most).",
        ),
    ]
