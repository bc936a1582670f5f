"""Linear models trained on moments alone: full batch, the noise integrated out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from posterior_collapse.errors import InvalidArgumentError, NonFiniteLossError
from posterior_collapse.models import (
    CONVENTIONS,
    MarkovVAE,
    linear_values,
    load_parameters,
    read_parameters,
    set_biases,
    trained_parameters,
)
from posterior_collapse.moments import Moments
from posterior_collapse.theory.exact import ExactObjective
from posterior_collapse.theory.minimum import FINISHED, ITERATIONS, ReducedObjective, descend
from posterior_collapse.training.batches import Batch
from posterior_collapse.training.course import Course, kl_of_units
from posterior_collapse.training.settings import Settings
from posterior_collapse.training.steps import Optimiser, clip_
from posterior_collapse.training.units import active_units

EVERY = 10
"""Iterations between rows of the history."""


def goes_to_a_minimum(settings: Settings) -> bool:
    """Return whether a run ends at a minimum, by L-BFGS, and not with its last step at a rate."""
    return settings.optimiser in (None, "lbfgs")


def train(
    model: MarkovVAE,
    settings: Settings,
    moments: Moments,
    *,
    alone: bool,
    fresh: bool = True,
    some: Batch | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
) -> tuple[Course, int]:
    """Train a linear model in place, in float64; return its course and its iterations.

    Args:
        model: Of architecture `linear`, its stds independent of the input.
        settings: `steps` bounds the iterations.
        moments: Central for a model with biases, raw for one without.
        alone: Raise when the loss is not finite.
        fresh: Whether the model is as it was initialised, which knows nothing of the data's units.
        some: Rows on which active units are counted; None: they are not.
        report: Called with each row of the history.

    Raises:
        InvalidArgumentError: The model is not linear, a std depends on the input, or the data are
            too wide for a matrix of moments.
        NonFiniteLossError: The loss became NaN or infinite.
    """
    linear_values(model)  # refuses any other model
    if any(basis is not None for basis in moments.bases):
        raise InvalidArgumentError(
            "exact", "data too wide for a square matrix of moments", "up to 8,192 features",
            "Train by minibatches, or forecast: the optimum is known in closed form.",
        )  # fmt: skip
    objective = ExactObjective(moments, model.spec, CONVENTIONS[settings.convention])
    reduced, run = ReducedObjective(objective), Course(settings)
    limit = settings.steps or ITERATIONS
    done, point = 0, reduced.start(read_parameters(model), fresh=fresh)

    def record() -> None:
        row = _row(model, objective, done, some)
        run.record(row)
        if report is not None:
            report(row)

    def move() -> None:
        load_parameters(model, reduced.parameters(point))

    def after(iteration: int, at: NDArray[np.float64]) -> None:
        nonlocal done, point
        done, point = iteration, at.copy()
        if done % EVERY == 0:
            move()
            record()

    try:
        if goes_to_a_minimum(settings):
            found = descend(reduced, point, limit=limit, after=after)
            point, run.stopped = found.point, found.stopped
            move()
        else:
            move()
            for done, _ in itertools.islice(first_order(model, objective, settings), limit):
                if done % EVERY == 0:
                    record()
            run.stopped = FINISHED
        if done % EVERY or not done:
            record()
    except NonFiniteLossError as error:
        if alone:
            raise
        run.stopped = f"non-finite: {error.argument}"
        if goes_to_a_minimum(settings):
            move()  # to its last finite iteration
    if model.architecture.bias:
        means = [torch.tensor(mean, device="cpu") for mean in (moments.mean_x, moments.mean_y)]
        set_biases(model, *means)
    return run, done


def first_order(
    model: MarkovVAE,
    objective: ExactObjective,
    settings: Settings,
    *,
    decays_over: int | None = None,
) -> Iterator[tuple[int, float]]:
    """Move a linear model by Adam or SGD; yield each step's number and the loss before it.

    Args:
        model: In float64.
        objective: Of its spec.
        settings: `optimiser`, `learning_rate`, `momentum` and `clip` count.
        decays_over: Steps over which the learning rate falls to 0 along half a cosine (Loshchilov
            and Hutter 2017, arXiv:1608.03983); None: it stays.

    Raises:
        NonFiniteLossError: The loss or its gradient became NaN or infinite.
    """
    parameters = trained_parameters(model)
    # A stack of one: the optimisers count runs along the first axis.
    stacked = {name: p.detach().unsqueeze(0) for name, p in parameters.items()}
    optimiser, clip = Optimiser(settings, stacked, [settings.learning_rate]), settings.clip
    bounds = None if clip is None else torch.tensor([clip], dtype=torch.float64, device="cpu")
    for step in itertools.count():
        found = read_parameters(model)
        value, slopes = objective.loss_and_gradient(found)
        gradients = []
        for name, p in parameters.items():
            slope = torch.as_tensor(slopes[name], device=p.device)
            if name[0] not in "WU":  # a std, trained as its log
                slope = slope * torch.as_tensor(found[name], device=p.device)
            slope = slope if p.dim() else slope.sum()
            gradients.append(slope.reshape(1, *p.shape).contiguous())
        norm = clip_(gradients, bounds)
        if not math.isfinite(value + float(norm)):
            raise NonFiniteLossError(
                f"loss at iteration {step}", "NaN or inf", "a finite loss",
                "Lower learning_rate, or check that the loss has a minimum.",
            )  # fmt: skip
        factor = 1.0 if decays_over is None else (1 + math.cos(math.pi * step / decays_over)) / 2
        optimiser.step(gradients, [0], factor=factor)
        yield step + 1, value


@torch.no_grad()
def _row(
    model: MarkovVAE, objective: ExactObjective, iteration: int, some: Batch | None
) -> dict[str, float]:
    found = read_parameters(model)
    terms = objective.terms(found)
    loss, kl = objective.weighed(terms), [float(level.sum()) for level in terms.kl]
    weighted = objective.weights[1] * float(np.dot(objective.spec.beta_levels, kl))
    row = {"epoch": iteration, "step": iteration, "loss": loss, "reconstruction": loss - weighted}
    counts = [] if some is None else active_units(model, some)
    row |= {f"kl_{level}": total for level, total in enumerate(kl, start=1)}
    row |= {f"active_{level}": active for level, active in enumerate(counts, start=1)}
    for level, values in enumerate(terms.kl, start=1):
        row |= kl_of_units(level, values.tolist())
    return row
