"""How losses are written: conventions of the factors of error, KL and normaliser."""

from __future__ import annotations

from typing import NamedTuple

from posterior_collapse.errors import InvalidArgumentError, nearest
from posterior_collapse.specs import Spec

__all__ = ["CONVENTIONS", "Weights", "check_convention", "weights_of"]


class Weights(NamedTuple):
    """How a convention weighs `|y - mu|^2/eta_dec^2`, `beta KL` and the Gaussian normaliser."""

    squared_error: float
    kl: float
    normaliser: float


CONVENTIONS = {
    "elbo": Weights(0.5, 1.0, 1.0),
    "reference": Weights(1.0, 1.0, 0.0),
    "twice": Weights(1.0, 2.0, 0.0),
}
"""`elbo`: the negative beta-ELBO, every constant kept. `reference`: the paper's non-linear scripts,
whose effective beta is half the nominal one. `twice`: the paper's linear scripts and its theory,
twice `elbo` without the normaliser."""


def check_convention(convention: str, spec: Spec) -> Weights:
    """Return the weights of a convention that the spec can be trained with.

    Raises:
        InvalidArgumentError: An unknown convention, one without normaliser for a learned
            `eta_dec`, which would then grow for ever, or one of squared errors for a likelihood
            that has none.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> check_convention("elbo", VAESpec(latent_dim=2))
        Weights(squared_error=0.5, kl=1.0, normaliser=1.0)
    """
    weights = weights_of(convention)
    if weights != CONVENTIONS["elbo"] and spec.likelihood != "gaussian":
        raise InvalidArgumentError(
            "convention",
            f"{convention!r} with likelihood {spec.likelihood!r}",
            "'elbo', as the others weigh a squared error",
            "Pass convention='elbo'.",
        )
    if not weights.normaliser and "learned" in spec.eta_levels:
        raise InvalidArgumentError(
            "convention",
            f"{convention!r} with eta_dec='learned'",
            "a loss that keeps the Gaussian normaliser",
            "Pass convention='elbo' or a fixed eta_dec.",
        )
    return weights


def weights_of(convention: str) -> Weights:
    """Return the weights of a convention.

    Raises:
        InvalidArgumentError: There is none of that name.
    """
    if convention not in CONVENTIONS:
        raise InvalidArgumentError(
            "convention",
            repr(convention),
            f"one of {sorted(CONVENTIONS)}",
            f"Pass convention='elbo'.{nearest(str(convention), CONVENTIONS)}",
        )
    return CONVENTIONS[convention]
