"""What an encoder returns, read as a mean and a std."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from posterior_collapse.diagnosis.scores import elementwise
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models.layers import Gaussian

__all__ = ["posterior_of"]

SURE = 4.0
"""Standard errors within which noise counts as that of a sample."""


def posterior_of(output: Any, *, log_var: bool) -> Gaussian:
    """Return mean and std of what an encoder returned, of one shape.

    Args:
        output: `(mean, log_var)` or `(mean, std)`, perhaps with a sample of them behind, a
            `Normal`, or a `MultivariateNormal` of independent units.
        log_var: Whether the second is a log-variance in nats; False: it is a std.

    Raises:
        InvalidArgumentError: Something else, two shapes, or a negative std.

    Example:
        >>> posterior_of((torch.zeros(1), torch.zeros(1)), log_var=True)
        Gaussian(mean=tensor([0.]), std=tensor([1.]))
    """
    output = elementwise(output, lead=1)
    if isinstance(output, Normal):
        return Gaussian(output.mean, output.stddev)
    if isinstance(output, MultivariateNormal):
        return _independent(output)
    if isinstance(output, Sequence) and len(output) == 3 and _like(output[2], output[0]):
        if _begins_with_sample(output, log_var):
            raise InvalidArgumentError(
                "encode",
                "three things, of which the first is a sample",
                "(mean, log_var), and a sample at most behind",
                "Wrap it: lambda x: encode(x)[1:].",
            )
        output = output[:2]  # the sample that was drawn
    if not isinstance(output, Sequence) or len(output) != 2:
        many = f"{len(output)} things" if isinstance(output, Sequence) else None
        raise InvalidArgumentError(
            "encode",
            many or f"a {type(output).__name__}",
            "two: (mean, log_var)",
            "Wrap it: lambda x: encode(x)[:2].",
        )
    mean, spread = (
        part if isinstance(part, Tensor) else torch.as_tensor(part, device="cpu") for part in output
    )
    if mean.shape != spread.shape:
        raise InvalidArgumentError(
            "encode",
            f"outputs of shapes {tuple(mean.shape)} and {tuple(spread.shape)}",
            "one shape",
            "Return a log-variance per unit, expanded to the mean's shape.",
        )
    if log_var:
        return Gaussian(mean, (0.5 * spread).exp())
    if (spread < 0).any():
        raise InvalidArgumentError(
            "encode",
            f"a negative std ({spread.min().item():.4g})",
            "positive stds",
            "If that is a log-variance, pass log_var=True.",
        )
    return Gaussian(mean, spread)


def _like(value: Any, mean: Any) -> bool:
    return isinstance(value, Tensor) and value.shape == getattr(mean, "shape", None)


def _begins_with_sample(output: Sequence[Tensor], log_var: bool) -> bool:
    """Whether three tensors are (z, mean, spread) and not (mean, spread, z).

    Noise of a sample has variance 1, or, of a model that draws none in evaluation, 0.
    """

    def misfit(z: Tensor, mean: Tensor, spread: Tensor) -> float:
        noise = (z - mean) / ((0.5 * spread).exp() if log_var else spread)
        return abs(float(noise.double().square().mean()) - 1)

    first, second, third = (part.detach().float() for part in output)
    error = SURE * math.sqrt(2 / first.numel())
    if torch.equal(first, third) or misfit(third, first, second) < 0.5:
        return False
    return torch.equal(first, second) or misfit(first, second, third) < error < 0.5


def _independent(output: MultivariateNormal) -> Gaussian:
    covariance = output.covariance_matrix
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    if not torch.equal(covariance, torch.diag_embed(diagonal)):
        raise InvalidArgumentError(
            "encode",
            "a MultivariateNormal whose units depend on each other",
            "one of independent units",
            "Return a Normal of its mean and of the root of its variance.",
        )
    return Gaussian(output.mean, diagonal.sqrt())
