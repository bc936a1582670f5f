"""From the numbers to a conclusion, and the sentence that says it beside the linear optimum."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence

from posterior_collapse.diagnosis.advice import advise, excess_loss
from posterior_collapse.diagnosis.results import Conclusion, Diagnosis
from posterior_collapse.errors import DataError, NotSolvedError, UnboundedObjectiveError
from posterior_collapse.moments import Moments
from posterior_collapse.specs import Likelihood, Spec
from posterior_collapse.theory import ACTIVE_INFORMATION, FewSamplesWarning, Forecast, forecast
from posterior_collapse.theory.thresholds import LEAST_ROWS, rows_to_decide, why_not_yet

__all__ = [
    "conclude",
    "gravest",
    "has_spare",
    "kept_units",
    "linear_forecast",
    "unjudged",
    "what_decides",
    "with_verdict",
]


def linear_forecast(
    moments: Moments | None, spec: Spec | None
) -> tuple[Forecast | None, tuple[str, ...]]:
    """Return the forecast of the linear model of this spec, or a note that says why there is none.

    Example:
        >>> linear_forecast(None, None)
        (None, ())
    """
    if moments is None or spec is None:
        return None, ()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FewSamplesWarning)  # it stays in the forecast's notes
            return forecast(moments, spec), ()
    except (NotSolvedError, UnboundedObjectiveError, DataError) as error:
        return None, (f"no forecast of the linear model: {error}",)


def kept_units(found: Forecast) -> tuple[int, ...]:
    """Return per level how many units the forecast gives as much information as active ones have.

    The forecast calls a unit active from 0 nats on, a diagnosis from `ACTIVE_INFORMATION`.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> kept_units(forecast(Moments.from_matrices([[4.0, 0.0], [0.0, 1.001]]), VAESpec(2)))
        (1,)
    """
    return tuple(int((level.information > ACTIVE_INFORMATION).sum()) for level in found.levels)


GRAVEST_FIRST: tuple[tuple[Conclusion, bool], ...] = (
    ("signal-unclaimed", True),
    ("undecided", True),
    ("collapse-optimal", True),
    ("more-units-pay", False),
    ("undecided", False),
    ("nothing-to-do", False),
)
"""Conclusions of a level, with whether it has a collapsed unit."""


def conclude(found: Diagnosis) -> list[Conclusion]:
    """Return the conclusion of each level; none where there is no certificate.

    Source:
        Section 7 of the derivation: with units collapsed, t <= 1 says that collapse is what the
        objective asks for, and t > 1 that the optimiser failed; with none, that more would pay. A
        t within two errors of 1 says neither.
    """
    return [_of_level(found, at) for at in range(len(found.signal))]


def gravest(found: Diagnosis, conclusions: Sequence[Conclusion]) -> int:
    """Return the index of the level whose conclusion is the model's."""
    ranks = [
        GRAVEST_FIRST.index((conclusion, has_spare(found, at)))
        for at, conclusion in enumerate(conclusions)
    ]
    return ranks.index(min(ranks))


def has_spare(found: Diagnosis, at: int) -> bool:
    """Whether a unit of a level collapsed."""
    return "collapsed" in found.levels[at].status


def unjudged(found: Diagnosis) -> Likelihood | None:
    """Return the likelihood, if it is known to be one that has no certificate yet."""
    return None if found.likelihood == "gaussian" else found.likelihood


def what_decides(found: Diagnosis, at: int) -> str:
    """Return how many rows would decide on which side of 1 a level's t is, as a clause.

    Args:
        found: With a signal.
        at: Index of the level.
    """
    if found.n < LEAST_ROWS:
        return f"at least {LEAST_ROWS} rows are needed"
    rows = rows_to_decide(found.signal[at], found.signal_error[at], found.n)
    if rows is None:
        return "100 times as many rows might not tell"
    return f"about {rows:,} rows would tell"


def _of_level(found: Diagnosis, at: int) -> Conclusion:
    spare = has_spare(found, at)
    if found.n < LEAST_ROWS or math.isnan(found.signal[at]):
        return "undecided"
    if found.paying_units[at]:
        return "signal-unclaimed" if spare else "more-units-pay"
    if found.undecided_units[at]:
        return "undecided"
    # If t is above 1 all the same, it is noise injected below, which nobody misses.
    return "collapse-optimal" if spare else "nothing-to-do"


def with_verdict(found: Diagnosis) -> Diagnosis:
    """Return the diagnosis with conclusion, verdict and advice, and a caution on few rows."""
    conclusions = conclude(found)
    conclusion, clause = _overall(found, conclusions)
    sentence = _counts(found) + clause
    if found.forecast is not None:
        kept = " and ".join(map(str, kept_units(found.forecast)))
        excess = excess_loss(found)
        lower = f", at a loss {excess:.3g} nats lower" if excess else ""
        sentence += f"; the linear optimum keeps {kept}{lower}"
    return dataclasses.replace(
        found,
        conclusion=conclusion,
        verdict=f"{sentence}.",
        advice=tuple(advise(found, conclusions)),
        notes=(*_few_rows(found), *found.notes),
    )


_WORDS: dict[Conclusion, str] = {
    "signal-unclaimed": "signal is left unclaimed: the optimiser failed, not the objective",
    "collapse-optimal": "this collapse is optimal, what the objective asks for",
    "more-units-pay": "every unit is used and more units would pay",
    "nothing-to-do": "every unit is used and one more would tell no more of x",
}


def _overall(found: Diagnosis, conclusions: list[Conclusion]) -> tuple[Conclusion, str]:
    """The model's conclusion, and the clause that says it."""
    if conclusions:
        at = gravest(found, conclusions)
        conclusion = conclusions[at]
        if conclusion == "undecided":
            what = "that is optimal" if has_spare(found, at) else "one more unit would pay"
            words = f"whether {what} is undecided"
            return conclusion, f": {words} ({_signal(found, at)}; {what_decides(found, at)})"
        return conclusion, f": {_WORDS[conclusion]} ({_signal(found, at)})"
    likelihood = unjudged(found)
    if likelihood is not None:
        why = why_not_yet(likelihood)
        return "cannot-tell-yet", f": whether that is optimal cannot be told yet ({why})"
    if found.forecast is None:
        return "undecided", "; whether that is optimal, decoder and spec would tell"
    return "undecided", ""


def _few_rows(found: Diagnosis) -> list[str]:
    if found.n >= LEAST_ROWS:
        return []
    return [
        f"{found.n} rows are too few for standard errors, which come out too small, and for a "
        "verdict"
    ]


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
    t, error = found.signal[at], found.signal_error[at]
    if math.isnan(t):
        return f"{name} not known"
    return f"{name} = {t:.3g}" + (f" +- {error:.1g}" if error >= 5e-4 else "")
