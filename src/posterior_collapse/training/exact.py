"""Linear models trained on moments alone: full batch, the noise integrated out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from posterior_collapse.errors import InvalidArgumentError, NonFiniteLossError
from posterior_collapse.models import (
    MarkovVAE,
    Terms,
    linear_values,
    loss,
    moment_terms,
    set_biases,
)
from posterior_collapse.moments import Moments
from posterior_collapse.training.measuring import ACTIVE_INFORMATION
from posterior_collapse.training.optimisers import SGD, Adam, Optimiser, clip_
from posterior_collapse.training.runs import FINISHED, Run
from posterior_collapse.training.settings import Settings
from posterior_collapse.training.stacking import reconstruction

__all__ = ["ITERATIONS", "check", "train"]

ITERATIONS = 20_000
"""At most so many, where `steps` does not say."""
ROUNDS = 8
"""L-BFGS is started anew from its result while that still lowers the loss: its own last steps are
lost in the rounding of a stale curvature."""
EVERY = 10
"""Iterations between rows of the history."""


def check(settings: Settings) -> None:
    """Refuse what exact training has no use for.

    Raises:
        InvalidArgumentError: A schedule, early stopping or half precision.
    """
    for name in ("warm_up", "cycles", "free_bits", "capacity", "patience"):
        if getattr(settings, name):
            raise InvalidArgumentError(
                name, getattr(settings, name), "nothing in exact training", "Leave it away."
            )


def train(
    model: MarkovVAE, settings: Settings, moments: Moments, *, alone: bool
) -> tuple[Run, int]:
    """Train a linear model in place, in float64; return its course and its iterations.

    Args:
        model: Of architecture `linear`, its stds independent of the input.
        settings: `steps` bounds the iterations.
        moments: Central for a model with biases, raw for one without.
        alone: Raise when the loss is not finite.

    Raises:
        InvalidArgumentError: The model is not linear, or a std depends on the input.
        NonFiniteLossError: The loss became NaN or infinite.
    """
    objective = _Objective(model, moments, settings)
    run = Run(settings)
    method = {"adam": Adam, "sgd": lambda p, r: SGD(p, r, settings.momentum)}
    try:
        if settings.optimiser in (None, "lbfgs"):
            steps = _lbfgs(objective, settings.steps or ITERATIONS, run)
        else:
            steps = _first_order(objective, method[settings.optimiser], settings, run)
    except _NonFiniteError as error:
        if alone:
            raise NonFiniteLossError(
                f"loss at iteration {error}", "NaN or inf", "a finite loss",
                "Lower learning_rate, or check that the loss has a minimum.",
            ) from None  # fmt: skip
        run.stopped, steps = f"non-finite: loss at iteration {error}", int(str(error))
    objective.set_biases()
    run.stopped = run.stopped or FINISHED
    return run, steps


class _NonFiniteError(Exception):
    """The iteration at which the loss was not finite."""


class _Objective:
    """The loss as a function of the model's parameters, which it moves in place."""

    def __init__(self, model: MarkovVAE, moments: Moments, settings: Settings) -> None:
        self.model, self.moments, self.convention = model, moments, settings.convention
        biases = {"encoders.0.mean.x.bias", "decoders.0.heads.z.bias"}
        self.parameters = {n: p for n, p in model.named_parameters() if n not in biases}
        paired = moments.paired
        self.data = [
            torch.from_numpy(np.ascontiguousarray(m)) if m is not None else None
            for m in (moments.xx, moments.yx if paired else None, moments.yy if paired else None)
        ]

    def terms(self) -> Terms:
        xx, yx, yy = self.data
        assert xx is not None
        return moment_terms(linear_values(self.model), xx, yx, yy)

    def gradient(self) -> tuple[Tensor, list[Tensor]]:
        value = loss(self.terms(), self.model.spec.beta_levels, convention=self.convention)
        return value.detach(), list(torch.autograd.grad(value, list(self.parameters.values())))

    @torch.no_grad()
    def move(self, point: NDArray[np.float64]) -> None:
        start = 0
        for p in self.parameters.values():
            p.copy_(torch.from_numpy(point[start : start + p.numel()]).view_as(p))
            start += p.numel()

    def point(self) -> NDArray[np.float64]:
        flat = torch.cat([p.detach().flatten() for p in self.parameters.values()])
        found: NDArray[np.float64] = flat.numpy()
        return found

    @torch.no_grad()
    def row(self, iteration: int) -> dict[str, float]:
        terms = self.terms()
        value = loss(terms, self.model.spec.beta_levels, convention=self.convention)
        batched = terms._replace(squared_error=terms.squared_error[None])
        row: dict[str, float] = {
            "epoch": iteration,
            "step": iteration,
            "loss": float(value),
            "reconstruction": float(reconstruction(batched, self.convention)),
        }
        for level, (kl, known) in enumerate(
            zip(terms.kl, self._information(), strict=True), start=1
        ):
            row[f"kl_{level}"] = float(kl.sum())
            row[f"active_{level}"] = int((known > ACTIVE_INFORMATION).sum())
        return row

    def _information(self) -> list[Tensor]:
        """Of each unit, in nats: `-1/2 log(1 - S/T)` with its variance due to x, and in all."""
        values = linear_values(self.model)
        xx, yx, yy = self.data
        seen = xx
        if self.model.conditional and xx is not None and yx is not None and yy is not None:
            seen = torch.cat([torch.cat([xx, yx.mT], -1), torch.cat([yx, yy], -1)], -2)
        assert seen is not None
        known = total = seen
        found = []
        for W, std in zip(values.encoders, values.stds, strict=True):
            known = W @ known @ W.mT
            total = W @ total @ W.mT + torch.diag(std.square())
            share = known.diagonal() / total.diagonal()
            found.append(-0.5 * torch.log1p(-share.clamp(0, 1 - 1e-12)))
        return found

    def set_biases(self) -> None:
        if not self.model.architecture.bias:
            return
        x = torch.as_tensor(self.moments.mean_x)
        set_biases(self.model, x, torch.as_tensor(self.moments.mean_y))


def _lbfgs(objective: _Objective, limit: int, run: Run) -> int:
    done = 0
    last_finite = objective.point()

    def value_and_gradient(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        nonlocal last_finite
        objective.move(point)
        value, gradients = objective.gradient()
        if not bool(value.isfinite()):
            objective.move(last_finite)
            raise _NonFiniteError(done)
        last_finite = point.copy()
        return float(value), torch.cat([g.flatten() for g in gradients]).numpy()

    def after(xk: NDArray[np.float64]) -> None:
        nonlocal done
        done += 1
        if done % EVERY == 0:
            run.record(objective.row(done))

    best = math.inf
    for _ in range(ROUNDS):
        options: Any = {
            "maxcor": 50, "maxiter": limit - done, "maxfun": 10 * limit,
            "ftol": 1e-16, "gtol": 1e-10,
        }  # fmt: skip
        start: Any = objective.point()
        found = minimize(
            value_and_gradient, start, jac=True, method="L-BFGS-B", callback=after, options=options
        )
        objective.move(found.x)
        if done >= limit or best - found.fun < 1e-12 * max(1.0, abs(found.fun)):
            break
        best = found.fun
    run.record(objective.row(done))
    return done


@torch.no_grad()
def _first_order(
    objective: _Objective,
    method: Callable[[dict[str, Tensor], Sequence[float]], Optimiser],
    settings: Settings,
    run: Run,
) -> int:
    # A stack of one: the optimisers count runs along the first axis.
    stacked = {name: p.detach().unsqueeze(0) for name, p in objective.parameters.items()}
    optimiser = method(stacked, [settings.learning_rate])
    bounds = None if settings.clip is None else torch.tensor([settings.clip], dtype=torch.float64)
    steps = settings.steps or ITERATIONS
    for step in range(steps):
        with torch.enable_grad():
            value, gradients = objective.gradient()
        own = [g.unsqueeze(0).contiguous() for g in gradients]
        norm = clip_(own, bounds)
        if not bool((value + norm).isfinite()):
            raise _NonFiniteError(step)
        optimiser.step(own, [0])
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            run.record(objective.row(step + 1))
    return steps
