"""One batch through a model: each level's posteriors, the loss, and what stays unexplained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from posterior_collapse.arrays import Float
from posterior_collapse.diagnosis.certificate import Residual
from posterior_collapse.diagnosis.comparing import (
    Compared,
    by_errors,
    by_scores,
    differ,
    has_eta_dec,
)
from posterior_collapse.diagnosis.levels import RowPosteriors
from posterior_collapse.diagnosis.reading import (
    as_array,
    check_prior,
    in_double,
    prior_of,
    prior_stddev,
    sampled_kl,
)
from posterior_collapse.diagnosis.scores import Floats, elementwise
from posterior_collapse.diagnosis.statistics import Which
from posterior_collapse.errors import DataError, InvalidArgumentError
from posterior_collapse.models import LatentModel
from posterior_collapse.models.layers import Gaussian, kl_divergence, relative_entropy
from posterior_collapse.models.likelihoods import draw

DECODED = 4
"""Samples of z_1 per row that are decoded."""
FEW_DECODED, MANY_ROWS = 2, 5000
"""After `MANY_ROWS` rows, `FEW_DECODED` samples of each are decoded: rows differ by more than the
samples of one row do, and the stated errors account for both. One sample is decoded of a row whose
residual is not needed.
"""
KL_SAMPLES = 64
"""Samples per row that tell the KL to a prior that is not Gaussian."""
LEAST_STD = 1e-18
"""Of a posterior: the square of less is no number of single precision."""
DECODED_NUMBERS = 2**24
"""Numbers that are decoded at a time."""


class Pass(NamedTuple):
    """What a batch says.

    Attributes:
        reconstruction: How well its rows are decoded; None without a decoder.
        residuals: Per level, what its decoder leaves unexplained; empty where it is known
            otherwise, or not at all.
    """

    levels: tuple[RowPosteriors, ...]
    reconstruction: Compared | None = None
    residuals: tuple[Residual, ...] = ()


@torch.no_grad()
def upward(
    model: LatentModel,
    x: Tensor,
    y: Tensor | None,
    samples: int,
    generator: torch.Generator,
    *,
    row: int = 0,
    kl_paths: int | None = None,
) -> tuple[tuple[RowPosteriors, ...], list[Normal], list[Tensor]]:
    """Return per level what rows say of it, q(z_l|.) along paths to the top, and the paths.

    Above level 1 the posterior given x has to be found by sampling: it is (samples, rows, units).

    Args:
        model: In evaluation mode.
        x: Inputs, (rows, dim x).
        y: Targets, (rows, dim y), or none.
        samples: Paths per row in a hierarchy, an even number of at least 4.
        generator: On the model's device.
        row: The number of the first row, for errors.
        kl_paths: Paths that the KL below the top is taken of; None: all.
    """
    posteriors: list[Normal] = []
    latents: list[Tensor] = []
    paths = DECODED if len(model.units) == 1 else samples
    for level in range(1, len(model.units) + 1):
        q = model.posterior(level, latents[-1]) if latents else model.posterior(1, x, y)
        _check(model, q, level, row, len(x))
        shape = q.mean.shape if latents else (paths, *q.mean.shape)
        posteriors.append(q)
        latents.append(draw(q, generator, shape))
    below = (
        _below_top(model, level, posteriors[level - 1], z[:kl_paths], above[:kl_paths])
        for level, (z, above) in enumerate(pairwise(latents), start=1)
    )
    return (*below, _top(model, posteriors[-1], x, generator)), posteriors, latents


def _below_top(
    model: LatentModel, level: int, q: Normal, z: Tensor, above: Tensor
) -> RowPosteriors:
    """What rows say of a level, its KL along paths through samples z of it and of the one above."""
    p = model.prior(level, above)
    std = q.stddev if level == 1 else q.stddev[: len(z)]
    prior_std = p.stddev.double()
    kl = relative_entropy((z - p.mean).double().square(), std.double(), prior_std)
    if prior_std.dim() == 3:
        prior_std = prior_std.square().mean(0).sqrt()
    return _posteriors(kl, q, prior_std)


def _top(model: LatentModel, q: Normal, x: Tensor, generator: torch.Generator) -> RowPosteriors:
    """What rows x say of the top level, whose prior a model may make of x."""
    level, given = len(model.units), prior_of(model, x)
    if given is not None:
        check_prior(given, level, q.mean.shape[-1])
    if given is not None and not isinstance(given, Normal):
        kl = sampled_kl(q, given, draw(q, generator, (KL_SAMPLES, *q.mean.shape)))
        return _posteriors(kl, q, prior_stddev(given, q))
    p = given or model.prior(level)
    prior_std = p.stddev.double()
    own = Gaussian(q.mean.double(), q.stddev.double())
    kl = kl_divergence(own, Gaussian(p.mean.double(), prior_std))
    if given is None or given.mean.dim() < 2:
        return _posteriors(kl, q, prior_std, in_double(p.mean))
    # What the posterior knows beyond the prior that the row has anyway.
    beyond = Normal((q.mean - p.mean) / p.stddev, q.stddev / p.stddev, validate_args=False)
    return _posteriors(kl, beyond, torch.ones_like(prior_std), np.zeros(prior_std.shape))


class SampledPass:
    """Takes batches through any model by samples of its posteriors.

    Args:
        samples: Paths from z_1 to the top per row, an even number of at least 4.
        gaussian: Whether a `Normal` is what its decoder means, and no stand-in for another
            distribution, which is compared with nothing.
        own_stds: Whether the stds of a Gaussian decoder count one by one, if they differ: else one
            eta_dec is known that serves all.

    Attributes:
        decodes: Whether what the model decodes is compared with the data.
        whitened: Whether residuals are scores, to be measured in the noise of the decoder's own
            distribution; there from the first batch on.
        output: What the decoder returned last, elementwise.
    """

    def __init__(
        self,
        model: LatentModel,
        samples: int,
        generator: torch.Generator,
        *,
        gaussian: bool = True,
        own_stds: bool = False,
    ) -> None:
        self.decodes = getattr(model, "decodes", True)
        self.whitened: bool | None = None
        self.output: Distribution | None = None
        self._gaussian, self._own_stds = gaussian, own_stds
        self.model, self.samples, self.generator = model, samples, generator
        self.row = 0

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor | None, wanted: Sequence[Which] = ()) -> Pass:
        """Return what a batch says; `wanted`: per level, of which rows residuals are asked for."""
        wanted = wanted or [slice(None)] * len(self.model.units)
        levels, posteriors, latents = upward(
            self.model, x, y, self.samples, self.generator, row=self.row
        )
        found = Pass(levels)
        target, decoded = x if y is None else y, None
        if self.decodes:
            decoded = self._decoded(latents[0], x, target, wanted[0])
            self.decodes = decoded is not None
        self.row += len(x)
        if decoded is None:
            return found
        compared, residual = decoded
        if residual is None:
            return found._replace(reconstruction=compared)
        residuals = (residual, *self._above(posteriors, latents, wanted))
        return found._replace(reconstruction=compared, residuals=residuals)

    def _decoded(
        self, z: Tensor, x: Tensor, target: Tensor, wanted: Which
    ) -> tuple[Compared, Residual | None] | None:
        """Decode samples of z_1 and compare them with the targets; None if they cannot be.

        Residuals are kept of the `wanted` rows; of the others one sample is decoded.
        """
        samples = DECODED if self.row < MANY_ROWS else FEW_DECODED
        groups: list[tuple[Any, int]] = [(wanted, samples)]
        order: Which = slice(None)
        if not isinstance(wanted, slice):
            others = np.delete(np.arange(len(x)), wanted)
            groups = [(rows, n) for rows, n in ((wanted, samples), (others, 1)) if len(rows)]
            order = np.argsort(np.concatenate([wanted, others]))
        at_a_time = max(1, DECODED_NUMBERS // (DECODED * target.shape[-1]))
        parts = []
        for rows, n in groups:
            drawn, given, to = z[:n], x, target
            if not isinstance(rows, slice):  # by a method several times as fast as brackets
                at = torch.from_numpy(rows).to(x.device)
                drawn, given = drawn.index_select(1, at), x.index_select(0, at)
                to = given if target is x else target.index_select(0, at)
            for start in range(0, len(given), at_a_time):
                cut = slice(start, start + at_a_time)
                part = self._compared(drawn[:, cut], given[cut], to[cut])
                if part is None:
                    return None
                parts.append(part)
        every, residuals = zip(*parts, strict=True)
        compared = Compared(*(_joined(part, order) for part in zip(*every, strict=True)))
        kept = [residual for residual in residuals if residual is not None]
        if kept:
            return compared, Residual(*map(_joined, zip(*kept, strict=True)))
        if isinstance(wanted, slice) or len(wanted):
            return compared, None
        none = as_array(target[:0])[:, None]
        return compared, Residual(none, none, none[:, 0] if self.whitened else None)

    def _compared(
        self, z: Tensor, x: Tensor, target: Tensor
    ) -> tuple[Compared, Residual | None] | None:
        p = elementwise(self.model.decode(z, x), lead=2)
        expected = (*z.shape[:-1], target.shape[-1])
        if p.mean.shape != expected:
            raise InvalidArgumentError(
                "model",
                f"a decoder output of shape {tuple(p.mean.shape)}",
                f"{expected}, as the data have features",
                "Check that data and model belong together.",
            )
        if has_eta_dec(p) and not self._gaussian:
            return None
        if self.whitened is None:
            self.whitened = not has_eta_dec(p) or (self._own_stds and differ(p.stddev))
        self.output = p
        return (by_scores if self.whitened else by_errors)(p, target)

    def _above(
        self,
        posteriors: Sequence[Normal],
        latents: Sequence[Tensor],
        wanted: Sequence[Which],
    ) -> list[Residual]:
        """Per level from 2 on, z_{l-1} less the mean that the prior makes of z_l."""
        found = []
        for level in range(2, len(self.model.units) + 1):
            below, q = latents[level - 2], posteriors[level - 1]
            paths = below[:DECODED]
            residual = torch.stack(
                [
                    paths - self.model.prior(level - 1, draw(q, self.generator)[:DECODED]).mean
                    for _ in range(2)
                ]
            )
            average, difference = residual.mean(0), (residual[0] - residual[1]) / 2
            rows = wanted[level - 1]
            found.append(
                Residual(*(as_array(part.transpose(0, 1))[rows] for part in (average, difference)))
            )
        return found


def _check(model: LatentModel, q: Normal, level: int, row: int, rows: int) -> None:
    """Refuse a posterior of another shape, or one that is not finite."""
    expected = (rows, model.units[level - 1])
    if q.mean.shape[-2:] != expected:
        raise InvalidArgumentError(
            "model",
            f"a posterior of z{level} of shape {tuple(q.mean.shape)}",
            f"(..., {expected[0]}, {expected[1]}), rows and units",
            "Check posterior and spec of the model.",
        )
    for part, values in (("mean", q.mean), ("std", q.stddev)):
        wrong = ~values.isfinite()
        if part == "std":
            wrong |= values < LEAST_STD
        if not bool(wrong.any()):
            continue
        at = wrong.nonzero()[0].tolist()
        raise DataError(
            f"posterior {part} of z{level}",
            f"{values[tuple(at)].item()} at row {row + at[-2]}, unit {at[-1] + 1}",
            f"a finite {part}" + f" of {LEAST_STD:g} or more" * (part == "std"),
            "If training diverged, lower the learning rate; check the scale of the data.",
        )


def _posteriors(
    kl: Tensor, q: Normal, prior_std: Tensor, prior_mean: Float | float = math.nan
) -> RowPosteriors:
    """What rows say of a level: q is (rows, units), above level 1 (samples, rows, units)."""
    mean, variance = q.mean.double(), q.stddev.double().square()
    means, variances, noise = by_halves(mean, variance)
    return RowPosteriors(
        in_double(kl if kl.dim() == 2 else kl.mean(0)),
        tuple(map(in_double, means)),
        tuple(map(in_double, variances)),
        in_double(noise),
        in_double(prior_std),
        None if mean.dim() == 2 else (in_double(mean[0]), in_double(variance[0].sqrt())),
        prior_mean,
    )


def by_halves(mean: Tensor, variance: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Return means and variances of q(z|x) by halves of the samples, and the noise injected.

    Mean and variance are those of q(z_l|z_{l-1}), (samples, rows, units); where the level below is
    the data, they are (rows, units) and no samples of anything.
    """
    if mean.dim() == 2:
        return [mean], [variance], variance
    halves = list(zip(mean.chunk(2), variance.chunk(2), strict=True))
    variances = [m.var(0) + v.mean(0) for m, v in halves]
    return [m.mean(0) for m, _ in halves], variances, variance.mean(0)


def _joined(parts: Sequence[Floats | None], order: Which = slice(None)) -> Any:
    found = [part for part in parts if part is not None]
    return (np.concatenate(found) if len(found) > 1 else found[0])[order] if found else None
