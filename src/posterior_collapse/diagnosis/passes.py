"""One batch through a model: each level's posteriors, the loss, and what stays unexplained."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
"""As many of each row do once so many rows have gone by: rows differ by more than their samples do,
and the errors that are stated hold both. Of rows whose residual is not asked for a single one does.
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
        levels: Per level, its posteriors.
        reconstruction: How well its rows are decoded; None without a decoder.
        residuals: Per level, what its decoder leaves unexplained; empty where it is known
            otherwise, or not at all.
    """

    levels: tuple[RowPosteriors, ...]
    reconstruction: Compared | None = None
    residuals: tuple[Residual, ...] = ()


class SampledPass:
    """Takes batches through any model by samples of its posteriors.

    Args:
        model: In evaluation mode.
        samples: Paths from z_1 to the top per row, an even number of at least 4.
        generator: On the model's device.
        decodes: Whether to compare what the model decodes, where it can, with the data.
        gaussian: Whether a `Normal` is what its decoder means, and no stand-in for another
            distribution, which is compared with nothing.
        own_stds: Whether the stds of a Gaussian decoder count one by one, if they differ: else one
            eta_dec is known that serves all.
        kl_paths: Paths that the KL below the top is taken of; None: all.

    Attributes:
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
        decodes: bool = True,
        gaussian: bool = True,
        own_stds: bool = False,
        kl_paths: int | None = None,
    ) -> None:
        self._kl_paths = kl_paths
        self.decodes = decodes and getattr(model, "decodes", True)
        self.whitened: bool | None = None
        self.output: Distribution | None = None
        self._gaussian, self._own_stds = gaussian, own_stds
        self.model = model
        self.depth = len(model.units)
        # Above level 1 the posterior given x has to be found by sampling.
        self.samples = DECODED if self.depth == 1 else samples
        self.generator = generator
        self.row = 0

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor | None, wanted: Sequence[Which] = ()) -> Pass:
        """Return what a batch says.

        Args:
            x: Inputs, (rows, dim x).
            y: Targets, (rows, dim y), or none.
            wanted: Per level, of which rows residuals are asked for; none: of all.
        """
        wanted = wanted or [slice(None)] * self.depth
        posteriors, latents = self._upward(x, y)
        found = Pass(self._levels(posteriors, latents, x))
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

    def _upward(self, x: Tensor, y: Tensor | None) -> tuple[list[Normal], list[Tensor]]:
        """q(z_l|.) of each level along the paths, and the paths, (samples, rows, units)."""
        posteriors, latents = [self.model.posterior(1, x, y)], []
        self._check(posteriors[0], 1, len(x))
        latents.append(self._draw(posteriors[0], self.samples))
        for level in range(2, self.depth + 1):
            posteriors.append(self.model.posterior(level, latents[-1]))
            self._check(posteriors[-1], level, len(x))
            latents.append(draw(posteriors[-1], self.generator))
        return posteriors, latents

    def _levels(
        self, posteriors: Sequence[Normal], latents: Sequence[Tensor], x: Tensor
    ) -> tuple[RowPosteriors, ...]:
        found = []
        for level, (q, z) in enumerate(zip(posteriors, latents, strict=True), start=1):
            top = level == self.depth
            given = prior_of(self.model, x) if top else None
            if given is not None:
                check_prior(given, level, q.mean.shape[-1])
            if given is not None and not isinstance(given, Normal):
                kl = sampled_kl(q, given, self._draw(q, KL_SAMPLES))
                found.append(_posteriors(kl, q, prior_stddev(given, q)))
                continue
            some = slice(None if top else self._kl_paths)
            p = given or (
                self.model.prior(level) if top else self.model.prior(level, latents[level][some])
            )
            std, prior_std = q.stddev.double(), p.stddev.double()
            if top:
                own = Gaussian(q.mean.double(), std)
                kl = kl_divergence(own, Gaussian(p.mean.double(), prior_std))
            else:
                std = std if level == 1 else std[some]
                kl = relative_entropy((z[some] - p.mean).double().square(), std, prior_std)
            if prior_std.dim() == 3:
                prior_std = prior_std.square().mean(0).sqrt()
            prior_mean = in_double(p.mean) if top else math.nan
            if given is not None and given.mean.dim() > 1:
                # What the posterior knows beyond the prior that the row has anyway.
                q = Normal((q.mean - p.mean) / p.stddev, q.stddev / p.stddev, validate_args=False)
                prior_std = torch.ones_like(prior_std)
                prior_mean = np.zeros(prior_std.shape)
            found.append(_posteriors(kl, q, prior_std, prior_mean))
        return tuple(found)

    def _decoded(
        self, z: Tensor, x: Tensor, target: Tensor, wanted: Which
    ) -> tuple[Compared, Residual | None] | None:
        """Samples beside their targets, those of no residual apart; None: not to be compared."""
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
        fields = list(zip(*parts, strict=True))
        compared = Compared(*(_joined(part, order) for part in fields[:-3]))
        average, difference, curvature = map(_joined, fields[-3:])
        if not isinstance(wanted, slice) and len(wanted) == 0:
            average = difference = as_array(target[:0])
            curvature = average if self.whitened else None
        if average is None or difference is None:
            return compared, None
        return compared, Residual(average[:, None], difference[:, None], curvature)

    def _compared(self, z: Tensor, x: Tensor, target: Tensor) -> Compared | None:
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
        for level in range(2, self.depth + 1):
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

    def _draw(self, q: Normal, samples: int) -> Tensor:
        return draw(q, self.generator, (samples, *q.mean.shape))

    def _check(self, q: Normal, level: int, rows: int) -> None:
        expected = (rows, self.model.units[level - 1])
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
                f"{values[tuple(at)].item()} at row {self.row + at[-2]}, unit {at[-1]}",
                f"a finite {part}" + f" of {LEAST_STD:g} or more" * (part == "std"),
                "Check the model's weights and the scale of the data.",
            )


def _posteriors(
    kl: Tensor, q: Normal, prior_std: Tensor, prior_mean: Float | float = math.nan
) -> RowPosteriors:
    """What rows say of a level: q is (rows, units), above level 1 (samples, rows, units)."""
    mean, variance = q.mean.double(), q.stddev.double().square()
    row_kl, std = in_double(kl if kl.dim() == 2 else kl.mean(0)), in_double(prior_std)
    if mean.dim() == 2:
        noise = in_double(variance)
        return RowPosteriors(
            row_kl, (in_double(mean),), (noise,), noise, std, prior_mean=prior_mean
        )
    halves = list(zip(mean.chunk(2), variance.chunk(2), strict=True))
    return RowPosteriors(
        row_kl,
        tuple(in_double(m.mean(0)) for m, _ in halves),
        tuple(in_double(m.var(0) + v.mean(0)) for m, v in halves),
        in_double(variance.mean(0)),
        std,
        (in_double(mean[0]), in_double(variance[0].sqrt())),
        prior_mean,
    )


def _joined(parts: Sequence[Floats | None], order: Which = slice(None)) -> Any:
    found = [part for part in parts if part is not None]
    return (np.concatenate(found) if len(found) > 1 else found[0])[order] if found else None
