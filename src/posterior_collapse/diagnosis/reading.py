"""The model that is diagnosed, noise for it, and its tensors as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posterior_collapse.diagnosis.statistics import PURPOSE
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models import LatentModel

__all__ = ["as_array", "in_double", "model_behind", "model_of", "noise_generator"]


def model_behind(model: Any) -> LatentModel | None:
    """Return a `LatentModel`, or that of a run that `fit` returned; None: it is neither."""
    both = (model, getattr(model, "model", None))
    return next((found for found in both if isinstance(found, LatentModel)), None)


def model_of(model: Any) -> LatentModel:
    """Return a `LatentModel`, or that of a run that `fit` returned.

    Raises:
        InvalidArgumentError: It is neither.
    """
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
    words = np.random.SeedSequence([seed, PURPOSE]).generate_state(2, np.uint32)
    derived = (int(words[0]) << 31) ^ int(words[1])
    return torch.Generator(device).manual_seed(derived)


def as_array(value: Tensor) -> NDArray[Any]:
    """Return a tensor's numbers as NumPy knows them: float64 as it is, all else as float32."""
    kept = value if value.dtype == torch.float64 else value.float()
    array: NDArray[Any] = kept.detach().cpu().numpy()
    return array


def in_double(value: Tensor) -> NDArray[np.float64]:
    """Return a tensor's numbers as an array in float64."""
    array: NDArray[np.float64] = value.detach().double().cpu().numpy()
    return array
