"""X3c and X3d: does one more unit pay as was said, and does the verdict know failed runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from posterior_collapse.diagnosis.gain import WORTH
from posterior_collapse.errors import count_of
from posterior_collapse.experiments.checks import Check, Part, Result, Setting
from posterior_collapse.experiments.deliverables.trust_units import (
    RIGHT,
    Records,
    by_problem,
    is_whole,
    quantiles,
)
from posterior_collapse.experiments.figures import lines
from posterior_collapse.experiments.figures.answers import answers
from posterior_collapse.experiments.figures.lines import UNTOLD
from posterior_collapse.experiments.tables import Table
from posterior_collapse.experiments.trust_columns import PAID, SAYS, UNPLANTED, WHAT
from posterior_collapse.theory.thresholds import SURE

ANSWERS: Mapping[str, str] = {
    "more-units-pay": "pays", "signal-unclaimed": "pays",
    "nothing-to-do": "does not pay", "collapse-optimal": "does not pay",
    "undecided": "undecided", "cannot-tell-yet": "undecided", "diverged": "undecided",
}  # fmt: skip
"""What a conclusion says of one more unit."""
TIMES = 2.0
"""Factor within which what a unit brings is what was said."""
LEAST_OF_THREE = 0.75
"""Std of the least of three normal numbers, over that of one."""
FAILED = ("signal-unclaimed", "more-units-pay", "diverged")
"""Conclusions that say: this is not what the objective asks for, or not with so few units."""
FINE = ("collapse-optimal", "nothing-to-do")
PLANTED = "a dead unit"
WORDS = {**UNPLANTED, PLANTED: "a unit planted dead"}


def _loss(result: Result) -> float:
    return float(result.measured["loss"])


def _worth(best: Result) -> float:
    """Return the nats from which a difference to the best loss counts."""
    return WORTH * max(best.gain, 0.0)


def _by_network(records: Records) -> dict[str, list[Mapping[str, Any]]]:
    names = dict.fromkeys(record["network"] for record in records)
    return {name: [r for r in records if r["network"] == name] for name in names}


def trust_gain(results: Sequence[Result]) -> Part:
    """Hold what one more unit brought against the prediction, per problem, beta and units."""
    pairs = [pair for name, kinds in by_problem(results).items() for pair in _pairs(name, kinds)]
    if not pairs:
        return Part(checks=[Check(None, "No pair of runs can be compared.")])
    return of_pairs(pairs)


def of_pairs(pairs: Records) -> Part:
    """Return what follows from the records of pairs of networks, one with a unit more."""
    drawn = {
        name: [(r["said (nats)"], r["brought (nats)"], r["answer"], r["outcome"]) for r in own]
        for name, own in _by_network(pairs).items()
    }
    charts = {
        "gain": (
            lines.predicted(drawn),
            "What one more unit brought against what the diagnosis of the smaller network said; "
            "faint and hollow where it cannot be told whether the unit paid. Dotted: as said. "
            "Gains of less than 0.001 nats are drawn at 0.001, and what was said at most at ten "
            "times the largest gain.",
        )
    }
    worse = sum(map(_is_worse, pairs))
    untrained = (
        f" Nor can it in {worse} of {len(pairs)} pairs, whose larger network ended at a loss "
        "higher by two standard errors than the smaller one's: its best training, which would not, "
        "was not found."
    )
    note = (
        "What a unit brought is the least loss of the runs with k units minus the least with k + "
        "1: of restarts, and of warm starts where both have them. It paid if that exceeds 1% of "
        "what the k units have brought by two standard errors, which follow from the spread of few "
        "restarts, and did not pay if it falls short of that by as many; "
        f"within these it cannot be told.{untrained * bool(worse)} The pairs of a network share "
        "its data and their runs, so they are not independent."
    )
    sizes = (
        "Size is judged where what was said and what it brought both exceed 0 by two standard "
        "errors, absurd numbers included. (In a part of latent space where a Bernoulli decoder is "
        "almost sure of a feature, its noise is almost 0, and in units of it what is left "
        "unexplained has no bound.)"
    )
    gains = _gains(pairs)
    tables = {"confusion": confusion(pairs), "gains": Table.of(gains), "pairs": Table.of(pairs)}
    checks = [*_answers(pairs), _size(gains[-1])]
    return Part(tables, charts, checks, [note, sizes])


def _answers(pairs: Records) -> Iterator[Check]:
    for answer, right, did, other in (
        ("pays", "paid", "did", "did not"), ("does not pay", "did not", "did not", "did"),
    ):  # fmt: skip
        own = Counter(r["outcome"] for r in pairs if r["answer"] == answer)
        told = own["paid"] + own["did not"]
        yield Check(
            own[right] >= RIGHT * told if told else None,
            f"Of {count_of(own.total(), 'network')} of which the diagnosis says that one more unit "
            f"{answer}, in {own[right]} it {did}, in {told - own[right]} it {other}, and "
            f"for {own[UNTOLD]} it {UNTOLD} (expected: 90% of those told).",
        )


def _size(gains: Mapping[str, Any]) -> Check:
    told, right = gains["both told from 0"], gains["within a factor of 2"]
    return Check(
        right >= RIGHT * told if told else None,
        f"Where both are told from 0, {right} of {count_of(told, 'unit')} brought what was said "
        "within a factor of 2 (expected: 90%).",
        "numbers",
    )


def _pairs(name: str, kinds: Mapping[str, Sequence[Setting]]) -> Iterator[dict[str, Any]]:
    """Yield a record for each beta and number of units of which one more was trained."""
    restarts, warm = (_by_place(kinds.get(kind, ())) for kind in ("restarts", "warm start"))
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
        brought, worth = _loss(best) - min(map(_loss, more)), _worth(best)
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


def _by_place(settings: Sequence[Setting]) -> dict[tuple[int, float], list[Result]]:
    """Return the runs that came to their end by number of units and beta."""
    found = {
        (int(s.labels["latent_dim"]), float(s.labels["beta"])): [
            r for r in s.results if is_whole(r)
        ]
        for s in settings
    }
    return {place: runs for place, runs in found.items() if runs}


def _error(runs: Sequence[Result]) -> float:
    """Return the standard error of the least of several losses, about that of their mean."""
    if len(runs) < 2:
        return math.inf
    return float(np.std([_loss(run) for run in runs], ddof=1)) * LEAST_OF_THREE


def outcome(brought: float, error: float, worth: float) -> str:
    """Return whether a unit paid, as far as what restarts differ by lets one tell.

    A larger network that ended at a clearly higher loss was not trained well enough to tell.

    Args:
        brought: Nats by which one more unit lowered the least loss.
        error: Standard error of that.
        worth: Nats that a unit must bring.

    Example:
        >>> [outcome(brought, 0.1, 0.15) for brought in (0.4, 0.1, -0.1, -0.3)]
        ['paid', 'cannot be told', 'did not', 'cannot be told']
    """
    if abs(brought - worth) <= SURE * error or brought < -SURE * error:
        return UNTOLD
    return "paid" if brought > worth else "did not"


def _is_worse(pair: Mapping[str, Any]) -> bool:
    """Return whether the larger network of a pair ended at a clearly higher loss."""
    return bool(pair["brought (nats)"] < -SURE * pair["brought, error"])


def confusion(pairs: Records) -> Table:
    """Return how many pairs have each answer and outcome.

    Example:
        >>> confusion([{"answer": "pays", "outcome": "paid"}] * 3).rows[0]
        ['pays', 3, 0, 0]
    """
    places = Counter((pair["answer"], pair["outcome"]) for pair in pairs)
    rows = [
        [answer, *(places[answer, each] for each in PAID)]
        for answer in ("pays", "undecided", "does not pay")
    ]
    return Table([SAYS, *PAID.values()], rows)


def _gains(pairs: Records) -> list[dict[str, Any]]:
    """Return per network, and of all, how what was said goes with what a unit brought."""
    records = []
    for name, own in {**_by_network(pairs), "all": pairs}.items():
        said, said_error, brought, error, most = (
            np.array([r[key] for r in own])
            for key in ("said (nats)", "said, error", "brought (nats)", "brought, error",
                        "all units brought (nats)")
        )  # fmt: skip
        told = (said > SURE * said_error) & (brought > SURE * error)
        ratios = brought[told] / said[told]
        median, tenth, ninetieth = quantiles(ratios)
        varied = np.ptp(said) > 0 and np.ptp(brought) > 0
        rank = float(spearmanr(said, brought).statistic) if varied else None
        records.append(
            {
                "network": name,
                "pairs": len(own),
                "rank correlation of said and brought": rank,
                "both told from 0": int(told.sum()),
                "within a factor of 2": int(((ratios >= 1 / TIMES) & (ratios <= TIMES)).sum()),
                "brought / said, median": median,
                "10%": tenth,
                "90%": ninetieth,
                "said more than all units brought": int((said > most).sum()),
            }
        )
    return records


def trust_failures(results: Sequence[Result]) -> Part:
    """Count per kind of failure how many failed runs the verdict recognises, and false alarms."""
    judged = [j for name, kinds in by_problem(results).items() for j in _judged(name, kinds)]
    if not judged:
        return Part(checks=[Check(None, "No runs can be compared.")])
    names = dict.fromkeys(j["kind"] for j in judged)
    kinds = {name: [j for j in judged if j["kind"] == name] for name in names} | {"all": judged}
    networks = [{"network": name, **_counted(own)} for name, own in _by_network(judged).items()]
    counted = {kind: _counted(own) for kind, own in kinds.items()}
    tables = {
        "failures": Table.of([{WHAT: kind, **own} for kind, own in counted.items()]),
        "by-network": Table.of(networks),
    }
    charts = {
        "failures": (
            answers(_answered(counted), cases="runs"),
            "What the verdict says of runs that failed and of runs as good as the best, by how "
            "they were trained; numbers are runs. A run of another optimum with as many units is "
            "in neither panel.",
        )
    }
    found = counted["all"]
    failed, good = found["failed"], found["good"]
    known, alarms = found["recognised"], found["false alarms"]
    checks = [
        Check(
            known >= RIGHT * failed if failed else None,
            f"Of {count_of(failed, 'run')} that failed, the verdict recognises {known}, is "
            f"undecided of {found['undecided']} and calls {found['called fine']} fine (expected: "
            "90%).",
        ),
        Check(
            alarms <= (1 - RIGHT) * good if good else None,
            f"Of {count_of(good, 'run')} as good as any, the verdict calls {alarms} failed and is "
            f"undecided of {found['good, undecided']} (expected: 10% failed at most).",
        ),
    ]
    note = (
        "A run failed if it has fewer active units than the best run of the same network, data, "
        "beta and number of units, and a loss above the best by more than 1% of what the best "
        "run's units brought. A run with a unit planted dead is compared with the best in which "
        "that unit lives. A good run is within that 1% of the best; it may not be as good as can "
        "be, so that not every alarm of it is false. An alarm says that signal is left unclaimed, "
        "that training diverged or, where every unit is used, that more units would pay: the last "
        "does not blame the optimiser. Runs that are worse with as many active units are in "
        "another local optimum: these runs cannot tell whether an alarm is right there."
    )
    return Part(tables, charts, checks, [note])


def _judged(name: str, kinds: Mapping[str, Sequence[Setting]]) -> Iterator[dict[str, Any]]:
    """Yield per run what became of it and what the verdict says."""
    free = [kind for kind in kinds if kind in ("", "warm-up", "dead start")]
    free += [kind for kind in kinds if kind.startswith("learning rate")]
    for beta in sorted({s.labels["beta"] for s in kinds.get("dead start", ())}):
        pool = {
            kind: [r for s in kinds[kind] if s.labels["beta"] == beta for r in s.results]
            for kind in free
        }
        yield from _of_pool(name, pool, [])
    others = [*kinds.get("restarts", ()), *kinds.get("warm start", ())]
    for setting in kinds.get(PLANTED, ()):
        same = [r for s in others if s.labels == setting.labels for r in s.results]
        yield from _of_pool(name, {PLANTED: setting.results}, same)


def _of_pool(
    name: str, judged: Mapping[str, Sequence[Result]], others: Sequence[Result]
) -> Iterator[dict[str, Any]]:
    """Judge runs by the best of them and of others."""
    pool = [*others, *(run for runs in judged.values() for run in runs)]
    whole = [run for run in pool if is_whole(run)]
    if not whole:
        return
    best = min(whole, key=_loss)
    worth = _worth(best)
    for kind, runs in judged.items():
        for run in runs:
            lost = not is_whole(run)
            worse = lost or _loss(run) - _loss(best) > worth
            fewer = lost or run.active(1) < best.active(1)
            yield {
                "network": name,
                "kind": WORDS.get(kind, kind),
                "outcome": ("failed" if fewer else "worse") if worse else "good",
                "conclusion": run.measured["conclusion"],
            }


COUNTED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "failed": ("failed", ()), "recognised": ("failed", FAILED),
    "undecided": ("failed", ("undecided",)), "called fine": ("failed", FINE),
    "good": ("good", ()), "false alarms": ("good", FAILED),
    "good, undecided": ("good", ("undecided",)),
    "worse, as many units": ("worse", ()), "of these, alarms": ("worse", FAILED),
}  # fmt: skip
"""What is counted of runs: those of an outcome, and with which conclusions; none: with any."""


def _answered(counted: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, dict[str, int]]]:
    """Return what is drawn of the counts: of failed runs and of good ones, what was said."""
    failed = ("recognised", "undecided", "called fine")
    return {
        "of runs that failed": {
            k: {said: own[said] for said in failed} for k, own in counted.items()
        },
        "of runs as good as the best": {
            kind: {
                "no alarm": own["good"] - own["false alarms"] - own["good, undecided"],
                "undecided": own["good, undecided"],
                "alarm": own["false alarms"],
            }
            for kind, own in counted.items()
        },
    }


def _counted(judged: Records) -> dict[str, Any]:
    return {
        name: sum(
            j["outcome"] == outcome and (not conclusions or j["conclusion"] in conclusions)
            for j in judged
        )
        for name, (outcome, conclusions) in COUNTED.items()
    }
