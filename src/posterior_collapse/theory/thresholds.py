"""Which variance lets a unit live: what a loss sets, and what a trained model leaves beside it.

Adding one unit that the decoder uses linearly is, whatever the architecture, a linear VAE on what
the decoder leaves unexplained (theory sections 1 to 3): it pays exactly when the strongest
unexplained variance passes the unit's threshold. What a loss asks for depends on how it is written
(section 8).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from posterior_collapse import checks
from posterior_collapse.arrays import Float
from posterior_collapse.checks import Likelihood
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.records import Record
from posterior_collapse.specs import Spec

SURE = 2.0
"""Standard errors that count as certain."""
ROUNDING = 1e-6
"""Relative tolerance: at an exact optimum a signal and its threshold agree up to this, and so do a
loss and its minimum."""
AT_OPTIMUM = 2 * math.sqrt(ROUNDING)
"""By which a signal may exceed its threshold where the loss is at its minimum within `ROUNDING`: a
unit for a signal t = 1 + d gains about d^2 / 4 nats per beta."""
LEAST_ROWS = 10
"""Rows from which standard errors are worth their name, so that a verdict can rest on them."""
UNTRAINED = 0.01
"""Share of all that units can bring, in nats, that a loss may lack and not be worth a word."""
UNSEEN_KURTOSIS, HIDDEN = 6.0, 200.0
"""Excess of kurtosis that few rows may hide, and rows over it that as many hide."""
MOST_MORE = 100.0
"""Times as many rows that nobody is asked for."""

Side = Literal["above", "below", "undecided"]
Reduction = Literal["sum", "mean"]


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


def excess_loss(
    loss: float, error: float, least: float, collapsed: float | None, *, attainable: bool
) -> float:
    """Return by how many nats a loss surely exceeds one that can be had; 0 where it does not.

    Whether training has arrived goes by this alone. What counts is a share of all that units can
    bring, so that the data's own units do not matter, beside what is noise.

    Args:
        loss: Of a trained model, in nats per row, as the other two.
        error: Its standard error.
        least: The forecast's.
        collapsed: That of the best model without latent units; None if that is not known.
        attainable: Whether a linear model reaches `least`. An approximation need not be reached:
            what can be had is then the loss of the best constant, without any unit.

    Example:
        >>> [excess_loss(loss, 0.001, 2.0, 3.0, attainable=True) for loss in (2.01, 2.5)]
        [0.0, 0.5]
        >>> excess_loss(2.5, 0.001, 2.0, 3.0, attainable=False)
        0.0
    """
    possible = 0.0
    if not attainable:
        if collapsed is None:
            return 0.0
        least = collapsed
    elif collapsed is not None:
        possible = max(collapsed - least, 0.0)
    excess = loss - least
    slack = SURE * error + UNTRAINED * possible + ROUNDING * abs(least)
    return excess if excess > slack else 0.0


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
    higher. And few rows do not show their tails: it is at least that of Gaussian rows, and of few
    rows that of heavier tails, up to a kurtosis of 9 (Student's t of 5 degrees of freedom).

    Args:
        variance: As estimated.
        error: Its standard error, as estimated.
        n: Rows that both were estimated from.

    Example:
        >>> [round(variance_error(1.0, math.sqrt(2 / n), n), 3) for n in (10, 100, 10_000)]
        [1.62, 0.247, 0.014]
    """
    spread = 2 + min(UNSEEN_KURTOSIS, HIDDEN / n)
    error = max(error, variance * math.sqrt(spread / max(n - 1, 1)))
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
        spec: The hyperparameters; of `sigma="shared"` with the trained value in its place, which
            one more unit finds as it is.
        variance: Largest eigenvalue of the covariance of the mean residual, in squared units of
            what the level decodes: y - E[mu_y(z)] for level 1 (for a conditional model less what
            x predicts of it), z1 - E[mu_1(z2) | z1] for level 2, and so on. Of a likelihood that
            is not Gaussian, of the mean scores at level 1 in the noise that it tolerates there.
        level: 1 is next to the data.
        eta_dec: Decoder std into the data, needed where `spec` learns it; else the spec's counts.
        spare_above: Whether the level above has a unit to spare, which can lower the threshold.

    Raises:
        InvalidArgumentError: No such level, a negative variance, or eta_dec missing.

    Source:
        Sections 1a, 1b and 3 of the derivation, applied to the residual.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> unclaimed_signal(VAESpec(8, beta=2.0, eta_dec=0.5), variance=0.4)
        0.8
    """
    if level not in range(1, len(spec.dims) + 1):
        levels = f"1 to {len(spec.dims)}"
        raise InvalidArgumentError("level", level, levels, "Level 1 is next to the data.")
    if np.ndim(variance) or isinstance(variance, str) or not variance >= 0:
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


def unit_gain(spec: Spec, t: npt.ArrayLike, *, level: int = 1, spare_above: bool = False) -> Float:
    """Return by how many nats per row one more unit lowers the loss, for a signal t.

    What the signal pays less what the unit costs: `beta/2 (t - 1 - log t)` for a learned sigma and
    `beta/2 (sigma/s)^2 (sqrt(t) - 1)^2` for a fixed one, s the std of the unit's prior; 0 up to
    t = 1. A unit of a fixed sigma that the level above encodes in turn gains more. Exact for linear
    models. A network, which may use one unit differently in each part of its latent space, gains
    the sum over parts, each by its share and its own t.

    Args:
        spec: The hyperparameters; of a sigma for each unit the least counts.
        t: As of `unclaimed_signal`, of any shape.
        level: 1 is next to the data.
        spare_above: Whether the level above has a unit to spare; t is then the one with it.

    Source:
        Sections 1a, 1b and 3 of the derivation: the loss at the optimum with the mode and without.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> unit_gain(VAESpec(8, beta=2.0), [0.5, 1.0, np.e]).round(3).tolist()
        [0.0, 0.0, 0.718]
    """
    t = np.maximum(np.asarray(t, dtype=np.float64), 1.0)
    weight = spec.beta_levels[level - 1]
    if isinstance(spec.sigma_levels[level - 1], str):
        found: Float = weight / 2 * (t - 1 - np.log(t))
        return found
    cost = weight * _sigma_share(spec, level) ** 2
    found = cost / 2 * np.square(np.sqrt(t) - 1)
    if not spare_above or level == len(spec.dims):
        return found
    # Beyond `edge`, the std at which the unit above begins to live, each further nat costs less.
    beta, above = spec.beta_levels[level], spec.sigma_levels[level]
    if isinstance(above, str):
        ratio = cost / beta
        if ratio >= 1:
            return np.asarray(beta / 2 * (t - 1 - np.log(t)))
        heard = cost / 2 * (t + 1 - 2 / ratio - np.log(t * ratio**2) / ratio)
        return np.where(t > ratio**-2, heard, found)
    edge = math.sqrt(beta / cost) * _sigma_share(spec, level + 1)
    if edge <= 1:
        return np.asarray(cost * edge / 2 * (t + 2 - 3 * np.cbrt(t)))
    heard = cost / 2 * (t + 1 + edge**2 - 3 * np.cbrt(t * edge**2))
    return np.where(t > edge**4, heard, found)


def idle_cost(spec: Spec, level: int, *, spare_above: bool = False) -> float:
    """Return the nats per row that a unit costs which tells nothing: 0 for a learned sigma.

    Negative, below the top, for a unit whose noise it pays to have.

    Args:
        spec: The hyperparameters; of a sigma for each unit the least counts.
        level: 1 is next to the data.
        spare_above: Whether the level above has a unit to spare, to encode its noise.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> round(idle_cost(VAESpec(8, beta=2.0, sigma=0.5), 1), 3), idle_cost(VAESpec(8), 1)
        (0.636, 0.0)
    """
    if isinstance(spec.sigma_levels[level - 1], str):
        return 0.0
    weight, share = spec.beta_levels[level - 1], _sigma_share(spec, level)
    left = share**2
    if spare_above and level < len(spec.dims):
        rho = spec.beta_levels[level] / weight
        if isinstance(spec.sigma_levels[level], str):
            left = left if left <= rho else rho * (1 + math.log(left / rho))
        else:
            left -= max(share - math.sqrt(rho) * _sigma_share(spec, level + 1), 0.0) ** 2
    return weight / 2 * (left - 1 - 2 * math.log(share))


def _sigma_share(spec: Spec, level: int) -> float:
    """A fixed sigma over the std of its prior; that is sigma's own at the optimum if learned."""
    etas = spec.eta_levels
    prior = etas[level] if level < len(etas) else spec.eta_enc
    return 1.0 if isinstance(prior, str) else float(np.min(spec.sigma_levels[level - 1])) / prior


@dataclass(frozen=True)
class EffectiveBeta(Record):
    """A loss `a * reconstruction error + b * KL` per sample, and the threshold that it sets.

    Attributes:
        value: beta eta_dec^2 = b / (2 a): the variance a data mode must exceed to keep a unit
            with learned sigma. Of a likelihood that is not Gaussian beta = b / a: what a mode must
            exceed in the noise that the likelihood tolerates.
        squared_error_weight: a, per squared error summed over features; of another likelihood per
            nat of its negative logarithm.
        kl_weight: b, per nat summed over latents.
        likelihood: What the error is the negative logarithm of.
    """

    value: float
    squared_error_weight: float
    kl_weight: float
    likelihood: Likelihood = "gaussian"

    derived: ClassVar = ("text",)

    @property
    def text(self) -> str:
        """The result as a sentence."""
        if self.likelihood != "gaussian":
            return (
                f"beta = {self.value:.6g}: your loss is -log p(y|z) + {self.value:.6g} KL, of "
                f"likelihood {self.likelihood!r}. A data mode keeps a latent unit only if its "
                "variance, in units of this likelihood's own noise, exceeds it."
            )
        return (
            f"beta * eta_dec^2 = {self.value:.6g}: your loss has beta = {self.value:.6g} "
            f"at eta_dec = 1. A data mode keeps a latent unit only if its variance exceeds it."
        )


def effective_beta(
    weight: float = 1.0,
    *,
    features: int | None = None,
    latents: int | None = None,
    reconstruction: Reduction = "sum",
    kl: Reduction = "sum",
    half: bool = False,
    gaussian_std: float | None = None,
    batch_size: int | None = None,
    reconstruction_batch: Reduction = "mean",
    kl_batch: Reduction = "mean",
    likelihood: Likelihood = "gaussian",
) -> EffectiveBeta:
    """Return beta eta_dec^2 of a loss `squared error + weight * KL`, or beta of another error's.

    Args:
        weight: Factor of the KL term.
        features: Number of features D of a sample, needed for `reconstruction="mean"`: what the
            mean is over; for a categorical, its positions (tokens).
        latents: Number of latent units, needed for `kl="mean"`.
        reconstruction: Error summed or averaged over features.
        kl: KL summed or averaged over latent units.
        half: Whether the squared error carries a factor 1/2.
        gaussian_std: Std of a Gaussian negative log-likelihood, if that is the reconstruction
            term (its 1/2 included).
        batch_size: Samples per batch; needed when the two batch reductions differ.
        reconstruction_batch: Reconstruction summed or averaged over the batch.
        kl_batch: KL summed or averaged over the batch.
        likelihood: What the error is, if not a squared one: "bernoulli" (binary cross-entropy),
            "categorical" (cross-entropy), "poisson" or "negative-binomial".

    Raises:
        InvalidArgumentError: A number that is needed is missing or out of range.

    Example:
        >>> effective_beta(features=784, reconstruction="mean").value  # nn.MSELoss and a summed KL
        392.0
        >>> effective_beta(half=True).value  # 1/2 |y - mu|^2 + KL
        1.0
        >>> effective_beta(features=784, reconstruction="mean", likelihood="bernoulli").value
        784.0
    """
    b = checks.positive("weight", weight)
    a, per_a, per_b = 1.0, 1, 1  # the terms are a / per_a and b / per_b
    likelihood = checks.likelihood("likelihood", likelihood)
    if likelihood == "other":
        raise InvalidArgumentError(
            "likelihood", "'other'", "a likelihood that is known", "Use audit_loss on your loss."
        )
    gaussian, half = likelihood == "gaussian", checks.flag("half", half)
    if not gaussian and (half or gaussian_std is not None):
        raise InvalidArgumentError(
            "half" if half else "gaussian_std",
            f"a value with likelihood {likelihood!r}",
            "nothing: only a squared error has it",
            "Leave it out.",
        )
    for name, value in (
        ("reconstruction", reconstruction),
        ("kl", kl),
        ("reconstruction_batch", reconstruction_batch),
        ("kl_batch", kl_batch),
    ):
        if value not in ("sum", "mean"):
            raise InvalidArgumentError(name, repr(value), "'sum' or 'mean'", f"Pass {name}='sum'.")
    if gaussian_std is not None:
        if half:
            raise InvalidArgumentError(
                "half", "True with gaussian_std", "one of them", "A Gaussian has its 1/2 already."
            )
        a = 1 / (2 * checks.positive("gaussian_std", gaussian_std) ** 2)
    elif half:
        a = 0.5
    if reconstruction == "mean":
        per_a *= _needed("features", features, "the reconstruction is a mean over them")
    if kl == "mean":
        per_b *= _needed("latents", latents, "the KL is a mean over them")
    if reconstruction_batch != kl_batch:
        size = _needed("batch_size", batch_size, "one term is a mean over it and one a sum")
        if reconstruction_batch == "mean":
            per_a *= size
        else:
            per_b *= size
    found = b * per_a / ((2 if gaussian else 1) * a * per_b)
    return EffectiveBeta(found, a / per_a, b / per_b, likelihood)


def _needed(name: str, value: int | None, why: str) -> int:
    if value is None:
        raise InvalidArgumentError(name, "nothing", f"a number, since {why}", f"Pass {name}=...")
    return checks.whole(name, value, least=1)
