"""Is a collapse optimal? The certificate of theory section 7, for models of any architecture.

Adding one unit that the decoder uses linearly is a linear VAE on what the decoder leaves
unexplained. It pays exactly when the strongest unexplained variance passes the unit's threshold.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.specs import Likelihood, Spec, require_gaussian

__all__ = [
    "AT_OPTIMUM",
    "LEAST_ROWS",
    "ROUNDING",
    "SURE",
    "rows_to_decide",
    "side_of_threshold",
    "unclaimed_signal",
    "variance_error",
    "why_not_yet",
]

SURE = 2.0
"""Standard errors that count as certain."""
ROUNDING = 1e-6
"""By which a signal may exceed its threshold, and relatively a loss its minimum, at an optimum."""
AT_OPTIMUM = 2 * math.sqrt(ROUNDING)
"""By which a signal may exceed its threshold where the loss is at its minimum within `ROUNDING`: a
unit for a signal t = 1 + d gains about d^2 / 4 nats per beta."""
LEAST_ROWS = 10
"""Rows from which standard errors are worth their name, so that a verdict can rest on them."""
MOST_MORE = 100.0
"""Times as many rows that nobody is asked for."""

LAWS: dict[Likelihood, str] = {
    "bernoulli": "a Bernoulli's",
    "categorical": "a categorical's",
    "poisson": "a Poisson's",
    "negative-binomial": "a negative binomial's",
}

Side = Literal["above", "below", "undecided"]


def why_not_yet(likelihood: Likelihood) -> str:
    """Return why a collapse under a likelihood has no verdict, as a clause.

    Example:
        >>> why_not_yet("bernoulli")
        "the certificate here is derived for Gaussian decoders, and this loss is a Bernoulli's"
    """
    law = LAWS.get(likelihood, "not a Gaussian's")
    return f"the certificate here is derived for Gaussian decoders, and this loss is {law}"


def side_of_threshold(t: float, error: float) -> Side:
    """Say on which side of 1 a signal is, as far as its error lets one tell.

    Every verdict on a collapse goes by this. A t that equals 1 but for rounding is at an optimum
    that leaves just the threshold, as those of a fixed sigma do: it is not above.

    Args:
        t: A variance left unexplained, over the threshold of one more unit.
        error: Its standard error.

    Example:
        >>> [side_of_threshold(t, 0.05) for t in (0.8, 1.06, 1.2, 1.0)]
        ['below', 'undecided', 'above', 'below']
    """
    if abs(t - 1) <= ROUNDING:
        return "below"
    if t - SURE * error > 1:
        return "above"
    return "below" if t + SURE * error <= 1 else "undecided"


def rows_to_decide(t: float, error: float, n: int) -> int | None:
    """Return how many rows would tell on which side of 1 t is, if it stays what it is.

    An error shrinks with the root of the number of rows. None: none is known, or more than 100
    times as many.

    Example:
        >>> rows_to_decide(1.06, 0.05, 1000)
        2800
    """
    if not (math.isfinite(t) and math.isfinite(error)) or t == 1:
        return None
    more = (SURE * error / (t - 1)) ** 2
    if not 1 <= more <= MOST_MORE:
        return None
    rows = max(more * n, LEAST_ROWS)
    step = int(10 ** max(0, math.floor(math.log10(rows)) - 1))  # for two digits
    return math.ceil(rows / step) * step


def variance_error(variance: float, error: float, n: int) -> float:
    """Return a variance's standard error such that twice it on either side covers the truth.

    Estimated from the same few rows, an error is small where the variance came out small; that of
    the variance's logarithm is not. So it is made half the way to where the logarithm is two errors
    higher. And few rows do not show their tails: it is at least that of Gaussian rows.

    Args:
        variance: As estimated.
        error: Its standard error, as estimated.
        n: Rows that both were estimated from.

    Example:
        >>> [round(variance_error(1.0, math.sqrt(2 / n), n), 3) for n in (10, 100, 10_000)]
        [0.784, 0.164, 0.014]
    """
    error = max(error, variance * math.sqrt(2 / max(n - 1, 1)))
    # Beyond, sampling noise makes most of the error, which is no share of the variance.
    relative = error / variance if variance > 2 * error else 0.5
    return error * math.expm1(SURE * relative) / (SURE * relative)


def unclaimed_signal(
    spec: Spec,
    variance: float,
    *,
    level: int = 1,
    eta_dec: float | None = None,
    spare_above: bool = True,
) -> float:
    """Return t: the strongest unexplained variance over the threshold of one more unit.

    With units collapsed, t <= 1 says that collapse is what the objective asks for, and t > 1 that
    signal is left unclaimed: the optimiser failed. With no unit collapsed, t > 1 says that more
    units would pay. For decoders that are not linear this is strong evidence, not a proof. A t
    that was measured has an error, and says neither within two of them of 1.

    Args:
        spec: The hyperparameters.
        variance: Largest eigenvalue of the covariance of the mean residual, in squared units of
            what the level decodes: y - E[mu_y(z)] for level 1 (for a conditional model less what
            x predicts of it), z1 - E[mu_1(z2) | z1] for level 2, and so on.
        level: 1 is next to the data.
        eta_dec: Decoder std into the data; needed where `spec` learns it.
        spare_above: Whether the level above has a unit to spare, which can lower the threshold.

    Raises:
        InvalidArgumentError: No such level, a negative variance, or eta_dec missing.
        NotSolvedError: The likelihood is not Gaussian.

    Source:
        Sections 1a, 1b and 3 of the derivation, applied to the residual.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> unclaimed_signal(VAESpec(8, beta=2.0, eta_dec=0.5), variance=0.4)
        0.8
    """
    require_gaussian(spec)
    if not 1 <= level <= len(spec.dims):
        raise InvalidArgumentError(
            "level", level, f"1 to {len(spec.dims)}", "Level 1 is next to the data."
        )
    if not variance >= 0:
        raise InvalidArgumentError(
            "variance", variance, "a number that is not negative", "Pass an eigenvalue."
        )
    etas = [eta_dec if e == "learned" else float(e) for e in spec.eta_levels]
    if any(eta is None for eta in etas):
        raise InvalidArgumentError(
            "eta_dec", "nothing, for a learned one", "the trained std", "Pass eta_dec."
        )
    known = [float(eta) for eta in etas if eta is not None]
    priors = [*known[1:], spec.eta_enc]
    here, above = level - 1, level
    ratio = spec.beta_levels[here] / (spec.beta_levels[here - 1] if here else 1.0)
    scale = ratio * known[here] ** 2
    sigma = spec.sigma_levels[here]
    if isinstance(sigma, str):
        return variance / scale
    std = float(np.min(sigma))
    threshold = scale * (std / priors[here]) ** 2
    if above < len(spec.dims) and spare_above:
        # a unit that the level above encodes in turn may live on less (section 3)
        ratio = spec.beta_levels[above] / spec.beta_levels[here]
        sigma = spec.sigma_levels[above]
        if isinstance(sigma, str):
            helped = scale * ratio
        else:
            kappa = np.sqrt(ratio) * priors[here] / priors[above] * float(np.min(sigma))
            helped = scale / priors[here] ** 2 * std * kappa
        threshold = min(threshold, helped)
    return float(variance / threshold)
