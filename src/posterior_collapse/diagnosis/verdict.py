"""From what was measured to one sentence: is this collapse optimal?"""

from __future__ import annotations

import dataclasses
import math

from posterior_collapse.diagnosis.advice import advise, excess_loss
from posterior_collapse.diagnosis.comparison import kept_units
from posterior_collapse.diagnosis.levels import SURE
from posterior_collapse.diagnosis.results import Conclusion, Diagnosis, LevelDiagnosis
from posterior_collapse.diagnosis.thresholds import ROUNDING

__all__ = ["with_verdict"]

DOUBTFUL = 0.1
"""Standard error of t from which a t that may be below or above 1 decides nothing."""
GRAVEST_FIRST: tuple[Conclusion, ...] = (
    "signal-unclaimed",
    "undecided",
    "collapse-optimal",
    "more-units-pay",
    "nothing-to-do",
)


def with_verdict(found: Diagnosis) -> Diagnosis:
    """Return the diagnosis with conclusion, verdict and advice.

    Source:
        Section 7 of the derivation: with units collapsed, t <= 1 says that collapse is what the
        objective asks for, and t > 1 that the optimiser failed; with none, that more would pay.
    """
    conclusions: list[Conclusion] = [
        _of_level(*level)
        for level in zip(
            found.levels, found.signal, found.signal_error, found.paying_units, strict=False
        )
    ]
    conclusion: Conclusion = min(conclusions, key=GRAVEST_FIRST.index, default="undecided")
    sentence = _counts(found)
    if conclusions:
        at = conclusions.index(conclusion)
        sentence += f": {_WORDS[conclusion]} ({_signal(found, at)})"
    if found.forecast is not None:
        kept = " and ".join(map(str, kept_units(found.forecast)))
        excess = excess_loss(found)
        lower = f", at a loss {excess:.3g} nats lower" if excess else ""
        sentence += f"; the linear optimum keeps {kept}{lower}"
    elif not conclusions:
        sentence += "; whether that is optimal, decoder and spec would tell"
    return dataclasses.replace(
        found,
        conclusion=conclusion,
        verdict=f"{sentence}.",
        advice=tuple(advise(found, conclusions)),
    )


_WORDS: dict[Conclusion, str] = {
    "signal-unclaimed": "signal is left unclaimed: the optimiser failed, not the objective",
    "undecided": "too few rows to say whether that is optimal",
    "collapse-optimal": "this collapse is optimal, what the objective asks for",
    "more-units-pay": "every unit is used and more units would pay",
    "nothing-to-do": "every unit is used and one more would tell no more of x",
}


def _of_level(level: LevelDiagnosis, t: float, error: float, paying: int) -> Conclusion:
    spare = "collapsed" in level.status
    if paying:
        return "signal-unclaimed" if spare else "more-units-pay"
    # Above 1 for certain, yet nothing pays: it is noise injected below, which nobody misses.
    possible = t - SURE * error <= 1 + ROUNDING < t + SURE * error
    if math.isnan(t) or (possible and not error < DOUBTFUL):
        return "undecided"
    return "collapse-optimal" if spare else "nothing-to-do"


def _counts(found: Diagnosis) -> str:
    parts = []
    for number, level in enumerate(found.levels, start=1):
        name = f"z{number}: " if len(found.levels) > 1 else ""
        units = len(level.status)
        text = f"{name}{level.n_active} of {units} unit{'s' * (units > 1)} active"
        for status in ("noise", "collapsed"):
            count = level.status.count(status)
            text += f", {count} {status}" if count else ""
        parts.append(text)
    return "; ".join(parts)


def _signal(found: Diagnosis, at: int) -> str:
    name = f"t of z{at + 1}" if len(found.levels) > 1 else "t"
    error = found.signal_error[at]
    return f"{name} = {found.signal[at]:.3g}" + (f" +- {error:.1g}" if error >= 5e-4 else "")
