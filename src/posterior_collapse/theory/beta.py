"""What beta a loss really has, from how it is written (theory section 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from posterior_collapse import checks
from posterior_collapse.checks import Likelihood
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.records import Record

__all__ = ["EffectiveBeta", "effective_beta"]

Reduction = Literal["sum", "mean"]


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
                "variance, in units of the noise that this likelihood tolerates, exceeds it."
            )
        return (
            f"beta * eta_dec^2 = {self.value:.6g}: your loss is that of beta = {self.value:.6g} "
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
    """Return beta eta_dec^2 of a loss `squared error + weight * KL`, or beta of another's.

    Args:
        weight: Factor of the KL term.
        features: Number of features D of a sample, needed for `reconstruction="mean"`: what the
            mean is over, so of a categorical its positions (tokens).
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
    gaussian = likelihood == "gaussian"
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
