"""diffusers' autoencoders as a `LatentModel` whose units know their channel."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from posterior_collapse.adapters.callables import WrappedModel
from posterior_collapse.adapters.libraries import needing
from posterior_collapse.errors import InvalidArgumentError, first_line
from posterior_collapse.models.modules import evaluating, tensor_behind
from posterior_collapse.specs import Spec, VAESpec


def from_diffusers(
    autoencoder: Any,
    *,
    shape: Sequence[int] | None = None,
    spec: Spec | None = None,
    decode: bool = True,
) -> ImageAutoencoder:
    """Return a `LatentModel` around a diffusers `AutoencoderKL`, or another of its kind.

    Of images, videos or sounds: whatever has an `encode(x).latent_dist`. A latent unit is one
    channel at one position, so that a KL of all units is a KL per sample; `per_channel` sums it
    over positions. Latents are those that the KL was trained on, before diffusers' scaling factor.
    The objective is not part of the model: the spec is assumed unless one is passed. They are
    trained with perceptual, absolute and adversarial errors, so that it is taken for no Gaussian's,
    and whether a collapse is optimal cannot be told.

    Args:
        autoencoder: A `diffusers.AutoencoderKL`, or a model with `encode(x).latent_dist` and
            `decode(z).sample`, which is run once to see the shape of its latents.
        shape: Shape of a sample, (channels, height, width) of an image; None: as in the config.
        spec: The objective that it was trained with, of as many units as the latent has numbers:
            with `likelihood="other"`, unless its error was a squared one alone.
        decode: Whether to decode too. False: each sample is encoded once, which is all that KL,
            information and active units need; `diagnose` takes a fraction of the time, and knows
            nothing of reconstructions and of the decoder's use of units.

    Raises:
        MissingDependencyError: diffusers is not installed.
        InvalidArgumentError: No such autoencoder, or no shape of a sample for it.
    """
    with needing("diffusers", "read its models"):
        from diffusers import AutoencoderKL
    if not all(callable(getattr(autoencoder, name, None)) for name in ("encode", "decode")):
        _refuse(f"a {type(autoencoder).__name__}")
    if isinstance(autoencoder, AutoencoderKL):
        sample = _image_shape(autoencoder.config, shape)
        sides = len(autoencoder.config.block_out_channels) - 1
        latent = (autoencoder.config.latent_channels, *(side // 2**sides for side in sample[1:]))
    else:
        sample = _sample_shape(getattr(autoencoder, "config", None), shape)
        latent = _latent_shape(autoencoder, sample)
    # A decoder of videos that takes frames side by side is told that each stands alone.
    wanted = inspect.signature(autoencoder.decode).parameters.get("num_frames")
    alone = wanted is not None and wanted.default is inspect.Parameter.empty
    options = {"num_frames": 1} if alone else {}

    def encoded(x: Tensor) -> tuple[Tensor, Tensor]:
        q = autoencoder.encode(x).latent_dist
        return q.mean, q.std

    def decoded(z: Tensor) -> Tensor:
        output = autoencoder.decode(z, **options)
        mean: Tensor = output if isinstance(output, Tensor) else output.sample
        return mean

    unknown = VAESpec(math.prod(latent), sigma="input", likelihood="other")
    return ImageAutoencoder(
        encoded,
        decoded if decode else None,
        latent_dim=latent,
        log_var=False,
        spec=unknown if spec is None else spec,
        spec_assumed=spec is None,
        shape=sample,
        modules=(autoencoder,) if isinstance(autoencoder, torch.nn.Module) else (),
    )


class ImageAutoencoder(WrappedModel):
    """A wrapped `AutoencoderKL` or another autoencoder, channels first; `from_diffusers` makes it.

    Attributes:
        latent_shape: Channels, height and width of a latent; units are in that order.
    """

    channels_first = True  # in a sound too, unlike other sequences


def _refuse(got: str) -> NoReturn:
    raise InvalidArgumentError(
        "autoencoder",
        got,
        "a diffusers AutoencoderKL, or another model with encode(x).latent_dist and decode(z)",
        "Wrap another model with from_callable.",
    )


def _image_shape(config: Any, shape: Sequence[int] | None) -> tuple[int, ...]:
    """The shape of an image that an `AutoencoderKL` gives back as it took it."""
    image = _sample_shape(config, shape)
    shrink: int = 2 ** (len(config.block_out_channels) - 1)
    if len(image) != 3 or image[0] != config.in_channels or any(s % shrink for s in image[1:]):
        raise InvalidArgumentError(
            "shape",
            image,
            f"({config.in_channels}, height, width), the last two multiples of {shrink}",
            "Pass the shape of one image of your data.",
        )
    return image


def _sample_shape(config: Any, shape: Sequence[int] | None) -> tuple[int, ...]:
    if shape is not None:
        return tuple(shape)
    size, channels = getattr(config, "sample_size", None), getattr(config, "in_channels", None)
    if size is None or channels is None:
        raise InvalidArgumentError(
            "shape", "nothing, and the model's config has none", "the shape of one sample",
            "Pass shape=(channels, height, width), or (channels, frames, height, width).",
        )  # fmt: skip
    return (channels, size, size) if isinstance(size, int) else (channels, *size)


@torch.no_grad()
def _latent_shape(autoencoder: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a latent, seen by encoding one sample of zeros."""
    like = tensor_behind(autoencoder)
    zeros = torch.zeros(1, *shape) if like is None else like.new_zeros(1, *shape)
    with evaluating(autoencoder):
        try:
            encoded = autoencoder.encode(zeros)
        except Exception as error:
            raise InvalidArgumentError(
                "shape",
                f"{shape}, for which encode raised {type(error).__name__} ({first_line(error)})",
                "the shape of a sample that the model takes",
                "Pass the shape of one sample of your data, channels first.",
            ) from error
    mean = getattr(getattr(encoded, "latent_dist", None), "mean", None)
    if not isinstance(mean, Tensor):
        _refuse(f"a {type(autoencoder).__name__}, whose encode(x) has no latent_dist")
    return tuple(mean.shape[1:])
