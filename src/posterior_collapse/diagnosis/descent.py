"""Down to the minimum next to where one starts, also of a loss that is nearly kinked."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from posterior_collapse.arrays import Float
from posterior_collapse.diagnosis.rows import RowLoss

SETTLED = 1e-5
"""Of the scores' std: a mean gradient below it is at the optimum. Losses in float32 reach it."""
POLISH = 60
"""Newton steps at the end. What drifts to infinity, as a logit of a class that never occurs, moves
by about 1 with each."""
ROUNDING, HALVINGS = 1e-10, 60
"""A mean slope beside single rows' that is none, and steps that find where one turns."""
DAMPING = 1e-8
"""Relative: added to a curvature, of which a loss in float32 may round all away."""


def descended(
    rows: RowLoss, start: Tensor, kept: Tensor, scale: Tensor, apart: bool
) -> tuple[Tensor, bool]:
    """Return the weights of the minimum next to a start, and whether its slope vanishes.

    Args:
        rows: The loss.
        start: Weights that it is finite at, (inputs, outputs).
        kept: Outputs that are moved, (outputs,).
        scale: Roots of their curvatures, (outputs,).
        apart: Whether each output stands for itself.
    """
    weights, settled = _trusted(rows, start, kept, scale)
    if not settled:
        weights = _turned(rows, weights, kept, apart)
        weights, settled = _trusted(rows, weights, kept, scale)
    return weights, settled


def _trusted(rows: RowLoss, start: Tensor, kept: Tensor, scale: Tensor) -> tuple[Tensor, bool]:
    """Return where a trust region and Newton's steps end, and whether the slope vanishes there."""
    if not kept.any():
        return start, True
    inputs, scale = rows.inputs.shape[1], scale[kept]
    # In units of the curvature all outputs are alike.
    scale = torch.where(scale > 0, scale.clamp(min=1e-4 * float(scale.max())), 1.0)

    def weights_at(u: Any) -> Tensor:
        weights = start.clone()
        part = torch.from_numpy(np.asarray(u).reshape(inputs, -1)).to(start)
        weights[:, kept] = start[:, kept] + part / scale
        return weights

    def value(u: Any) -> tuple[float, Float]:
        loss, slope = rows.value(weights_at(u))
        return loss, (slope[:, kept] / scale).cpu().numpy().ravel()

    def hessian_product(u: Any, v: Any) -> Float:
        vector = torch.zeros_like(start)
        vector[:, kept] = torch.from_numpy(np.asarray(v).reshape(inputs, -1)).to(start) / scale
        (found,) = rows.hessian_products(weights_at(u), rows.inputs, [vector])
        return (found[:, kept] / scale).cpu().numpy().ravel()

    u = np.zeros(inputs * int(kept.sum()))

    def pulls(u: Any) -> float:
        """Root mean square of what single rows pull with, that a mean gradient is set against."""
        return float((rows.scores(weights_at(u))[:, kept] / scale).square().mean().sqrt())

    noise = pulls(u)
    if noise > 0:
        # A trust region takes a step out of the loss's domain for what it is: too long.
        found = minimize(
            value, u, jac=True, hessp=hessian_product, method="trust-ncg",
            options={"gtol": SETTLED * noise, "maxiter": 200, "max_trust_radius": 1e6},
        )  # fmt: skip
        u = _polished(np.asarray(found.x), value, hessian_product, 1e-12 * noise)
    loss, slope = value(u)
    settled = math.isfinite(loss) and float(np.abs(slope).max()) <= SETTLED * max(pulls(u), noise)
    return weights_at(u), settled


def _polished(u: Float, value: Any, hessian_product: Any, rounding: float) -> Float:
    """Follow Newton's steps for as long as they make the gradient smaller."""
    _, slope = value(u)
    for _ in range(POLISH):
        if np.abs(slope).max() <= rounding:
            break
        # What does not curve gives no step, and is refused below.
        step = _newton_step(partial(hessian_product, u), slope, 1e-6)
        loss, after = value(u - step)
        if not math.isfinite(loss) or not np.linalg.norm(after) < 0.9 * np.linalg.norm(slope):
            break
        u, slope = u - step, after
    return u


def _newton_step(bent: Callable[[Any], Float], side: Float, accuracy: float) -> Float:
    """Return the step that a Hessian, as a product with vectors, takes to a side."""
    operator = LinearOperator((side.size, side.size), matvec=bent, dtype=np.float64)
    with np.errstate(all="ignore"):
        step, _ = cg(operator, side, rtol=accuracy, maxiter=500)
    return np.asarray(step)


def _turned(rows: RowLoss, weights: Tensor, kept: Tensor, apart: bool) -> Tensor:
    """Return weights near a minimum of a loss that is nearly kinked, where a descent gets stuck.

    A step may then be no longer than from kink to kink; Newton's direction is good beyond them. So
    that is followed for as far as the loss falls; by outputs that stand for themselves one by one.
    """
    least, slope = rows.value(weights)
    for _ in range(POLISH):
        if not bool((slope.abs() > ROUNDING * rows.scores(weights).abs().mean()).any()):
            break
        step = torch.where(kept, (_own_steps if apart else _joint_step)(rows, weights, slope), 0.0)
        further = weights + _share(rows, weights, step, kept, apart) * step
        value, after = rows.value(further)
        if not value < least:
            break
        weights, least, slope = further, value, after
    return weights


def _share(rows: RowLoss, weights: Tensor, step: Tensor, kept: Tensor, apart: bool) -> Tensor:
    """Return how much of a step the loss falls along, (outputs,): 0 where it falls for ever."""

    def rise(share: Tensor) -> Tensor:
        value, slope = rows.value(weights + share * step)
        found = (step * slope).sum(dim=0)
        found = found if apart else found.sum().expand_as(found)
        return found if math.isfinite(value) else torch.full_like(found, math.inf)

    low, high = torch.zeros_like(step[0]), torch.ones_like(step[0])
    for _ in range(HALVINGS):
        risen = rise(high)
        if bool((risen > 0)[kept].all()):
            break
        low, high = high.where(risen < 0, low), high.where(risen > 0, 2 * high)
    low = low.where(risen > 0, 0.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        falls = rise(middle) < 0
        low, high = middle.where(falls, low), high.where(falls, middle)
    return low


def _own_steps(rows: RowLoss, weights: Tensor, slope: Tensor) -> Tensor:
    """Return Newton's step of each output; where that leads uphill, down its slope."""
    eye = torch.eye(len(weights)).to(weights)
    sides = [one[:, None].repeat(1, rows.m) for one in eye]
    bent = torch.stack(rows.hessian_products(weights, rows.inputs, sides)).permute(2, 0, 1)
    size = bent.diagonal(dim1=1, dim2=2).mean(dim=1).abs()
    damped = bent + torch.where(size > 0, DAMPING * size, 1.0)[:, None, None] * eye
    step = -torch.linalg.solve(damped, slope.T[:, :, None])[:, :, 0].T
    return torch.where((step * slope).sum(dim=0) < 0, step, -slope)


def _joint_step(rows: RowLoss, weights: Tensor, slope: Tensor) -> Tensor:
    """Return the same of all outputs together."""

    def bent(vector: Any) -> Any:
        moved = torch.from_numpy(np.asarray(vector).reshape(slope.shape)).to(slope)
        return rows.hessian_products(weights, rows.inputs, [moved])[0].cpu().numpy().ravel()

    found = _newton_step(bent, -slope.cpu().numpy().ravel(), 1e-4)
    step = torch.from_numpy(found.reshape(slope.shape)).to(slope)
    return step if bool((step * slope).sum() < 0) else -slope
