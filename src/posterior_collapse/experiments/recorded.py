"""A linear model trained on moments by Adam, its distance to the closed form at every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from posterior_collapse.models import (
    MarkovVAE,
    linear_values,
    loss,
    moment_terms,
    read_parameters,
)
from posterior_collapse.moments import Moments
from posterior_collapse.theory import Forecast
from posterior_collapse.theory.objective import ExactObjective
from posterior_collapse.training import Settings
from posterior_collapse.training.optimisers import clip_

__all__ = ["distances", "train"]

EVERY_STEP, EVERY = 200, 50
"""So many first steps are all recorded, of later ones every 50th."""
History = dict[str, list[float]]


def train(
    model: MarkovVAE,
    settings: Settings,
    moments: Moments,
    expected: Forecast,
    *,
    decays: bool = False,
) -> History:
    """Train in place; return loss and distances by step.

    Args:
        model: Of architecture `linear`, without biases.
        settings: `steps`, `learning_rate` and `clip` count.
        moments: Raw moments.
        expected: The closed form to measure the distance to.
        decays: Whether the learning rate falls to 0 along half a cosine (Loshchilov and Hutter
            2017, arXiv:1608.03983). At a constant rate Adam comes near the optimum and, now and
            then, leaves it again; which iteration finds it where is left to rounding.
    """
    objective = ExactObjective(moments, model.spec)
    data = [
        None if m is None else torch.from_numpy(np.array(m, dtype=np.float64))
        for m in (
            moments.xx,
            moments.yx if moments.paired else None,
            moments.yy if moments.paired else None,
        )
    ]
    assert data[0] is not None
    parameters = list(model.parameters())
    optimiser = torch.optim.Adam(parameters, lr=settings.learning_rate)
    bound = None if settings.clip is None else torch.tensor([settings.clip], dtype=torch.float64)
    history: History = {"step": [], "loss": []}
    steps = settings.steps or settings.epochs
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps) if decays else None
    for step in range(1, steps + 1):
        optimiser.zero_grad()
        value = loss(
            moment_terms(linear_values(model), data[0], *data[1:]),
            model.spec.beta_levels,
            convention=settings.convention,
        )
        value.backward()  # type: ignore[no-untyped-call]
        if bound is not None:
            clip_([p.grad.unsqueeze(0) for p in parameters if p.grad is not None], bound)
        optimiser.step()
        if rate is not None:
            rate.step()
        if step <= EVERY_STEP or step % EVERY == 0 or step == steps:
            row = {"step": step, "loss": value.item(), **distances(model, objective, expected)}
            for name, entry in row.items():
                history.setdefault(name, []).append(entry)
    return history


def distances(model: MarkovVAE, objective: ExactObjective, expected: Forecast) -> dict[str, float]:
    """Return the mean absolute errors of a linear model's singular values and stds, by name.

    `V1` is `W1 P Phi^(1/2)` of arXiv:2306.05023 (of a conditional model, W2 on what x leaves of
    y), `U1` the decoder, `sigma_1` the posterior stds, each sorted; and so on per level.
    """
    found = read_parameters(model)
    return _errors(objective.singular_values(found), found, expected)


def _errors(
    singular_values: list[tuple[Any, Any]], found: Mapping[str, Any], expected: Forecast
) -> dict[str, float]:
    errors: dict[str, float] = {}
    for number, (level, (encoder, decoder)) in enumerate(
        zip(expected.levels, singular_values, strict=True), start=1
    ):
        std = np.sort(found[f"sigma_{number}"])
        errors |= {
            f"V{number}": float(np.abs(encoder - level.encoder_singular_values).mean()),
            f"U{number}": float(np.abs(decoder - level.decoder_singular_values).mean()),
            f"sigma_{number}": float(np.abs(std - np.sort(level.posterior_std)).mean()),
        }
    return errors
