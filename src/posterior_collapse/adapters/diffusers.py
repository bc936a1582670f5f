"""diffusers' `AutoencoderKL` as a `LatentModel` whose units know their channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from posterior_collapse.adapters.callables import WrappedModel
from posterior_collapse.adapters.libraries import missing
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.specs import Spec

__all__ = ["ImageAutoencoder", "from_diffusers"]


def from_diffusers(
    autoencoder: Any, *, shape: Sequence[int] | None = None, spec: Spec | None = None
) -> ImageAutoencoder:
    """Return a `LatentModel` around a diffusers `AutoencoderKL`.

    A latent unit is one channel at one position, so that a KL of all units is a KL per image;
    `per_channel` sums it over positions. Latents are those that the KL was trained on, before
    diffusers' scaling factor. The objective is not part of the model: the spec is assumed unless
    one is passed. They are trained with perceptual, absolute and adversarial errors, so that it is
    taken for no Gaussian's, and whether a collapse is optimal cannot be told.

    Args:
        autoencoder: A `diffusers.AutoencoderKL`.
        shape: Shape of an image, (channels, height, width); None: as in the model's config.
        spec: The objective that it was trained with, of as many units as the latent has numbers:
            with `likelihood="other"`, unless its error was a squared one alone.

    Raises:
        MissingDependencyError: diffusers is not installed.
        InvalidArgumentError: Not an `AutoencoderKL`, or no shape of an image for it.
    """
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise missing("diffusers", "read its models", error) from error
    if not isinstance(autoencoder, AutoencoderKL):
        raise InvalidArgumentError(
            "autoencoder",
            f"a {type(autoencoder).__name__}",
            "a diffusers AutoencoderKL",
            "Wrap another model with from_callable.",
        )
    config = autoencoder.config
    size = config.sample_size
    sides = (size, size) if isinstance(size, int) else tuple(size)
    image = (config.in_channels, *sides) if shape is None else tuple(shape)
    shrink: int = 2 ** (len(config.block_out_channels) - 1)
    if len(image) != 3 or image[0] != config.in_channels or any(s % shrink for s in image[1:]):
        raise InvalidArgumentError(
            "shape",
            image,
            f"({config.in_channels}, height, width), the last two multiples of {shrink}",
            "Pass the shape of one image of your data.",
        )
    latent = (config.latent_channels, image[1] // shrink, image[2] // shrink)
    return ImageAutoencoder(autoencoder, image, latent, spec)


class ImageAutoencoder(WrappedModel):
    """A wrapped `AutoencoderKL`; `from_diffusers` makes one.

    Args:
        autoencoder: The model.
        image_shape: Channels, height and width of an image.
        latent_shape: Channels, height and width of a latent.
        spec: The objective, if it is known.
    """

    def __init__(
        self,
        autoencoder: Any,
        image_shape: tuple[int, int, int],
        latent_shape: tuple[int, int, int],
        spec: Spec | None,
    ) -> None:
        def encode(x: Tensor) -> tuple[Tensor, Tensor]:
            q = autoencoder.encode(x).latent_dist
            return q.mean, q.std

        def decode(z: Tensor) -> Tensor:
            decoded: Tensor = autoencoder.decode(z).sample
            return decoded

        super().__init__(
            encode,
            decode,
            latent_dim=latent_shape,
            log_var=False,
            spec=spec,
            shape=image_shape,
        )
        if self.spec_assumed:
            self.spec = self.spec.replace(likelihood="other")
