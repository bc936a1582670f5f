"""How many units of a model are active, counted on some rows as `diagnose` counts them.

After each epoch of a sweep there may be a thousand units to judge. What a unit knows takes a
Fourier transform of all posteriors; for most units two bounds decide.

On a device that is slow at many small things, what the posteriors of all runs of a stack are is
computed vectorised, there; what the units know of the rows, on the processor, with the units of all
runs beside each other.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import entr, ndtr
from torch import Tensor

from posterior_collapse.arrays import Float
from posterior_collapse.diagnosis.exact import free_levels, is_exact, level_posteriors, rotated
from posterior_collapse.diagnosis.levels import Posteriors, RowPosteriors, has_diverged, is_active
from posterior_collapse.diagnosis.passes import DECODED, LEAST_STD, by_halves
from posterior_collapse.diagnosis.reading import noise_generator
from posterior_collapse.diagnosis.statistics import Information
from posterior_collapse.errors import DataError
from posterior_collapse.models import MarkovVAE
from posterior_collapse.models.global_state import arithmetic
from posterior_collapse.theory.state import ACTIVE_INFORMATION as ACTIVE_INFORMATION
from posterior_collapse.theory.thresholds import SURE
from posterior_collapse.training.batches import Batch, Batches
from posterior_collapse.training.stacking import Stack

SAMPLES, SEED = 16, 0
"""As `diagnose` has them unless it is told otherwise."""
KL_PATHS = 2
"""A KL only says here whether a unit has diverged, which two samples tell as well as all."""
ROWS = 256
EDGES = (-0.98, 0.0, 0.98)
"""Of four cells, in stds about the mean: of all such they tell most of what a Gaussian knows."""


def some_rows(feed: Batches) -> Batch:
    """Return the rows, on the CPU, on which active units are counted after each epoch."""
    x, y = feed.rows(ROWS)
    return Batch(x.cpu(), None if y is None else y.cpu())


def active_units(model: MarkovVAE, rows: Batch) -> list[float]:
    """Return the number of active units per level: of those rows, what `diagnose` would say.

    Args:
        model: Any.
        rows: At most 1,000, on its device.

    Returns:
        Whole numbers; NaN where the posterior is no number any more.

    Example:
        >>> import torch
        >>> from posterior_collapse import VAESpec, fit
        >>> x = np.random.default_rng(0).standard_normal((200, 4)) * [3, 2, 0.1, 0.1]
        >>> model = fit(VAESpec(latent_dim=3), x, "linear", exact=True).model
        >>> active_units(model, Batch(torch.tensor(x), None))
        [2]
    """
    x, y = rows
    try:
        seen = rotated(model, [(x, y)], samples=SAMPLES, seed=SEED)
        noise = noise_generator(x.device, SEED)
        levels = level_posteriors(seen, x, y, SAMPLES, noise, kl_paths=KL_PATHS)
    except DataError as error:
        if not is_no_number(error):
            raise
        return [math.nan] * len(model.units)
    return [_count(level, model.centred) for level in levels]


def is_no_number(error: DataError) -> bool:
    """Return whether what a model makes of good data is NaN or infinite: it diverged."""
    return error.argument.startswith(("posterior ", "decoder "))


def _count(level: RowPosteriors, centred: bool) -> float:
    halves = [*level.means, *level.variances]
    if not all(np.isfinite(half).all() for half in halves):
        return math.nan
    return int(active(level, centred, rows=len(level.kl)).sum())


def active(
    level: RowPosteriors,
    centred: bool,
    *,
    rows: int,
    judge: Callable[[Posteriors], list[Information]] = Posteriors.information,
) -> NDArray[np.bool_]:
    """Return which units of a level are active, (units,).

    Args:
        level: What the rows say of it; finite. Of KL, noise and prior their means will do.
        centred: Whether the posteriors' mean over the rows is 0.
        rows: How many there are.
        judge: Gives what units know that the bounds do not decide.
    """

    def posteriors(columns: Any = slice(None)) -> Posteriors:
        means, variances = ([p[:, columns] for p in ps] for ps in (level.means, level.variances))
        return Posteriors(means, variances, rows, centred)

    every, prior = posteriors(), np.broadcast_to(np.square(level.prior_std), level.kl.shape)
    usable = ~has_diverged(level.kl.mean(0), level.noise.max(0), prior.mean(0))
    surely = usable & (_least(every) > ACTIVE_INFORMATION)
    unclear = usable & ~surely & (every.gaussian_information > ACTIVE_INFORMATION)
    found: NDArray[np.bool_] = surely.copy()
    if unclear.any():
        found[unclear] = [is_active(one) for one in judge(posteriors(unclear))]
    return found


def _least(posteriors: Posteriors) -> Float:
    """Nats that `diagnose` finds at least in each unit, (units,), twice its error taken off.

    A unit knows no less of x than which of four cells it is in does. The error is the spread of
    KL(q_n || q) over the rows n. By convexity none is above the mean of KL(q_n || q_m) over m, nor
    above log n, so that their mean square is at most that of the former and log n of their mean.
    """
    mean, variance, n = posteriors.mean, posteriors.variance, len(posteriors.mean)
    nats = _of_cells(mean, np.sqrt(variance), np.sqrt(posteriors.signal + posteriors.spread))
    weight, log_std = 1 / variance, np.log(variance) / 2
    square = variance + mean**2
    divergence = (
        log_std.mean(0) - log_std - 0.5
        + 0.5 * (square * weight.mean(0) + (mean**2 * weight).mean(0))
        - mean * (mean * weight).mean(0)
    )  # fmt: skip
    of_rows = np.square(divergence).mean(0)
    # Below log n / n, more information might be less of it beyond its error.
    of_mean = np.where(nats > math.log(n) / n, nats * math.log(n), math.inf)
    error = np.hypot(np.sqrt(np.minimum(of_rows, of_mean) / n), posteriors.from_sampling)
    least: Float = nats - SURE * error
    return least


def _of_cells(mean: Float, std: Float, total: Float) -> Float:
    """Information that the cell has on the row: entropy of the average less average entropy."""
    edges = (mean.mean(0) + total * np.array(EDGES)[:, None])[:, None]
    below = ndtr((edges - mean) / std)
    cells = np.concatenate([below[:1], np.diff(below, axis=0), 1 - below[-1:]])
    found: Float = (entr(cells.mean(1)) - entr(cells).mean(1)).sum(0)
    return found


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
        self._places = [model.state_dict() for model in models]
        one_by_one = stack.device.type == "cpu" or free_levels(models[0]) or is_exact(models[0])
        self._here: Any = None if one_by_one else self._moved()

    def __call__(self, runs: Sequence[int]) -> list[list[float]]:
        """Return the number of active units per level, of each of some runs."""
        if self._here is not None:
            return self._together(runs)
        for run, own in zip(runs, self._stack.states(runs), strict=True):
            # Not by `load_state_dict`, which takes as long as the passes of a small model.
            places = self._places[run]
            torch._foreach_copy_(list(places.values()), [own[name] for name in places])
        return [active_units(self._models[run], self._rows) for run in runs]

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
        means, variances, injected = by_halves(mean, variance.expand_as(mean))
        width = mean.shape[-1]
        found.append(
            torch.cat(
                [
                    kl.expand(*kl.shape[:-1], width).flatten(0, -2).mean(0, keepdim=True),
                    injected.amax(0, keepdim=True),
                    usable.flatten(0, -2).all(0, keepdim=True).double(),
                    prior_std.square().expand(width).sqrt()[None],
                    *means,
                    *variances,
                ]
            )
        )
    return found
