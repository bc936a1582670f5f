"""How many units of a model are active, counted on some rows as `diagnose` counts them.

After each epoch of a sweep there may be a thousand units to judge. What a unit knows takes a
Fourier transform of all posteriors; for most units two bounds decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, ndtr

from posterior_collapse.diagnosis.exact import ExactPass, free_levels, is_exact, turned
from posterior_collapse.diagnosis.levels import Posteriors, RowPosteriors, has_diverged, is_active
from posterior_collapse.diagnosis.passes import SampledPass
from posterior_collapse.diagnosis.reading import noise_generator
from posterior_collapse.diagnosis.statistics import Information
from posterior_collapse.errors import DataError
from posterior_collapse.models import MarkovVAE
from posterior_collapse.theory.state import ACTIVE_INFORMATION
from posterior_collapse.theory.thresholds import SURE
from posterior_collapse.training.batches import Batch, Batches

__all__ = ["ACTIVE_INFORMATION", "active", "active_units", "is_no_number", "some_rows"]

Float = NDArray[np.float64]
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
        seen = model
        if free_levels(model):
            seen = turned(model, [(x, y)], samples=SAMPLES, seed=SEED)  # type: ignore[assignment]
        noise = noise_generator(x.device, SEED)
        if is_exact(model):
            levels = ExactPass(seen, noise)(x, y).levels
        else:
            levels = SampledPass(seen, SAMPLES, noise, decodes=False, kl_paths=KL_PATHS)(
                x, y
            ).levels
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
