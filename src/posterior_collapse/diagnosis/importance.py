"""log p(y|x) by importance sampling through the posterior, in bounded memory.

A batch is cut into blocks of rows, and the samples of a block are drawn a few at a time: what no
sample changes (posterior, condition, residual at the posterior mean) is computed once per block,
and a running log-sum-exp keeps one number per row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from posterior_collapse.diagnosis.scores import unexpanded
from posterior_collapse.models import LatentModel, MarkovVAE
from posterior_collapse.models.layers import Decoder

BLOCK_ROWS = 64
"""Rows of a block, where there are samples enough: they share the work that is done per block."""
NUMBERS = {"cpu": 2**18}
"""Numbers of the widest layer at a time: on a CPU as many as stay in its cache."""
NUMBERS_ELSEWHERE = 2**25
HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)

Density = Callable[[Tensor], Tensor]
"""From z_1, (samples, rows, units), to log p(y|z_1), (samples, rows) in float64."""


class Estimate(NamedTuple):
    """Per row, (rows,) in float64: the log of the mean weight, and the effective sample size."""

    log_mean: Tensor
    effective_sample_size: Tensor


class Sampler:
    """Draws latents of a model and weighs them.

    Args:
        model: In evaluation mode.
        samples: Per row.
        generator: On the model's device.
        chunk: Latent samples, over rows, that are decoded at a time; none: as many as are fast.
        eta_dec: Decoder std into the data; none: the model's own.
    """

    def __init__(
        self,
        model: LatentModel,
        samples: int,
        generator: torch.Generator,
        chunk: int | None = None,
        eta_dec: float | None = None,
    ) -> None:
        self.model, self.samples, self.generator = model, samples, generator
        self._chunk, self._eta_dec = chunk, eta_dec
        self._residual_free: _ResidualFree | None = None
        if isinstance(model, MarkovVAE) and eta_dec is None and _ResidualFree.serves(model):
            self._residual_free = _ResidualFree(model)

    def estimates(self, x: Tensor, y: Tensor | None = None) -> Iterator[Estimate]:
        """Yield the estimates of a batch, block by block.

        Args:
            x: Input or condition, (rows, dim x).
            y: Target, (rows, dim y); none for an autoencoder.
        """
        free, outputs = self._residual_free, (x if y is None else y).shape[-1]
        widest = max(*self.model.units, outputs if free is None else free.width)
        fast = max(1, NUMBERS.get(x.device.type, NUMBERS_ELSEWHERE) // widest)
        at_a_time = self._chunk or fast
        samples = min(self.samples, max(1, at_a_time // BLOCK_ROWS))
        rows = max(1, at_a_time // samples)
        for start in range(0, len(x), rows):
            block = slice(start, start + rows)
            yield self._block(x[block], None if y is None else y[block], samples)

    @torch.no_grad()
    def _block(self, x: Tensor, y: Tensor | None, samples: int) -> Estimate:
        q = self.model.posterior(1, x, y)
        density = self._density(q, x, x if y is None else y)
        peak = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
        total, squares = torch.zeros_like(peak), torch.zeros_like(peak)
        for done in range(0, self.samples, samples):
            logs = self._log_weights(q, density, min(samples, self.samples - done))
            higher = torch.maximum(peak, logs.amax(0))
            shrink, weights = (peak - higher).exp(), (logs - higher).exp()
            total = total * shrink + weights.sum(0)
            squares = squares * shrink.square() + weights.square().sum(0)
            peak = higher
        log_mean = peak + total.log() - math.log(self.samples)
        return Estimate(log_mean, total.square() / squares)

    def _log_weights(self, q: Normal, density: Density, samples: int) -> Tensor:
        """`log p(y, z_1, z_2, ...) - log q(z_1, z_2, ...)` of new samples, (samples, rows)."""
        z, log_q = self._draw(q, (samples, *q.batch_shape))
        log_w = density(z) - log_q
        top = len(self.model.units)
        for level in range(2, top + 1):
            above, log_q = self._draw(self.model.posterior(level, z), z.shape)
            log_w += _log_density(self.model.prior(level - 1, above), z) - log_q
            z = above
        return log_w + _log_density(self.model.prior(top), z)

    def _draw(self, q: Normal, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Samples of q and their log density, from the noise that made them."""
        mean = q.mean
        shape = (*shape[:-1], mean.shape[-1])
        noise = torch.randn(shape, generator=self.generator, device=mean.device, dtype=mean.dtype)
        return torch.addcmul(mean, q.stddev, noise), _log_normal(noise, q.stddev)

    def _density(self, q: Normal, x: Tensor, target: Tensor) -> Density:
        if self._residual_free is not None:
            return self._residual_free.at(q.mean, x, target)

        def density(z: Tensor) -> Tensor:
            p = self.model.decode(z, x)
            if self._eta_dec is not None:
                std = torch.full_like(p.mean, self._eta_dec)
                p = Normal(p.mean, std, validate_args=False)
            return _log_density(p, target)

        return density


class _ResidualFree:
    """log p(y|z) of a decoder mean `V f(z) + (what z does not change)`, without residuals.

    With `d = f(z) - f(m)`, m the posterior mean, and r the residual at m,
    `|y - mu|^2 = |r|^2 - 2 d.(V'r) + d'(V'V)d`: a sample costs f and a product of f's width. The
    terms in d are small where the posterior is narrow, so that single precision loses nothing.
    """

    def __init__(self, model: MarkovVAE) -> None:
        self.model = model
        self.features, head = _bottom(model)
        self.weight = head.weight.detach().double()
        self.width = self.weight.shape[1]
        self.gram = (self.weight.T @ self.weight).to(model.eta_enc)

    @staticmethod
    def serves(model: MarkovVAE) -> bool:
        """Whether the mean is affine in features that are no wider than it."""
        return bool(model.heads) and _bottom(model)[1].in_features <= model.shapes.y_dim

    def at(self, mean: Tensor, x: Tensor, target: Tensor) -> Density:
        """Return the density for rows of these posterior means, conditions and targets."""
        decoded = self.model.decode(mean, x)
        residual = target.double() - decoded.mean
        precision = decoded.stddev[0, 0].double() ** -2
        slope = (2 * residual @ self.weight).to(mean)
        start = self.features(mean, {})
        logs = residual.shape[-1] * (HALF_LOG_2_PI - 0.5 * precision.log())
        constant = -0.5 * precision * residual.square().sum(-1) - logs

        def density(z: Tensor) -> Tensor:
            move = self.features(z, {}) - start
            change = (move @ self.gram).sub_(slope).mul_(move).sum(-1, dtype=torch.float64)
            value: Tensor = constant - 0.5 * precision * change
            return value

        return density


def _bottom(model: MarkovVAE) -> tuple[nn.Module, nn.Linear]:
    """What p(y|z_1) does with z_1: features, and the head on them where that is linear."""
    decoder = cast(Decoder, model.decoders[0])
    return decoder.features["z"], cast(nn.Linear, decoder.heads["z"])


def _log_density(p: Distribution, value: Tensor) -> Tensor:
    """Log density of a value, summed over units, (...), in float64."""
    if not isinstance(p, Normal):
        return p.log_prob(value).sum(-1, dtype=torch.float64)
    std = unexpanded(p.stddev)
    return _log_normal((value - p.mean).div_(std), std)


def _log_normal(scaled: Tensor, std: Tensor) -> Tensor:
    """Log density, in float64, of samples that are `scaled` stds away from their mean."""
    units = scaled.shape[-1]
    std = unexpanded(std)
    logs = std.log().sum(-1, dtype=torch.float64) * (units / std.shape[-1])
    squares = scaled.square().sum(-1, dtype=torch.float64)
    return -0.5 * squares - logs - units * HALF_LOG_2_PI
