"""What beta eta_dec^2 a loss really has, from how it is written (theory section 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from posterior_collapse import checks
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.records import Record

__all__ = ["EffectiveBeta", "effective_beta"]

Reduction = Literal["sum", "mean"]


@dataclass(frozen=True)
class EffectiveBeta(Record):
    """A loss `a * squared error + b * KL` per sample, and the threshold that it sets.

    Attributes:
        value: beta eta_dec^2 = b / (2 a): the variance a data mode must exceed to keep a unit
            with learned sigma.
        squared_error_weight: a, per squared error summed over features.
        kl_weight: b, per nat summed over latents.
    """

    value: float
    squared_error_weight: float
    kl_weight: float

    derived: ClassVar = ("text",)

    @property
    def text(self) -> str:
        """The result as a sentence."""
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
) -> EffectiveBeta:
    """Return beta eta_dec^2 of a loss `squared error + weight * KL`.

    Which units live under another error, such as a cross-entropy, goes by a law that is not given
    yet; `audit_loss` reads the beta off such a loss.

    Args:
        weight: Factor of the KL term.
        features: Number of features D of a sample, needed for `reconstruction="mean"`.
        latents: Number of latent units, needed for `kl="mean"`.
        reconstruction: Squared error summed or averaged over features.
        kl: KL summed or averaged over latent units.
        half: Whether the squared error carries a factor 1/2.
        gaussian_std: Std of a Gaussian negative log-likelihood, if that is the reconstruction
            term (its 1/2 included).
        batch_size: Samples per batch; needed when the two batch reductions differ.
        reconstruction_batch: Reconstruction summed or averaged over the batch.
        kl_batch: KL summed or averaged over the batch.

    Raises:
        InvalidArgumentError: A number that is needed is missing or out of range.

    Example:
        >>> effective_beta(features=784, reconstruction="mean").value  # nn.MSELoss and a summed KL
        392.0
        >>> effective_beta(half=True).value  # 1/2 |y - mu|^2 + KL
        1.0
    """
    b = checks.positive("weight", weight)
    a, per_a, per_b = 1.0, 1, 1  # the terms are a / per_a and b / per_b
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
    return EffectiveBeta(b * per_a / (2 * a * per_b), a / per_a, b / per_b)


def _needed(name: str, value: int | None, why: str) -> int:
    if value is None:
        raise InvalidArgumentError(name, "nothing", f"a number, since {why}", f"Pass {name}=...")
    return checks.count(name, value)
