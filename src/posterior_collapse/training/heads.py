"""The squared error of affine heads for all runs at once, without residuals of the data's size."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["squared_error"]


def squared_error(heads: Tensor, hidden: Tensor, target: Tensor) -> Tensor:
    """Return `|y - W h|^2`, (runs, n), as `|y|^2 + h.(W'W h - 2 W'y)`.

    The runs share the product with y, and what they need of their own has the size of h.

    Args:
        heads: `W'`, (runs, features, dim y).
        hidden: h, (runs, n, features).
        target: y, (n, dim y); constant.

    Example:
        >>> W, h, y = torch.ones(1, 1, 2), torch.tensor([[[3.0]]]), torch.tensor([[1.0, 5.0]])
        >>> squared_error(W, h, y)
        tensor([[8.]])
    """
    error, _ = _SquaredError.apply(heads, hidden, target)  # type: ignore[no-untyped-call]
    return cast(Tensor, error)


class _SquaredError(torch.autograd.Function):
    """Both gradients follow from `W'(W h - y)`; autograd would take products of them apart."""

    @staticmethod
    def forward(heads: Tensor, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        gram = heads @ heads.mT
        projected = (target @ heads.flatten(0, 1).T).view(-1, *heads.shape[:2]).transpose(0, 1)
        half = hidden @ gram - projected
        return target.square().sum(1) + (hidden * (half - projected)).sum(2), half

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        heads, hidden, target, half = ctx.saved_tensors
        twice = 2 * gradients[0].unsqueeze(2)
        weighted = twice * hidden
        cross = (weighted.transpose(0, 1).flatten(1).T @ target).view_as(heads)
        own = torch.baddbmm(cross, weighted.mT @ hidden, heads, beta=-1)
        return own, twice * half, None
