"""What runs draw: one generator per purpose and epoch, each derived from a run's seed.

Initialisation, data order and noise are functions of (seed, purpose, epoch): a resumed run needs
no generator's state to go on bit for bit, and a run of a sweep meets the same numbers as alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from posterior_collapse.diagnosis.reading import derived_seed
from posterior_collapse.models import MarkovVAE

INITIALISATION, ORDER, NOISE, MASKS, MEASURE = range(5)


def generator(
    seed: int, purpose: int, epoch: int = 0, device: str | torch.device = "cpu"
) -> torch.Generator:
    """Return the generator of one purpose of a run, in one epoch.

    Example:
        >>> a, b = (torch.rand(1, generator=generator(0, p)).item() for p in (ORDER, NOISE))
        >>> a != b
        True
    """
    return torch.Generator(device).manual_seed(derived_seed(seed, purpose, epoch))


class Draws(NamedTuple):
    """What a step draws: noise (runs, n, units) per level, dropout masks (runs, n, width)."""

    noise: tuple[Tensor, ...]
    masks: dict[str, Tensor]


BLOCK = 32
"""Steps whose noise is drawn at once: one call per run and level instead of one per step."""


def draw(
    model: MarkovVAE,
    run_seeds: Sequence[int],
    epoch: int,
    batch_size: int,
    like: Tensor,
    *,
    block: int = BLOCK,
    skip: int = 0,
) -> Iterator[Draws]:
    """Yield the draws of an epoch's steps, for batches of up to `batch_size` rows.

    Args:
        model: Says how many units and which masks there are.
        run_seeds: Seed of each run.
        epoch: From 0.
        batch_size: Rows; a smaller batch takes the first ones.
        like: Gives dtype and device.
        block: Steps whose noise is drawn at once; part of what decides the noise.
        skip: Steps to pass over.
    """
    device, dtype = like.device, like.dtype
    noise = [generator(seed, NOISE, epoch, device) for seed in run_seeds]
    masks = [generator(seed, MASKS, epoch, device) for seed in run_seeds]
    step = 0
    while True:
        levels = [_block(noise, (block, batch_size, units), dtype, device) for units in model.units]
        for within in range(block):
            drawn = [model.draw_masks(batch_size, g, dtype) for g in masks] if model.masks else []
            if step >= skip:
                yield Draws(
                    tuple(level[within] for level in levels),
                    {name: torch.stack([one[name] for one in drawn]) for name in model.masks},
                )
            step += 1


def _block(
    generators: Sequence[torch.Generator],
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """(steps, runs, batch, units), so that a step's noise is contiguous."""
    steps, batch, units = shape
    found = torch.empty(steps, len(generators), batch, units, dtype=dtype, device=device)
    for run, own in enumerate(generators):
        found[:, run] = torch.randn(shape, generator=own, dtype=dtype, device=device)
    return found


def first_rows(draws: Draws, n: int) -> Draws:
    """Return the draws of a batch of n rows, contiguous."""
    if draws.noise[0].shape[1] == n:
        return draws
    return Draws(
        tuple(level[:, :n].contiguous() for level in draws.noise),
        {name: mask[:, :n].contiguous() for name, mask in draws.masks.items()},
    )
