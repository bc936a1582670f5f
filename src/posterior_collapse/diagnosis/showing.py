"""What a model shows of itself: what each unit moves in the output, and how rows come back."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posterior_collapse.arrays import ImageShape
from posterior_collapse.diagnosis.effects import decoded_mean
from posterior_collapse.diagnosis.results import LevelDiagnosis
from posterior_collapse.models import LatentModel

__all__ = ["STOPS", "Shown", "Traversal", "show"]

STOPS = (-2.0, -4 / 3, -2 / 3, 0.0, 2 / 3, 4 / 3, 2.0)
"""Stds of the aggregate posterior at which a unit is held in turn."""
MOST_UNITS, MOST_ROWS = 32, 8
MOST_NUMBERS = 2**21
"""Of the outputs that are kept of a level: 8 MiB."""


@dataclass(frozen=True, eq=False)
class Traversal:
    """What the decoder makes of a unit that goes through its range, the others at their means.

    Attributes:
        unit: Index within its level.
        outputs: The decoder's mean at each of `STOPS`, (stops, features), single precision.
    """

    unit: int
    outputs: NDArray[np.float32]

    @property
    def move(self) -> NDArray[np.float64]:
        """What one std changes, on average from end to end, (features,)."""
        ends = self.outputs[-1].astype(np.float64) - self.outputs[0]
        move: NDArray[np.float64] = ends / (STOPS[-1] - STOPS[0])
        return move


@dataclass(frozen=True, eq=False)
class Shown:
    """Pictures of a model.

    Attributes:
        traversals: Per level, of the units with the most KL.
        targets: Some rows, (rows, features).
        outputs: What the decoder makes of their posteriors' means, likewise.
        image_shape: Shape of a row's output, if it is an image.
        names: What the features of the output are called, where that is known.
    """

    traversals: tuple[tuple[Traversal, ...], ...]
    targets: NDArray[np.float32]
    outputs: NDArray[np.float32]
    image_shape: ImageShape | None = None
    names: tuple[str, ...] | None = None


@torch.no_grad()
def show(
    model: LatentModel,
    x: Tensor,
    y: Tensor | None,
    levels: Sequence[LevelDiagnosis],
    image_shape: ImageShape | None = None,
) -> Shown | None:
    """Return pictures of a model; None where it does not decode a few rows by themselves.

    Nothing is drawn at random.

    Args:
        model: In evaluation mode.
        x: Some rows, (rows, dim x), at least one.
        y: Their targets, (rows, dim y), or none.
        levels: What was found on all rows.
        image_shape: Shape of a row's output, if it is an image.
    """
    x, y = x[:MOST_ROWS], None if y is None else y[:MOST_ROWS]
    with contextlib.suppress(RuntimeError):  # of a model that needs all rows at once
        latents = model.infer(x, y)
        outputs = decoded_mean(model, 1, latents[0], x)
        traversals = tuple(
            tuple(_traversals(model, number, level, z, x[:1], outputs.shape[-1]))
            for number, (level, z) in enumerate(zip(levels, latents, strict=True), start=1)
        )
        targets = _single(x if y is None else y)
        if image_shape is not None and math.prod(image_shape) != targets.shape[-1]:
            image_shape = None
        return Shown(traversals, targets, _single(outputs), image_shape)
    return None


def _traversals(
    model: LatentModel, number: int, level: LevelDiagnosis, like: Tensor, x: Tensor, features: int
) -> list[Traversal]:
    most = min(MOST_UNITS, MOST_NUMBERS // (len(STOPS) * features))
    usable = np.array([status != "diverged" for status in level.status])
    units = [int(unit) for unit in np.argsort(-level.kl, kind="stable") if usable[unit]][:most]
    if not units:
        return []
    held = np.tile(np.where(usable, level.aggregate_mean, 0.0), (len(units), len(STOPS), 1))
    for place, unit in enumerate(units):
        held[place, :, unit] += np.array(STOPS) * level.aggregate_std[unit]
    z = torch.from_numpy(held.reshape(-1, held.shape[-1])).to(like)
    outputs = _single(decoded_mean(model, number, z, x.expand(len(z), -1)))
    return [
        Traversal(unit, outputs[place * len(STOPS) : (place + 1) * len(STOPS)])
        for place, unit in enumerate(units)
    ]


def _single(values: Tensor) -> Any:
    return values.float().cpu().numpy()
