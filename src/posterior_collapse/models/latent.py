"""What the rest of the package asks of a model: `LatentModel`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models.likelihoods import draw, log_prob
from posterior_collapse.specs import Spec


class LogTerms(NamedTuple):
    """Log densities in nats of given latents, each (..., batch).

    `decoder + sum(prior) - sum(posterior)` is the log importance weight.

    Attributes:
        decoder: `log p(y | z_1)`.
        prior: Per level, `log p(z_l | z_{l+1})`.
        posterior: Per level, `log q(z_l | z_{l-1})`.
    """

    decoder: Tensor
    prior: tuple[Tensor, ...]
    posterior: tuple[Tensor, ...]


class LatentModel(ABC):
    """A model with one or more levels of Gaussian latent units, level 1 next to the data.

    Give `spec` and the three distributions, and the rest follows: any model that can state them
    can be sampled and diagnosed. Distributions are elementwise, (..., units); data are flat rows.
    """

    spec: Spec

    @abstractmethod
    def posterior(self, level: int, given: Tensor, y: Tensor | None = None) -> Normal:
        """Return `q(z_level | given)`, (..., units).

        Args:
            level: 1 to the number of levels.
            given: x, (..., dim x), at level 1; above it z_{level-1}.
            y: Target, which only a conditional model's level 1 reads.
        """

    @abstractmethod
    def prior(self, level: int, given: Tensor | None = None) -> Normal:
        """Return `p(z_level | given)`, (..., units); `given` is z_{level+1}, none at the top."""

    @abstractmethod
    def decode(self, z: Tensor, x: Tensor | None = None) -> Distribution:
        """Return `p(y | z)`, (..., dim y), z of level 1; x is a conditional model's condition.

        A `Normal`, or of another likelihood a distribution whose `log_prob` is elementwise too:
        `Bernoulli`, `Poisson`, `NegativeBinomial`, or `models.likelihoods.OneHots`.
        """

    @property
    def centred(self) -> bool:
        """Whether biases take up the data's means, as they do in all but some linear models."""
        return True

    @property
    def units(self) -> tuple[int, ...]:
        """Number of latent units per level."""
        return self.spec.dims

    def infer(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        samples: int | None = None,
    ) -> tuple[Tensor, ...]:
        """Return latents of each level, (batch, units), from the bottom up.

        Args:
            x: Input or condition, (batch, dim x).
            y: Target of a conditional model, (batch, dim y).
            generator: Source of posterior samples; none: posterior means.
            samples: Draw this many per row, (samples, batch, units).
        """
        latents: list[Tensor] = []
        given = x
        for level in range(1, len(self.units) + 1):
            q = self.posterior(level, given, y if level == 1 else None)
            shape = q.batch_shape if level > 1 or samples is None else (samples, *q.batch_shape)
            given = draw(q, generator, shape)
            latents.append(given)
        return tuple(latents)

    def log_terms(self, latents: Sequence[Tensor], x: Tensor, y: Tensor | None = None) -> LogTerms:
        """Return the log densities of latents (..., batch, units per level) with their data.

        Args:
            latents: One tensor per level, as `infer` returns.
            x: Input or condition, (batch, dim x).
            y: Target, (batch, dim y); none for an autoencoder.
        """
        above = [*latents[1:], None]
        below = [x, *latents[:-1]]
        levels = range(1, len(latents) + 1)
        priors = [self.prior(level, z) for level, z in zip(levels, above, strict=True)]
        posteriors = [
            self.posterior(level, given, y if level == 1 else None)
            for level, given in zip(levels, below, strict=True)
        ]
        target = x if y is None else y
        return LogTerms(
            _log_prob(self.decode(latents[0], x), target),
            tuple(_log_prob(p, z) for p, z in zip(priors, latents, strict=True)),
            tuple(_log_prob(q, z) for q, z in zip(posteriors, latents, strict=True)),
        )

    def sample(
        self,
        n: int,
        generator: torch.Generator,
        x: Tensor | None = None,
        *,
        noise: bool = False,
    ) -> Tensor:
        """Return n decoded draws from the prior, (n, dim y).

        Args:
            n: Number of draws.
            generator: Source of the draws.
            x: Condition of a conditional model, (dim x,) or (n, dim x).
            noise: Draw from `p(y|z)`; otherwise decoder means are returned.
        """
        top = len(self.units)
        p = self.prior(top)
        z = draw(p, generator, (n, self.units[-1]))
        for level in range(top - 1, 0, -1):
            z = draw(self.prior(level, z), generator)
        decoded = self.decode(z, x)
        return draw(decoded, generator) if noise else decoded.mean

    def reconstruct(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        through: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the decoder mean for the data's own latents, (batch, dim y).

        Args:
            x: Input or condition, (batch, dim x).
            y: Target of a conditional model, (batch, dim y).
            through: Highest level passed: 2 goes up to z_2 and comes down by `p(z_1|z_2)`.
            generator: Source of samples on the way; none: means.

        Raises:
            InvalidArgumentError: There is no such level.
        """
        if not 1 <= through <= len(self.units):
            raise InvalidArgumentError(
                "through",
                through,
                f"a level from 1 to {len(self.units)}",
                "Pass through=1 for a reconstruction from z_1.",
            )
        z = self.infer(x, y, generator=generator)[through - 1]
        for level in range(through - 1, 0, -1):
            z = draw(self.prior(level, z), generator)
        return self.decode(z, x).mean


def _log_prob(distribution: Distribution, value: Tensor) -> Tensor:
    return log_prob(distribution, value).sum(-1)
