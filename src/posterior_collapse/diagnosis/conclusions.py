"""What the numbers of a level lead to beside the linear optimum, before it is put in words."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from posterior_collapse.diagnosis.results import Conclusion, Diagnosis
from posterior_collapse.errors import DataError, NotSolvedError, UnboundedObjectiveError
from posterior_collapse.moments import Moments
from posterior_collapse.specs import Likelihood, Spec
from posterior_collapse.theory import ACTIVE_INFORMATION, FewSamplesWarning, Forecast, forecast
from posterior_collapse.theory.thresholds import LEAST_ROWS, rows_to_decide

__all__ = [
    "conclude",
    "gravest",
    "has_spare",
    "kept_units",
    "linear_forecast",
    "unjudged",
    "what_decides",
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
