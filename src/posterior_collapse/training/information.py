"""Which units of a stack carry information on x: a quick count after each epoch of training.

It takes units for Gaussian, from second moments of some rows; `diagnose` measures what they know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from posterior_collapse.models import LinearValues, MarkovVAE
from posterior_collapse.theory.state import ACTIVE_INFORMATION
from posterior_collapse.training.feeding import Batch
from posterior_collapse.training.stacking import Stack

__all__ = [
    "active_units",
    "information",
    "linear_information",
    "moment",
    "unit_information",
]

RIDGE = 1e-12
"""Added to second moments, relative to their size: the sum can be factorised however narrow q."""


class _Upward(nn.Module):
    """Propagates a batch to each level twice: through posterior means, and through one sample."""

    def __init__(self, model: MarkovVAE) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, x: Tensor, y: Tensor | None, noise: Sequence[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        data = {"x": x} if y is None or not self.model.conditional else {"x": x, "y": y}
        above, sampled = data, data
        found = []
        for encoder, level_noise in zip(self.model.encoders, noise, strict=True):
            mean = encoder(above, {}).mean
            q = encoder(sampled, {})
            spread = torch.diag(q.std.square().expand(mean.shape).mean(0))
            found.append(
                (moment(mean, self.model.centred), moment(q.mean, self.model.centred) + spread)
            )
            above, sampled = {"z": mean}, {"z": q.at(level_noise)}
        return found


def moment(values: Tensor, centred: bool) -> Tensor:
    """Return the second moment of rows, (units, units), about their mean or about 0."""
    values = values - values.mean(0) if centred else values
    return values.mT @ values / len(values)


@torch.no_grad()
def information(stack: Stack, batch: Batch, noise: tuple[Tensor, ...]) -> list[Tensor]:
    """Return I(x; z_i) in nats per level, (runs, units), from second moments.

    Of linear models it is the forecast's, above level 1 with sampled noise. Where units can be
    rotated freely, of their directions: see `unit_information`.

    Args:
        stack: The models.
        batch: Rows to measure on.
        noise: (runs, n, units) per level.
    """
    upward = _Upward(stack.model)

    def one(parameters: Any, buffers: Any, noise: Any) -> Any:
        state = {f"model.{name}": v for name, v in {**parameters, **buffers}.items()}
        return functional_call(upward, state, (batch.x, batch.y, noise))

    levels = vmap(one)(stack.parameters, stack.buffers, noise)
    free = zip(*(stack.model.architecture.rotatable(spec) for spec in stack.specs), strict=True)
    return [
        unit_information(due, total, torch.tensor(runs, device=due.device))
        for (due, total), runs in zip(levels, free, strict=True)
    ]


def linear_information(model: MarkovVAE, values: LinearValues, first: Tensor) -> list[Tensor]:
    """Return what `information` estimates, (units,) per level, from the matrices alone.

    Args:
        model: A linear model.
        values: Its matrices.
        first: Second moment of the means of z_1, (units, units).
    """
    known, total, found = first, first, []
    free = model.architecture.rotatable(model.spec)
    for level, (W, std, one) in enumerate(zip(values.encoders, values.stds, free, strict=True)):
        if level:
            known, total = W @ known @ W.mT, W @ total @ W.mT
        total = total + torch.diag(std.square())
        runs = torch.tensor([one], device=first.device)
        found.append(unit_information(known[None], total[None], runs)[0])
    return found


def unit_information(due: Tensor, total: Tensor, free: Tensor) -> Tensor:
    """Return `-1/2 log(1 - S/T)` in nats, (runs, units).

    S is the variance of z_i's mean given x, T that of z_i. Where units can be rotated freely, of
    the canonical directions, most informed first: no rotation changes those.

    Args:
        due: Second moments of the means given x, (runs, units, units).
        total: Those of z, (runs, units, units).
        free: Whether units can be rotated, (runs,).
    """
    due, total = due.double(), total.double()
    share = due.diagonal(dim1=-2, dim2=-1) / total.diagonal(dim1=-2, dim2=-1)
    if bool(free.any()):
        eye = torch.eye(due.shape[-1], dtype=due.dtype, device=due.device)
        finite = total.isfinite().all(-1).all(-1)[:, None, None]
        due, total = (torch.where(finite, moment, eye) for moment in (due, total))
        size = total.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        root = torch.linalg.cholesky(total + RIDGE * size * eye)
        left = torch.linalg.solve_triangular(root, due, upper=False)
        white = torch.linalg.solve_triangular(root, left.mT, upper=False)
        share = torch.where(free[:, None], torch.linalg.eigvalsh(white).flip(-1), share)
    return -0.5 * torch.log1p(-share.clamp(0, 1 - 1e-12))


def active_units(levels: Sequence[Tensor]) -> list[Tensor]:
    """Return the number of active units per level, (runs,), from their information."""
    return [(level > ACTIVE_INFORMATION).sum(1) for level in levels]
