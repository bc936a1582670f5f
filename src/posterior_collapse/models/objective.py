"""The beta-ELBO of one batch, from per-sample terms that keep every unit's KL apart.

A model turns a batch and its noise into `Terms`; `loss` turns `Terms` and betas into one number.
Betas, free bits and capacity may be tensors, so that the runs of a vectorised sweep can differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models.conventions import weights_of

__all__ = ["Terms", "log_normaliser", "loss"]


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
        >>> round(log_normaliser(torch.tensor(1.0), 2).item(), 4)
        1.8379
    """
    return dim * (eta_dec.log() + 0.5 * math.log(2 * math.pi))


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
        >>> one = torch.ones(1)
        >>> terms = Terms(4 * one, one[0], 0 * one[0], (one[None],), (one[None],))
        >>> loss(terms, [2.0]).item()
        4.0
        >>> loss(terms, [2.0], convention="reference").item()
        6.0
    """
    weights = weights_of(convention)
    kl = torch.stack([_penalty(level, free_bits) for level in terms.kl])  # (levels,)
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


def _penalty(kl: Tensor, free_bits: Tensor | float | None) -> Tensor:
    per_unit = kl.mean(0)
    if free_bits is not None:
        floor = torch.as_tensor(free_bits, dtype=kl.dtype, device=kl.device)
        per_unit = torch.maximum(per_unit, floor)
    return per_unit.sum()
