"""Active units of all runs of a stack at once, for a device that is slow at many small things.

What the posteriors of all runs are is computed vectorised, on the device; what the units know of
the rows, on the processor, with the units of all runs beside each other.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posterior_collapse.arrays import Float
from posterior_collapse.diagnosis.directions import free_levels
from posterior_collapse.diagnosis.exact import is_exact
from posterior_collapse.diagnosis.levels import Posteriors, RowPosteriors
from posterior_collapse.diagnosis.passes import DECODED, LEAST_STD
from posterior_collapse.diagnosis.reading import noise_generator
from posterior_collapse.diagnosis.statistics import Information
from posterior_collapse.models import MarkovVAE
from posterior_collapse.models.modules import arithmetic
from posterior_collapse.training.batches import Batch
from posterior_collapse.training.stacking import Stack
from posterior_collapse.training.units import SAMPLES, SEED, active, active_units

__all__ = ["Counting"]


class Counting:
    """Counts the active units of a stack's runs on some rows, as `active_units` does of each.

    Args:
        stack: The runs.
        models: One per run, on the CPU; they are given the runs' parameters where runs are counted
            one by one.
        rows: On the CPU.
    """

    def __init__(self, stack: Stack, models: Sequence[MarkovVAE], rows: Batch) -> None:
        self._stack, self._models, self._rows = stack, models, rows
        one_by_one = stack.device.type == "cpu" or free_levels(models[0]) or is_exact(models[0])
        self._here: Any = None if one_by_one else self._moved()

    def __call__(self, runs: Sequence[int]) -> list[list[float]]:
        """Return the number of active units per level, of each of some runs."""
        if self._here is not None:
            return self._together(runs)
        models = [self._models[run] for run in runs]
        for model, own in zip(models, self._stack.states(runs), strict=True):
            model.load_state_dict(own)
        return [active_units(model, self._rows) for model in models]

    def _moved(self) -> tuple[Batch, list[Tensor]]:
        """The rows, and the noise that `active_units` draws, on the device."""
        x, y = self._rows
        device, model = self._stack.device, self._models[0]
        draw = noise_generator(torch.device("cpu"), SEED)
        samples = DECODED if len(model.units) == 1 else SAMPLES
        noise = [
            torch.randn(samples, len(x), n, generator=draw, dtype=x.dtype, device="cpu").to(device)
            for n in model.units
        ]
        return Batch(x.to(device), None if y is None else y.to(device)), noise

    def _together(self, runs: Sequence[int]) -> list[list[float]]:
        rows, noise = self._here
        with arithmetic():
            found = self._stack.each(_levels, rows.x, rows.y, noise)
        # One copy of all numbers of a level; (runs, numbers, units) to (numbers, runs x units).
        levels = [level.cpu().numpy()[list(runs)] for level in found]
        failed = np.any([(level[:, 2] != 1).any(1) for level in levels], 0)
        centred = self._stack.model.centred
        counts = [self._count(number, level, centred) for number, level in enumerate(levels, 1)]
        each = np.where(failed, math.nan, np.stack(counts)).T
        return [[n if math.isnan(n) else int(n) for n in own] for own in each.tolist()]

    def _count(self, number: int, level: Float, centred: bool) -> Float:
        runs, _, units = level.shape
        n, halves = len(self._rows.x), 1 if number == 1 else 2
        known = np.isfinite(level[:, 4:]).all((1, 2))
        columns = np.concatenate(list(level[known]), 1) if known.any() else level[0, :, :0]
        kl, noise, _, prior_std = columns[:4]
        parts = tuple(columns[4:].reshape(2 * halves, n, -1))
        posteriors = RowPosteriors(
            kl[None], parts[:halves], parts[halves:], noise[None], prior_std[None]
        )
        counts = np.full(runs, math.nan)
        if known.any():
            found = active(posteriors, centred, rows=n, judge=_informations)
            counts[known] = found.reshape(-1, units).sum(1)
        return counts


def _informations(posteriors: Posteriors) -> list[Information]:
    """`posteriors.information()`, each core taking some of the units."""
    cores = os.cpu_count() or 1
    units = posteriors.mean.shape[1]
    bounds = np.linspace(0, units, min(cores, units) + 1).astype(int)
    with ThreadPoolExecutor(cores) as pool:
        parts = pool.map(lambda a, b: posteriors.information(slice(a, b)), bounds[:-1], bounds[1:])
        return [one for part in parts for one in part]


def _levels(model: MarkovVAE, x: Tensor, y: Tensor | None, noise: list[Tensor]) -> list[Tensor]:
    """Per level what decides which units are active, (4 + halves x 2 x rows, units), in float64.

    The rows: mean KL; largest noise; whether the posteriors are numbers, 1 or 0; prior std; then
    the means that halves of the samples give, (rows, units) each, and the variances likewise.
    """
    found = []
    for level, (q, p, z) in enumerate(model.paths(x, y, noise), start=1):
        mean, std, prior_std = q.mean.double(), q.std.double(), p.std.double()
        variance = std.square()
        # The top's own mean against the prior's, below it the sample's.
        second = (z - p.mean).double().square()
        if level == len(noise):
            second = (mean - p.mean.double()).square() + variance
        kl = 0.5 * (second / prior_std.square() - 1) + (prior_std / std).log()
        usable = mean.isfinite() & std.isfinite() & (std >= LEAST_STD)
        std = std.expand_as(mean)
        variance = variance.expand_as(mean)
        width = mean.shape[-1]
        if level == 1:
            halves, spreads, injected = [mean], [variance], variance
        else:
            both = list(zip(mean.chunk(2), variance.chunk(2), strict=True))
            halves = [m.mean(0) for m, _ in both]
            spreads = [m.var(0) + v.mean(0) for m, v in both]
            injected = variance.mean(0)
        found.append(
            torch.cat(
                [
                    kl.expand(*kl.shape[:-1], width).flatten(0, -2).mean(0, keepdim=True),
                    injected.amax(0, keepdim=True),
                    usable.flatten(0, -2).all(0, keepdim=True).double(),
                    prior_std.square().expand(width).sqrt()[None],
                    *halves,
                    *spreads,
                ]
            )
        )
    return found
