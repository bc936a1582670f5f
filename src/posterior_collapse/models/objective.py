"""The loss of one batch: its terms, their weights, and how these move with the step.

A model turns a batch and its noise into `Terms`, which keep every unit's KL apart; `loss` turns
`Terms` and betas into one number, the beta-ELBO or what a convention makes of it. Betas, free bits
and capacity may be tensors, so that the runs of a vectorised sweep can differ.

torch is imported where it is needed: conventions and schedules are checked without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard, cast

from posterior_collapse import checks
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.specs import Spec

if TYPE_CHECKING:
    from torch import Tensor


class Terms(NamedTuple):
    """What one batch contributes to the loss, in nats, before any weight.

    Attributes:
        squared_error: `|y - mu|^2` per sample, (batch,), in data units squared. Of another
            likelihood the deviance stands for it, twice the loss that its `Observation` gives.
        eta_dec: Decoder std, (); 1 of another likelihood.
        normaliser: `dim(y)/2 log(2 pi eta_dec^2)`, (); 0 of another likelihood.
        kl: Per level, bottom first, the KL of each unit, (batch, units). Below the top it is
            `E_q[log q(z_l|.) - log p(z_l|z_{l+1})]` with z_{l+1} drawn from z_l: it can be
            negative (arXiv:2306.05023, section 5).
        means: Per level, the posterior means, (batch, units).
    """

    squared_error: Tensor
    eta_dec: Tensor
    normaliser: Tensor
    kl: tuple[Tensor, ...]
    means: tuple[Tensor, ...]


def log_normaliser(eta_dec: Tensor, dim: int) -> Tensor:
    """Return `dim/2 log(2 pi eta_dec^2)` in nats, of the shape of `eta_dec`.

    Example:
        >>> import torch
        >>> round(log_normaliser(torch.tensor(1.0), 2).item(), 4)
        1.8379
    """
    return dim * (eta_dec.log() + 0.5 * math.log(2 * math.pi))


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
    weights = _weights_of(convention)
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


def _weights_of(convention: str) -> Weights:
    checks.one_of("convention", convention, sorted(CONVENTIONS), "Pass convention='elbo'.")
    return CONVENTIONS[convention]


def loss(
    terms: Terms,
    betas: Tensor | Sequence[float],
    *,
    convention: str = "elbo",
    free_bits: Tensor | float | None = None,
    capacity: Tensor | Sequence[float] | float | None = None,
) -> Tensor:
    """Return the batch-averaged loss, (): reconstruction plus beta times KL, summed over levels.

    Args:
        terms: What a model's forward or `exact_terms` returned.
        betas: Beta per level, (levels,).
        convention: A key of `CONVENTIONS`.
        free_bits: KL in nats that each unit has for free: a unit's batch-averaged KL counts as
            `max(KL, free_bits)` (Kingma et al. 2016).
        capacity: Target KL in nats of each level, one or (levels,): level l counts as
            `|KL_l - capacity_l|`, on the batch average (Burgess et al. 2018).

    Raises:
        InvalidArgumentError: An unknown convention, or not one beta per level.

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> terms = Terms(4 * one, one[0], 0 * one[0], (one[None],), (one[None],))
        >>> loss(terms, [2.0]).item()
        4.0
        >>> loss(terms, [2.0], convention="reference").item()
        6.0
    """
    import torch

    weights = _weights_of(convention)
    units = [level.mean(0) for level in terms.kl]
    if free_bits is not None:
        floor = torch.as_tensor(free_bits, dtype=units[0].dtype, device=units[0].device)
        units = [torch.maximum(kl, floor) for kl in units]
    kl = torch.stack([level.sum() for level in units])  # (levels,)
    betas = torch.as_tensor(betas, dtype=kl.dtype, device=kl.device)
    if betas.shape != kl.shape:
        raise InvalidArgumentError(
            "betas",
            f"shape {tuple(betas.shape)}",
            f"one beta per level, {tuple(kl.shape)}",
            "Pass spec.beta_levels.",
        )
    if capacity is not None:
        kl = (kl - torch.as_tensor(capacity, dtype=kl.dtype, device=kl.device)).abs()
    error = terms.squared_error.mean() / terms.eta_dec.square()
    return (
        weights.squared_error * error
        + weights.normaliser * terms.normaliser
        + weights.kl * (betas * kl).sum()
    )


def warm_up(step: int | Tensor, steps: int | Tensor) -> float | Tensor:
    """Return the factor of beta in a linear warm-up: 0 at step 0, 1 from `steps` on.

    Source: Bowman et al. 2016, arXiv:1511.06349.

    Example:
        >>> [warm_up(step, 4) for step in (0, 1, 4, 9)]
        [0.0, 0.25, 1.0, 1.0]
        >>> warm_up(0, 0)
        1.0
    """
    if _is_tensor(step) or _is_tensor(steps):
        import torch

        device = next(v.device for v in (step, steps) if _is_tensor(v))
        length = torch.as_tensor(steps, device=device)
        return torch.where(length > 0, (step / length.clamp(min=1)).clamp(max=1.0), 1.0)
    return min(step / steps, 1.0) if steps > 0 else 1.0


def cyclical(
    step: int | Tensor, total_steps: int, *, cycles: int = 4, ramp: float = 0.5
) -> float | Tensor:
    """Return the factor of beta in cyclical annealing.

    The run is cut into `cycles` equal cycles; each rises linearly from 0 to 1 over its first
    `ramp` share and stays at 1 for the rest; after the run it stays at 1.

    Source: Fu et al. 2019, arXiv:1903.10145.

    Raises:
        InvalidArgumentError: `cycles` or `total_steps` below 1, or `ramp` outside (0, 1].

    Example:
        >>> [cyclical(step, 8, cycles=2) for step in range(9)]
        [0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    """
    if cycles < 1 or total_steps < cycles:
        raise InvalidArgumentError(
            "cycles",
            f"{cycles} cycles in {total_steps} steps",
            "at least one step per cycle",
            "Lower cycles or train longer.",
        )
    if not 0 < ramp <= 1:
        raise InvalidArgumentError("ramp", ramp, "a share in (0, 1]", "Pass e.g. ramp=0.5.")
    # Whole numbers until the last division: a cycle starts at exactly 0.
    position = (step * cycles % total_steps) / total_steps / ramp
    if _is_tensor(position):
        import torch

        within = cast("Tensor", step) < total_steps
        return torch.where(within, position.clamp(max=1.0), 1.0)
    return min(position, 1.0) if step < total_steps else 1.0


def capacity(step: int | Tensor, steps: int | Tensor, target: float | Tensor) -> float | Tensor:
    """Return the KL target in nats: rises linearly from 0 to `target` over `steps`.

    Source: Burgess et al. 2018, arXiv:1804.03599.

    Example:
        >>> [capacity(step, 10, target=20.0) for step in (0, 5, 10, 11)]
        [0.0, 10.0, 20.0, 20.0]
    """
    return warm_up(step, steps) * target


def check_warm_up(length: int, total: float, name: str = "warm_up", *, unit: str = "steps") -> None:
    """Refuse a warm-up that ends after the run, both of them in `unit`: it would never be over.

    Example:
        >>> check_warm_up(500, 400)
        Traceback (most recent call last):
        ...
        posterior_collapse.errors.InvalidArgumentError: warm_up: got 500 steps in a run of 400; ...
    """
    if length < 0:
        raise InvalidArgumentError(name, f"{length} {unit}", "0 or more", f"Pass {name}=0.")
    if length > total:
        raise InvalidArgumentError(
            name,
            f"{length} {unit} in a run of {total:g}",
            "a warm-up that ends within the run, or its target never applies in full",
            f"Pass at most {name}={int(total)}, or train longer.",
        )


def _is_tensor(value: Any) -> TypeGuard[Tensor]:
    """Told without torch, which settings are checked without."""
    return hasattr(value, "clamp")
