"""From what was measured to one sentence: is this collapse optimal?"""

from __future__ import annotations

import dataclasses
import math

from posterior_collapse.diagnosis.advice import advise
from posterior_collapse.diagnosis.conclusions import (
    LOCALLY,
    NOT_ENDED,
    conclude,
    count_of,
    excess_loss,
    gain_in_words,
    gravest,
    has_diverged,
    has_other_noise,
    has_spare,
    is_attainable,
    is_settled,
    is_worse_than_none,
    keeps_too_many,
    kept_units,
    what_decides,
)
from posterior_collapse.diagnosis.results import NO_SIGNAL, Conclusion, Diagnosis
from posterior_collapse.theory.thresholds import LEAST_ROWS, ROUNDING

__all__ = ["verdict_parts", "with_verdict"]


def with_verdict(found: Diagnosis) -> Diagnosis:
    """Return the diagnosis with conclusion, verdict and advice, and a caution on few rows."""
    conclusions = conclude(found)
    conclusion, clause = _overall(found, conclusions)
    sentence = _counts(found) + clause
    if found.forecast is not None and conclusion != "diverged":
        kept = " and ".join(map(str, kept_units(found.forecast)))
        excess = excess_loss(found)
        if excess and (conclusion != "signal-unclaimed" or is_worse_than_none(found)):
            sentence = f"Training has not arrived: {sentence}"
        if is_attainable(found.forecast):
            lower = f", at a loss {excess:.3g} nats lower" if excess else ""
            sentence += f"; the linear optimum keeps {kept}{lower}"
            if not excess and keeps_too_many(found):
                sentence += f": {NOT_ENDED}"
        else:
            lower = f", and no unit at all would cost {excess:.3g} nats less" if excess else ""
            sentence += f"; the linear forecast, an approximation, keeps {kept}{lower}"
    return dataclasses.replace(
        found,
        conclusion=conclusion,
        verdict=f"{sentence}.",
        advice=tuple(advise(found, conclusions)),
        notes=(*_few_rows(found), *found.notes),
    )


def verdict_parts(found: Diagnosis) -> tuple[str, str]:
    """Return the verdict as what a reader wants first, and the reason of it, if any.

    Args:
        found: With its verdict.
    """
    counts = _counts(found)
    before, _, after = found.verdict.partition(counts)
    clause, opened, rest = after.partition(" (")
    if not opened:
        return found.verdict, ""
    depth = 1
    for end, character in enumerate(rest):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return f"{before}{counts}{clause}.", rest[:end] + rest[end + 1 :]
    return found.verdict, ""


_WORDS: dict[Conclusion, str] = {
    "signal-unclaimed": "signal is left unclaimed: the optimiser failed, not the objective",
    "collapse-optimal": "this collapse is optimal, what the objective asks for",
    "more-units-pay": "every unit is used and more units would pay",
    "nothing-to-do": "every unit is used and one more would tell no more of x",
}


def _overall(found: Diagnosis, conclusions: list[Conclusion]) -> tuple[Conclusion, str]:
    """The model's conclusion, and the clause that says it."""
    if has_diverged(found):
        return "diverged", ": the posterior has diverged, and of collapse nothing can be said"
    if has_other_noise(found):
        what = "the decoder was trained with less noise than the posterior states"
        return "undecided", f": whether that is optimal is undecided ({what})"
    if conclusions:
        at = gravest(found, conclusions)
        conclusion = conclusions[at]
        if conclusion == "undecided":
            what = "that is optimal" if has_spare(found, at) else "one more unit would pay"
            words = f"whether {what} is undecided"
            return conclusion, f": {words} ({_signal(found, at)}; {what_decides(found, at)})"
        words = _WORDS[conclusion]
        if conclusion == "collapse-optimal" and found.is_network:
            words = f"no small step improves this collapse, {LOCALLY}"
        if conclusion == "nothing-to-do" and found.signal[at] > 1 + ROUNDING:
            words = "every unit is used and one more is not worth it"
        if conclusion == "signal-unclaimed" and is_worse_than_none(found):
            words = "as it stands signal is left unclaimed"
        if conclusion == "collapse-optimal" and (excess_loss(found) or keeps_too_many(found)):
            words = "no signal is left for the collapsed units"
        if conclusion == "more-units-pay" and excess_loss(found):
            words = "as it stands every unit is used, and what is unexplained would pay for more"
        bought = gain_in_words(found, at)
        return conclusion, f": {words} ({_signal(found, at)}{'; ' * bool(bought)}{bought})"
    return _without_certificate(found)


def _without_certificate(found: Diagnosis) -> tuple[Conclusion, str]:
    """Conclusion and clause where there is no t, by what there is."""
    told = [note for note in found.notes if note.startswith(NO_SIGNAL)]
    if told or found.likelihood not in (None, "gaussian"):
        why = told[0].removeprefix(NO_SIGNAL) if told else "the decoder's distribution is not known"
        return "cannot-tell-yet", f": whether that is optimal cannot be told ({why})"
    if found.forecast is not None:
        return "undecided", ""
    lacking = [
        *["a decoder"] * (found.squared_error is None),
        *["the spec it was trained with"] * (found.spec is None),
    ]
    if not lacking:
        return "undecided", ""
    return "undecided", f"; whether that is optimal, {' and '.join(lacking)} would tell"


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
        text = f"{name}{level.n_active} of {count_of(units, 'unit')} active"
        if not is_settled(level):
            text += f" ({count_of(level.directions, 'direction')}: still settling)"
        for status in ("noise", "collapsed", "diverged"):
            count = level.status.count(status)
            text += f", {count} {status}" if count else ""
        parts.append(text)
    return "; ".join(parts)


def _signal(found: Diagnosis, at: int) -> str:
    name = f"t of z{at + 1}" if len(found.levels) > 1 else "t"
    t, error = found.signal[at], found.signal_error[at]
    if math.isnan(t):
        return f"{name} not known"
    return f"{name} = {t:.3g}" + (f" \u00b1 {error:.1g}" if error >= 5e-4 else "")
