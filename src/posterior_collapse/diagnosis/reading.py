"""The model that is diagnosed, noise for it, and its tensors as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal

from posterior_collapse.diagnosis.scores import elementwise
from posterior_collapse.diagnosis.statistics import PURPOSE
from posterior_collapse.errors import DataError, InvalidArgumentError
from posterior_collapse.models import LatentModel


def model_behind(model: Any) -> LatentModel | None:
    """Return a `LatentModel`, or that of a run that `fit` returned; None: it is neither."""
    both = (model, getattr(model, "model", None))
    return next((found for found in both if isinstance(found, LatentModel)), None)


def model_of(model: Any) -> LatentModel:
    """Return a `LatentModel`, or that of a run that `fit` returned."""
    found = model_behind(model)
    if found is None:
        raise InvalidArgumentError(
            "model",
            f"a {type(model).__name__}",
            "a LatentModel, or what fit returned",
            "Wrap its encoder and decoder with from_callable.",
        )
    return found


def noise_generator(device: torch.device, seed: int) -> torch.Generator:
    """Return a generator of noise on the device of the batches.

    Its numbers are not those of `torch.manual_seed(seed)`, with which the data may have been drawn:
    noise that equals the data would pass for information.

    Example:
        >>> generator = noise_generator(torch.device("cpu"), seed=0)
        >>> generator.initial_seed() == 0
        False
    """
    return torch.Generator(device).manual_seed(derived_seed(seed, PURPOSE))


def derived_seed(*words: int) -> int:
    """Return a seed of 63 bits that depends on a seed and on what it is for."""
    first, second = np.random.SeedSequence(words).generate_state(2, np.uint32).tolist()
    return int(first << 31 ^ second)


def as_array(value: Tensor) -> NDArray[Any]:
    """Return a tensor's numbers as NumPy knows them: float64 as it is, all else as float32."""
    kept = value if value.dtype == torch.float64 else value.float()
    array: NDArray[Any] = kept.detach().cpu().numpy()
    return array


def in_double(value: Tensor) -> NDArray[np.float64]:
    """Return a tensor's numbers as an array in float64."""
    array: NDArray[np.float64] = value.detach().double().cpu().numpy()
    return array


def check_finite(whose: str, which: str = "", **parts: Tensor) -> None:
    """Refuse what a model gives if a part of it is not finite."""
    for part, values in parts.items():
        if not bool(values.isfinite().all()):
            raise DataError(
                f"{whose} {part}{which}", "NaN or inf", "finite numbers",
                "Check the model's weights and the scale of the data.",
            )  # fmt: skip


def prior_of(model: LatentModel, x: Tensor) -> Distribution | None:
    """Return the prior of the top level that a model makes of its inputs; None: it makes none."""
    made = getattr(model, "prior_of", None)
    return None if made is None else made(x)


def sampled_kl(q: Normal, p: Distribution, z: Tensor) -> Tensor:
    """Return E_q[log q - log p] of each unit by samples, for a prior that is not Gaussian.

    Of a prior that does not split over units the sum is exact, and a unit's part is that to its
    own marginal, where a mixture has one, with what is left shared by all alike. Posteriors are
    (rows, units), samples (samples, rows, units).
    """
    own = _log_prob(q, z)
    if not p.event_shape:
        return (own - _log_prob(p, z)).mean(0)
    total = (own.sum(-1) - _log_prob(p, z)).mean(0)
    marginal = _marginal(p)
    each = (own if marginal is None else own - _log_prob(marginal, z)).mean(0)
    return each + ((total - each.sum(-1)) / each.shape[-1])[:, None]


def check_prior(p: Distribution, level: int, units: int) -> None:
    """Refuse a prior of another number of units; one of a single number serves them all."""
    shape = tuple(p.batch_shape + p.event_shape)
    if shape and shape[-1] not in (1, units):
        raise InvalidArgumentError(
            "prior",
            f"a distribution of shape {shape}",
            f"(..., {units}), for the {units} units of z{level}",
            "Give it a number for each unit, or one for all.",
        )


def _log_prob(p: Distribution, z: Tensor) -> Tensor:
    found: Tensor = p.log_prob(z)
    return found.double()


def _marginal(p: Distribution) -> Distribution | None:
    """Of each unit of a mixture of diagonal Gaussians."""
    if not isinstance(p, MixtureSameFamily):
        return None
    parts = elementwise(p.component_distribution, lead=0)
    if not isinstance(parts, Normal) or parts.mean.dim() != 2:
        return None
    weights = p.mixture_distribution.probs.expand(parts.mean.shape[1], -1)
    own = Normal(parts.mean.T, parts.stddev.T, validate_args=False)
    return MixtureSameFamily(Categorical(weights), own, validate_args=False)


def prior_stddev(p: Distribution, q: Normal) -> Tensor:
    """Std of a prior's units; 1 where it has none, or none that is finite."""
    try:
        std = p.stddev.double()
        return torch.where(std.isfinite(), std, 1.0)
    except NotImplementedError:
        return torch.ones_like(q.mean, dtype=torch.float64)
