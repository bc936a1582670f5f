"""What the numbers lead to beside the linear optimum, and the one sentence that says it."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from posterior_collapse.diagnosis.results import (
    LEFT_OUT,
    LINEARLY,
    NO_SIGNAL,
    Conclusion,
    Diagnosis,
    near_worth,
)
from posterior_collapse.errors import (
    DataError,
    NotSolvedError,
    UnboundedObjectiveError,
    at_level,
    count_of,
    enumerated,
    of_level,
)
from posterior_collapse.moments import Moments
from posterior_collapse.specs import Spec
from posterior_collapse.theory import ACTIVE_INFORMATION, FewSamplesWarning, Forecast, forecast
from posterior_collapse.theory.dispersion import is_learned
from posterior_collapse.theory.forecasting import UNLIKE_FEATURES
from posterior_collapse.theory.reading import Bias
from posterior_collapse.theory.solve import or_others
from posterior_collapse.theory.thresholds import (
    LEAST_ROWS,
    ROUNDING,
    SURE,
    rows_to_decide,
    unit_gain,
)
from posterior_collapse.theory.thresholds import excess_loss as excess_over

LOCALLY = "optimal for a linear decoder, a local optimum for a network"
"""What t <= 1 says of a collapse: a network may have a lower loss that no small step leads to."""
NOT_ENDED = "training has not ended there, or units are near their threshold"
"""Why a linear model may keep more units than its optimum."""
SETTLED = 0.1
"""Share of active units that may lack a direction of their own."""
FAR = 3.0
"""A t above which the gain is a guess if the likelihood is not Gaussian: it extrapolates far beyond
the outputs at which the curvature was measured."""
GOOD, BAD = 0.75, 1.05
"""Shares of the squared error of a constant: a decoder that explains less has not learned, one that
errs by more was trained on other latents."""
NOTHING = 1e-6
"""Gains of less are not mentioned: in nats, or as a share of what is worth a unit."""
GRAVEST_FIRST: tuple[tuple[Conclusion, bool], ...] = (
    ("signal-unclaimed", True),
    ("undecided", True),
    ("collapse-optimal", True),
    ("more-units-pay", False),
    ("undecided", False),
    ("nothing-to-do", False),
)
"""Conclusions of a level, with whether it has a collapsed unit."""
_WORDS: dict[Conclusion, str] = {
    "signal-unclaimed": "signal is left unclaimed: the optimiser failed, not the objective",
    "collapse-optimal": "this collapse is optimal, what the objective asks for",
    "more-units-pay": "every unit is used and more units would pay",
    "nothing-to-do": "every unit is used and one more would carry no more of x",
}


def linear_forecast(
    data: Moments | Any, spec: Spec | None, bias: Bias | None = None
) -> tuple[Forecast | None, tuple[str, ...]]:
    """Return the forecast of the linear model of this spec, or why not; and a caution on scales."""
    if data is None or spec is None:
        return None, ()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FewSamplesWarning)  # it stays in the forecast's notes
            found = forecast(data, spec, bias=bias)
        return found, tuple(n for n in found.notes if n.startswith(UNLIKE_FEATURES))
    except (NotSolvedError, UnboundedObjectiveError, DataError) as error:
        return None, (f"no forecast of the linear model: {error}",)


def kept_units(found: Forecast) -> tuple[int, ...]:
    """Return for each level how many units of the optimum a diagnosis would call active.

    A forecast calls a unit active above 0 nats, a diagnosis above `ACTIVE_INFORMATION`.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> kept_units(forecast(Moments.from_matrices([[4.0, 0.0], [0.0, 1.001]]), VAESpec(2)))
        (1,)
    """
    return tuple(kept_of({"information": level.information}) for level in found.levels)


def kept_of(level: Mapping[str, Any]) -> int:
    """Return `kept_units` of one level of a forecast's summary, as in `Fitted.summary`.

    Example:
        >>> kept_of({"n_active": 2, "information": [0.7, 0.002, 0.0]})
        1
    """
    known = level.get("information")
    if known is None:
        return int(level["n_active"])
    return int((np.asarray(known, dtype=np.float64) > ACTIVE_INFORMATION).sum())


def is_attainable(found: Forecast) -> bool:
    """Whether a linear model reaches the forecast's loss, which else is an approximation."""
    return found.spec.likelihood == "gaussian"


def conclude(found: Diagnosis) -> list[Conclusion]:
    """Return the conclusion of each level; none where there is no certificate.

    Source:
        Section 7 of the derivation: with units collapsed, t <= 1 says that collapse is what the
        objective asks for, and t > 1 that the optimiser failed; with none, that more would pay. A
        t within two errors of 1 says neither.
    """
    if has_diverged(found) or has_other_noise(found):
        return []
    return [_of_level(found, at) for at in range(len(found.signal))]


def has_diverged(found: Diagnosis) -> bool:
    """Whether the posterior of a unit has."""
    return any("diverged" in level.status for level in found.levels)


def has_other_noise(found: Diagnosis) -> bool:
    """Whether the decoder knows its latents' means, and is lost at the samples it should know."""
    at_mean, sampled = found.squared_error_at_mean, found.squared_error_sampled
    constant = found.squared_error_constant
    if at_mean is None or sampled is None or constant is None:
        return False
    return at_mean < GOOD * constant and sampled > BAD * constant


def is_settled(found: Diagnosis, at: int) -> bool:
    """Whether active units have a direction each, but for one in ten, or need none of their own."""
    level = found.levels[at]
    free = found.forecast is not None and found.forecast.undetermined_levels[at]
    return free or level.n_active - level.directions < max(2, SETTLED * level.n_active)


def has_spare(found: Diagnosis, at: int) -> bool:
    """Whether a unit of a level collapsed."""
    return "collapsed" in found.levels[at].status


def counts_alike(found: Forecast) -> bool:
    """Return whether a forecast's loss is of the same distribution as a trained model's.

    Of a learned dispersion it is not: units that explain some of the spread make it larger, and
    of the part that goes by both, the Gamma functions of every count, moments tell nothing.
    """
    return not is_learned(found.spec)


def collapsed_loss(found: Forecast) -> float:
    """Return the loss of the best model without latent units, as the forecast counts it.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> linear = forecast(Moments.from_matrices([[1.0]]), VAESpec(1, beta=2.0))
        >>> bool(abs(collapsed_loss(linear) - linear.loss) < 1e-12)
        True
    """
    modes = found._modes
    if modes.noise is not None:
        return modes.noise.constant_loss
    dim, eta = modes.target_dim, found.spec.eta_levels[0]
    if not isinstance(eta, str):
        return dim / 2 * math.log(2 * math.pi * eta**2) + modes.total / (2 * eta**2)
    if modes.total <= 0:
        return -math.inf
    return dim / 2 * (math.log(2 * math.pi * modes.total / dim) + 1)


def excess_loss(found: Diagnosis) -> float:
    """Return by how many nats the loss surely exceeds one that can be had.

    0 where it does not, or where that is not known; see `theory.thresholds.excess_loss`.
    """
    return _excess(found, found.loss, found.loss_error)


def _excess(found: Diagnosis, loss: float | None, error: float | None) -> float:
    forecast = found.forecast
    if forecast is None or loss is None or error is None:
        return 0.0
    return excess_over(
        loss,
        error,
        forecast.loss + found.data_loss,
        found.collapsed_loss if collapses_freely(forecast) else None,
        attainable=is_attainable(forecast),
    )


def overfit(found: Diagnosis) -> float:
    """Return by how many nats these rows cost more than those trained on, which have arrived.

    0 where these have arrived too, where more training would lower both, or where the loss of the
    rows trained on is not known.
    """
    if found._training is None or found.loss is None or not excess_loss(found):
        return 0.0
    loss, error = found._training[0] + found.data_loss, found._training[1]
    gap = found.loss - loss
    sure = gap > SURE * math.hypot(error, found.loss_error or 0.0)
    return gap if sure and not _excess(found, loss, error) else 0.0


def collapses_freely(found: Forecast) -> bool:
    """Whether `collapsed_loss` can be reached: units of a fixed sigma cost KL at any output.

    Beside a forecast that is attainable it only says how much units could bring.
    """
    learned = all(isinstance(sigma, str) for sigma in found.spec.sigma_levels)
    return learned or is_attainable(found)


def keeps_too_many(found: Diagnosis) -> bool:
    """Whether a linear model keeps more units than its optimum: it is not there, or nearly is."""
    theory = found.forecast
    if found.is_network or theory is None or not is_attainable(theory):
        return False
    kept = zip(found.levels, kept_units(theory), theory.undetermined_levels, strict=True)
    return any(level.n_active > most and not free for level, most, free in kept)


def gain_in_words(found: Diagnosis, at: int) -> str:
    """Return what one more unit of a level would gain, as a clause; nothing where it is nothing."""
    gain = found.gains[at]
    if math.isnan(gain.nats) or gain.nats <= max(NOTHING, gain.worth * NOTHING):
        return ""
    error = f" \u00b1 {gain.error:.1g}" if gain.error >= 0.05 * gain.nats else ""
    text = f"one more unit would lower the loss by about {gain.nats:.2g}{error} nats"
    spec = found.spec if found.likelihood not in (None, "gaussian") else None
    if spec is not None and gain.nats > float(unit_gain(spec, FAR, level=at + 1)):
        # It rests on a curvature that is another where the unit would lead to.
        text = f"one more unit would lower the loss by up to about {gain.nats:.2g} nats, a rough "
        text += "upper guess far from the optimum"
    if gain.parts > 1:
        text += f", used differently in {gain.parts} parts of {what_is_parted(found)}"
    if gain.nats <= gain.worth:
        text += f", less than the {gain.worth:.2g} worth a unit"
    return text


def best_of(found: Diagnosis) -> tuple[str, str]:
    """Return what does not improve a network's collapse, and how far that goes, as two clauses."""
    if LINEARLY in found.notes:
        return "no linear encoder improves", "a network may read more from x"
    return "no small step improves", LOCALLY


def what_is_parted(found: Diagnosis) -> str:
    """Return of what a unit may be used differently in each part: a condition tells them too."""
    return "the data" if found.spec is not None and found.spec.model == "cvae" else "latent space"


def what_decides(found: Diagnosis, at: int) -> str:
    """Return how many rows would decide on a level's t, or what else is open, as a clause."""
    if found.n < LEAST_ROWS:
        return f"at least {LEAST_ROWS} rows are needed"
    if in_parts_only(found, at):
        return gain_in_words(found, at)
    if near := near_worth(found, at):
        return near
    if leaves_out(found, at) and not found.undecided_units[at]:
        return "t ignores some outputs, which are far from their best"
    if is_marginal(found):
        return "theory expects that at beta = 1 for a decoder that sees the past"
    rows = rows_to_decide(found.signal[at], found.signal_error[at], found.n)
    if rows is None:
        return "100 times as many rows might not tell"
    return f"about {rows:,} rows would tell"


def _of_level(found: Diagnosis, at: int) -> Conclusion:
    spare, gain = has_spare(found, at), found.gains[at]
    if found.n < LEAST_ROWS or math.isnan(found.signal[at]):
        return "undecided"
    in_parts = gain.parts > 1  # used differently in each part of latent space
    if found.paying_units[at] or (in_parts and gain.nats - SURE * gain.error > gain.worth):
        return "signal-unclaimed" if spare else "more-units-pay"
    may_pay = found.undecided_units[at] or (in_parts and gain.nats > gain.worth)
    if may_pay or leaves_out(found, at):
        return "undecided"
    # If t is above 1 all the same, it is noise injected below, which nobody misses.
    return "collapse-optimal" if spare else "nothing-to-do"


def leaves_out(found: Diagnosis, at: int) -> bool:
    """Whether t of a level, far from the best outputs, counts only some of them."""
    return at == 0 and any(note.startswith(LEFT_OUT) for note in found.notes)


def is_marginal(found: Diagnosis) -> bool:
    """Whether t is 1 itself of a decoder that predicts as well as the past that it sees allows.

    Of a Gaussian that takes an eta_dec which is those errors' std.
    """
    spec = found.spec
    if spec is None or spec.likelihood == "gaussian" or not found._sees_past:
        return False
    return math.isclose(spec.beta_levels[0], 1.0)


def in_parts_only(found: Diagnosis, at: int) -> bool:
    """Whether only a unit that is used differently in each part of latent space might pay."""
    return not found.undecided_units[at] and found.gains[at].parts > 1


def is_worse_than_none(found: Diagnosis) -> bool:
    """Whether a network's error surely exceeds that of the best constant output, without a unit.

    An optimiser that failed ends there at worst; a network above it has not been trained to an end.
    """
    if not found.is_network or found.collapsed_loss is None:
        return False
    if found.reconstruction is None or found.loss_error is None:
        return False
    slack = SURE * found.loss_error + ROUNDING * abs(found.collapsed_loss)
    return bool(excess_loss(found)) and found.reconstruction - found.collapsed_loss > slack


def verdict(found: Diagnosis, conclusions: Sequence[Conclusion]) -> tuple[Conclusion, str]:
    """Return the conclusion of the whole model, and the sentence that says it."""
    conclusion, clause = _overall(found, conclusions)
    sentence = _counts(found) + clause
    if found.forecast is not None and conclusion != "diverged":
        kept = enumerated([str(n) for n in kept_units(found.forecast)])
        excess = excess_loss(found)
        if overfit(found):
            sentence = f"The model overfits: {sentence}"
        elif excess and (conclusion != "signal-unclaimed" or is_worse_than_none(found)):
            sentence = f"Training has not converged: {sentence}"
        if is_attainable(found.forecast):
            lower = f", at a loss {excess:.3g} nats lower" if excess else ""
            others = or_others(found.forecast.undetermined_levels)
            sentence += f"; the linear optimum keeps {kept}{lower}{others}"
            if not excess and keeps_too_many(found):
                sentence += f": {NOT_ENDED}"
        else:
            lower = f", and no unit at all would cost {excess:.3g} nats less" if excess else ""
            sentence += f"; the linear forecast, an approximation, keeps {kept}{lower}"
    return conclusion, f"{sentence}."


def verdict_parts(found: Diagnosis) -> tuple[str, str]:
    """Return the verdict as what a reader wants first, and the reason of it, if any."""
    counts = _counts(found)
    before, _, after = found.verdict.partition(counts)
    parted = re.fullmatch(r"(.*?) \((.*)\)([^()]*)", after)
    if parted is None:
        return found.verdict, ""
    clause, reason, rest = parted.groups()
    return f"{before}{counts}{clause}.", reason + rest


def _overall(found: Diagnosis, conclusions: Sequence[Conclusion]) -> tuple[Conclusion, str]:
    """The model's conclusion, and the clause that says it."""
    if has_diverged(found):
        return "diverged", ": the posterior has diverged, so nothing can be said of collapse"
    if has_other_noise(found):
        what = "the decoder was trained with less noise than the posterior states"
        return "undecided", f": whether that is optimal is undecided ({what})"
    if conclusions:
        at = min(
            range(len(conclusions)),
            key=lambda at: GRAVEST_FIRST.index((conclusions[at], has_spare(found, at))),
        )
        conclusion = conclusions[at]
        if conclusion == "undecided":
            more = "is worth it" if near_worth(found, at) else "would pay"
            what = "that is optimal" if has_spare(found, at) else f"one more unit {more}"
            words = f"whether {what} is undecided"
            return conclusion, f": {words} ({_signal(found, at)}; {what_decides(found, at)})"
        words = _WORDS[conclusion]
        if conclusion == "collapse-optimal" and found.is_network:
            words = "{} this collapse, {}".format(*best_of(found))
        if conclusion == "nothing-to-do" and found.signal[at] > 1 + ROUNDING:
            words = "every unit is used and one more is not worth it"
        if conclusion == "signal-unclaimed" and (is_worse_than_none(found) or overfit(found)):
            words = "as it stands, signal is left unclaimed"
        if conclusion == "collapse-optimal" and (excess_loss(found) or keeps_too_many(found)):
            words = "no signal is left for the collapsed units"
        if conclusion == "more-units-pay" and excess_loss(found):
            words = "as it stands, every unit is used, and what is unexplained would pay for more"
        bought = gain_in_words(found, at)
        return conclusion, f": {words} ({_signal(found, at)}{'; ' * bool(bought)}{bought})"
    return _without_certificate(found)


def _without_certificate(found: Diagnosis) -> tuple[Conclusion, str]:
    """Conclusion and clause where there is no t, by what there is."""
    told = [note for note in found.notes if note.startswith(NO_SIGNAL)]
    if told or found.likelihood not in (None, "gaussian"):
        why = told[0].removeprefix(NO_SIGNAL) if told else "the decoder's distribution is not known"
        return "cannot-tell-yet", f": whether that is optimal cannot be told ({why})"
    lacking = [
        *["a decoder"] * (found.squared_error is None),
        *["the spec it was trained with"] * (found.spec is None),
    ]
    if found.forecast is not None or not lacking:
        return "undecided", ""
    return "undecided", f"; whether that is optimal, {' and '.join(lacking)} would tell"


def _counts(found: Diagnosis) -> str:
    parts = []
    for number, level in enumerate(found.levels, start=1):
        name, units = at_level(number, len(found.levels)), len(level.status)
        text = f"{name}{level.n_active} of {count_of(units, 'unit')} active"
        if not is_settled(found, number - 1):
            text += f" ({count_of(level.directions, 'direction')}: still settling)"
        for status in ("noise", "collapsed", "diverged"):
            count = level.status.count(status)
            text += f", {count} {status}" if count else ""
        parts.append(text)
    return "; ".join(parts)


def _signal(found: Diagnosis, at: int) -> str:
    name = f"t{of_level(at + 1, len(found.levels))}"
    t, error = found.signal[at], found.signal_error[at]
    if math.isnan(t):
        return f"{name} not known"
    return f"{name} = {t:.3g}" + (f" \u00b1 {error:.1g}" if error >= 5e-4 else "")
