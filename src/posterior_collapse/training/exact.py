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
from posterior_collapse.training.course import FINISHED, LIMIT
from posterior_collapse.training.course import Course as Run
from posterior_collapse.training.elimination import Eliminated
from posterior_collapse.training.information import linear_information
from posterior_collapse.training.measuring import ACTIVE_INFORMATION
from posterior_collapse.training.optimisers import SGD, Adam, Optimiser, clip_
from posterior_collapse.training.settings import Settings
from posterior_collapse.training.stacking import reconstruction

__all__ = ["ITERATIONS", "check", "train"]

ITERATIONS = 20_000
"""At most so many, where `steps` does not say."""
SAME = 1e-13
"""L-BFGS is started anew from its result while that still lowers the loss by more than this share:
its own last steps are lost in the rounding of a stale curvature."""
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
    model: MarkovVAE,
    settings: Settings,
    moments: Moments,
    *,
    alone: bool,
    fresh: bool = True,
    report: Callable[[dict[str, float]], None] | None = None,
) -> tuple[Run, int]:
    """Train a linear model in place, in float64; return its course and its iterations.

    Args:
        model: Of architecture `linear`, its stds independent of the input.
        settings: `steps` bounds the iterations.
        moments: Central for a model with biases, raw for one without.
        alone: Raise when the loss is not finite.
        fresh: Whether the model is as it was initialised, which knows nothing of the data's units.
        report: Called with each row of the history.

    Raises:
        InvalidArgumentError: The model is not linear, a std depends on the input, or the data are
            too wide for a matrix of moments.
        NonFiniteLossError: The loss became NaN or infinite.
    """
    linear_values(model)  # refuses any other model
    objective = _Objective(model, moments, settings)
    search = Eliminated(model, moments, settings.convention, fresh=fresh)
    run = Run(settings)

    def record(iteration: int) -> None:
        row = objective.row(iteration)
        run.record(row)
        if report is not None:
            report(row)

    method = {"adam": Adam, "sgd": lambda p, r: SGD(p, r, settings.momentum)}
    try:
        if settings.optimiser in (None, "lbfgs"):
            steps, arrived = _lbfgs(search, settings.steps or ITERATIONS, record)
            run.stopped = FINISHED if arrived else LIMIT
        else:
            search.write(search.start())
            steps = _first_order(objective, method[settings.optimiser], settings, record)
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
        if any(basis is not None for basis in moments.bases):
            raise InvalidArgumentError(
                "exact", "data too wide for a square matrix of moments", "up to 8,192 features",
                "Train by minibatches, or forecast: the optimum is known in closed form.",
            )  # fmt: skip
        self.xx: Tensor = _tensor(moments.xx)
        self.yx: Tensor | None = _tensor(moments.yx) if moments.paired else None
        self.yy: Tensor | None = _tensor(moments.yy) if moments.paired else None

    def terms(self) -> Terms:
        return moment_terms(linear_values(self.model), self.xx, self.yx, self.yy)

    def gradient(self) -> tuple[Tensor, list[Tensor]]:
        value = loss(self.terms(), self.model.spec.beta_levels, convention=self.convention)
        return value.detach(), list(torch.autograd.grad(value, list(self.parameters.values())))

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
        """Of each unit, in nats."""
        values = linear_values(self.model)
        seen = self.xx
        if self.model.conditional and self.yx is not None and self.yy is not None:
            rows = torch.cat([self.xx, self.yx.mT], -1), torch.cat([self.yx, self.yy], -1)
            seen = torch.cat(rows, -2)
        W = values.encoders[0]
        return linear_information(self.model, values, W @ seen @ W.mT)

    def set_biases(self) -> None:
        if not self.model.architecture.bias:
            return
        x = torch.as_tensor(self.moments.mean_x)
        set_biases(self.model, x, torch.as_tensor(self.moments.mean_y))


def _tensor(moment: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(moment))


def _lbfgs(search: Eliminated, limit: int, record: Callable[[int], None]) -> tuple[int, bool]:
    """Return the iterations and whether they reached a minimum."""
    done = 0
    point: Any = search.start()
    last_finite = point

    def value_and_gradient(at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        nonlocal last_finite
        value, gradient = search(at)
        if not math.isfinite(value):
            search.write(last_finite)
            raise _NonFiniteError(done)
        last_finite = at.copy()
        return value, gradient

    def after(xk: NDArray[np.float64]) -> None:
        nonlocal done
        done += 1
        if done % EVERY == 0:
            search.write(xk)
            record(done)

    best, arrived = math.inf, False
    while done < limit and not arrived:
        options: Any = {
            "maxcor": 30, "maxiter": limit - done, "maxfun": 20 * limit,
            "ftol": 1e-16, "gtol": 1e-11,
        }  # fmt: skip
        found = minimize(
            value_and_gradient, point, jac=True, method="L-BFGS-B", callback=after, options=options
        )
        point = found.x
        arrived = best - found.fun < SAME * max(1.0, abs(found.fun))
        best = found.fun
    search.write(point)
    if done % EVERY or not done:
        record(done)
    return done, arrived


@torch.no_grad()
def _first_order(
    objective: _Objective,
    method: Callable[[dict[str, Tensor], Sequence[float]], Optimiser],
    settings: Settings,
    record: Callable[[int], None],
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
            record(step + 1)
    return steps
