"""What the numbers of a level lead to beside the linear optimum, before it is put in words."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from posterior_collapse.diagnosis.results import (
    LEFT_OUT,
    Conclusion,
    Diagnosis,
    Gain,
    LevelDiagnosis,
)
from posterior_collapse.errors import DataError, NotSolvedError, UnboundedObjectiveError
from posterior_collapse.moments import Moments
from posterior_collapse.specs import Likelihood, Spec
from posterior_collapse.theory import ACTIVE_INFORMATION, FewSamplesWarning, Forecast, forecast
from posterior_collapse.theory.thresholds import (
    LEAST_ROWS,
    ROUNDING,
    SURE,
    rows_to_decide,
    unit_gain,
)
from posterior_collapse.theory.thresholds import excess_loss as excess_over

__all__ = [
    "LOCALLY",
    "NOT_ENDED",
    "collapsed_loss",
    "collapses_freely",
    "conclude",
    "count_of",
    "counts_alike",
    "excess_loss",
    "gain_in_words",
    "gravest",
    "has_diverged",
    "has_other_noise",
    "has_spare",
    "in_parts_only",
    "is_attainable",
    "is_settled",
    "is_worse_than_none",
    "keeps_too_many",
    "kept_units",
    "leaves_out",
    "linear_forecast",
    "pays_in_parts",
    "unjudged_because",
    "what_decides",
]

LOCALLY = "optimal for a linear decoder, a local optimum for a network"
"""What t <= 1 says of a collapse: a network may have a lower loss that no small step leads to."""
NOT_ENDED = "training has not ended there, or units are near their threshold"
"""Why a linear model may keep more units than its optimum."""
SETTLED = 0.1
"""Share of active units that may lack a direction of their own."""
FAR = 3.0
"""A t above which a likelihood that is not Gaussian is priced far from where it was measured."""
GOOD, BAD = 0.75, 1.05
"""Shares of the squared error of a constant: a decoder that explains less has not learned, one that
errs by more was trained on other latents."""
NOTHING = 1e-6
"""Nats, or share of what is worth a unit, that no word is lost about."""


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


def is_attainable(found: Forecast) -> bool:
    """Whether a linear model reaches the forecast's loss, which else is an approximation."""
    return found.spec.likelihood == "gaussian"


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
    if has_diverged(found) or has_other_noise(found):
        return []
    return [_of_level(found, at) for at in range(len(found.signal))]


def gravest(found: Diagnosis, conclusions: Sequence[Conclusion]) -> int:
    """Return the index of the level whose conclusion is the model's."""
    ranks = [
        GRAVEST_FIRST.index((conclusion, has_spare(found, at)))
        for at, conclusion in enumerate(conclusions)
    ]
    return ranks.index(min(ranks))


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


def is_settled(level: LevelDiagnosis) -> bool:
    """Whether active units have a direction of latent space each, but for one in ten."""
    lacking = level.n_active - level.directions
    return lacking < max(2, SETTLED * level.n_active)


def has_spare(found: Diagnosis, at: int) -> bool:
    """Whether a unit of a level collapsed."""
    return "collapsed" in found.levels[at].status


def unjudged_because(likelihood: Likelihood | None) -> str:
    """Return why a decoder was compared with nothing, as a clause.

    Example:
        >>> unjudged_because("other").partition(": ")[2]
        'let decode return it, such as torch.distributions.StudentT(5.0, mean, scale)'
    """
    return (
        f"with likelihood {likelihood!r} there is no loss and no t unless the decoder gives its "
        "distribution: let decode return it, such as torch.distributions.StudentT(5.0, mean, scale)"
    )


def counts_alike(found: Forecast) -> bool:
    """Return whether a forecast's loss is of the same distribution as a trained model's.

    Of a learned dispersion it is not: data tell another than training does, and of the part that
    goes by both, the Gamma functions of every count, moments tell nothing.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> counts_alike(forecast(Moments.from_matrices([[1.0]]), VAESpec(1, beta=2.0)))
        True
    """
    return found.spec.likelihood != "negative-binomial" or found.spec.dispersion != "learned"


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
    forecast = found.forecast
    if forecast is None or found.loss is None or found.loss_error is None:
        return 0.0
    return excess_over(
        found.loss,
        found.loss_error,
        forecast.loss + found.data_loss,
        found.collapsed_loss if collapses_freely(forecast) else None,
        attainable=is_attainable(forecast),
    )


def collapses_freely(found: Forecast) -> bool:
    """Whether `collapsed_loss` can be reached: units of a fixed sigma cost KL at any output.

    Beside a forecast that is attainable it only says how much units could bring.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> fixed = forecast(Moments.from_matrices([[4.0]]), VAESpec(1, sigma=0.5))
        >>> collapses_freely(fixed)
        True
    """
    learned = all(isinstance(sigma, str) for sigma in found.spec.sigma_levels)
    return learned or is_attainable(found)


def keeps_too_many(found: Diagnosis) -> bool:
    """Whether a linear model keeps more units than the optimum of the linear model itself.

    That it can only where it is not there yet, or where those units are near their threshold.
    """
    if found.is_network or found.forecast is None or not is_attainable(found.forecast):
        return False
    kept = kept_units(found.forecast)
    return any(level.n_active > most for level, most in zip(found.levels, kept, strict=True))


def count_of(count: int, name: str) -> str:
    """Return a number of things in words.

    Example:
        >>> count_of(1, "unit"), count_of(2_000, "unit")
        ('1 unit', '2,000 units')
    """
    return f"{count:,} {name}{'s' * (count != 1)}"


def gain_in_words(found: Diagnosis, at: int) -> str:
    """Return what one more unit of a level would buy, as a clause; nothing where it is nothing.

    Args:
        found: With a signal.
        at: Index of the level.
    """
    gain = found.gains[at]
    if math.isnan(gain.nats) or gain.nats <= max(NOTHING, gain.worth * NOTHING):
        return ""
    error = f" \u00b1 {gain.error:.1g}" if gain.error >= 0.05 * gain.nats else ""
    text = f"one more unit would buy about {gain.nats:.2g}{error} nats"
    if _is_far(found, at):
        text = f"one more unit would buy up to about {gain.nats:.2g} nats, a rough upper guess far "
        text += "from the optimum"
    if gain.parts > 1:
        text += f", used differently in {gain.parts} parts of latent space"
    if gain.nats <= gain.worth:
        text += f", less than the {gain.worth:.2g} worth a unit"
    return text


def _is_far(found: Diagnosis, at: int) -> bool:
    """Whether a gain rests on a curvature that is another where the unit would lead to."""
    if found.spec is None or found.likelihood in (None, "gaussian"):
        return False
    return found.gains[at].nats > float(unit_gain(found.spec, FAR, level=at + 1))


def what_decides(found: Diagnosis, at: int) -> str:
    """Return how many rows would decide on which side of 1 a level's t is, as a clause.

    Args:
        found: With a signal.
        at: Index of the level.
    """
    if found.n < LEAST_ROWS:
        return f"at least {LEAST_ROWS} rows are needed"
    if in_parts_only(found, at):
        return gain_in_words(found, at)
    if leaves_out(found, at) and not found.undecided_units[at]:
        return "of some outputs, far from their best, t knows nothing"
    rows = rows_to_decide(found.signal[at], found.signal_error[at], found.n)
    if rows is None:
        return "100 times as many rows might not tell"
    return f"about {rows:,} rows would tell"


def _of_level(found: Diagnosis, at: int) -> Conclusion:
    spare, gain = has_spare(found, at), found.gains[at]
    if found.n < LEAST_ROWS or math.isnan(found.signal[at]):
        return "undecided"
    if found.paying_units[at] or pays_in_parts(gain):
        return "signal-unclaimed" if spare else "more-units-pay"
    if found.undecided_units[at] or (gain.parts > 1 and gain.nats > gain.worth):
        return "undecided"
    if leaves_out(found, at):
        return "undecided"
    # If t is above 1 all the same, it is noise injected below, which nobody misses.
    return "collapse-optimal" if spare else "nothing-to-do"


def leaves_out(found: Diagnosis, at: int) -> bool:
    """Whether t of a level, far from the best outputs, counts only some of them."""
    return at == 0 and any(note.startswith(LEFT_OUT) for note in found.notes)


def in_parts_only(found: Diagnosis, at: int) -> bool:
    """Whether only a unit that is used differently in each part of latent space might pay."""
    return not found.undecided_units[at] and found.gains[at].parts > 1


def pays_in_parts(gain: Gain) -> bool:
    """Whether one more unit surely pays if used differently in each part of latent space."""
    return gain.parts > 1 and gain.nats - SURE * gain.error > gain.worth


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
