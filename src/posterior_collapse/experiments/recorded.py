"""A linear model trained on moments by Adam, its distance to the closed form at every step."""

from __future__ import annotations

import itertools

import numpy as np

from posterior_collapse.models import CONVENTIONS, MarkovVAE, read_parameters
from posterior_collapse.moments import Moments
from posterior_collapse.theory import ExactObjective, Forecast
from posterior_collapse.training import Settings
from posterior_collapse.training.exact import first_order

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
        settings: `steps`, `optimiser`, `learning_rate`, `clip` and `convention` count.
        moments: Raw moments.
        expected: The closed form to measure the distance to.
        decays: Whether the learning rate falls to 0 along half a cosine. At a constant rate Adam
            comes near the optimum and, now and then, leaves it again; which iteration finds it
            where is left to rounding.
    """
    objective = ExactObjective(moments, model.spec, CONVENTIONS[settings.convention])
    history: History = {}
    steps = settings.steps or settings.epochs
    moves = first_order(model, objective, settings, decays_over=steps if decays else None)
    for step, loss in itertools.islice(moves, steps):
        if step <= EVERY_STEP or step % EVERY == 0 or step == steps:
            row = {"step": step, "loss": loss, **distances(model, objective, expected)}
            for name, entry in row.items():
                history.setdefault(name, []).append(entry)
    return history


def distances(model: MarkovVAE, objective: ExactObjective, expected: Forecast) -> dict[str, float]:
    """Return the mean absolute errors of a linear model's singular values and stds, by name.

    `V1` is `W1 P Phi^(1/2)` of arXiv:2306.05023 (of a conditional model, W2 on what x leaves of
    y), `U1` the decoder, `sigma_1` the posterior stds, each sorted; and so on per level.
    """
    found = read_parameters(model)
    errors: dict[str, float] = {}
    for number, (level, (encoder, decoder)) in enumerate(
        zip(expected.levels, objective.singular_values(found), strict=True), start=1
    ):
        std = np.sort(found[f"sigma_{number}"])
        errors |= {
            f"V{number}": float(np.abs(encoder - level.encoder_singular_values).mean()),
            f"U{number}": float(np.abs(decoder - level.decoder_singular_values).mean()),
            f"sigma_{number}": float(np.abs(std - np.sort(level.posterior_std)).mean()),
        }
    return errors
