"""Terms of losses as people write them, for what `audit_loss` finds in them."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def kl(mean: Tensor, log_var: Tensor) -> Tensor:
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var)


def per_row(mean: Tensor, log_var: Tensor) -> Tensor:
    return kl(mean, log_var).sum(-1).mean()


def squared(y_hat: Tensor, y: Tensor) -> Tensor:
    return (y_hat - y).square().sum(-1).mean()


def cross_entropy(o: Tensor, y: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(o, y, reduction="sum") / len(o)


def flat(r: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    error = functional.cross_entropy(r.reshape(-1, r.shape[-1]), y.reshape(-1))
    return error + per_row(mean, log_var)
