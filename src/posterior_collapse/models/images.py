"""Convolutional parts: images come and go as flat rows, whatever their leading dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from posterior_collapse.models.layers import ACTIVATIONS, Supplied

ImageShape = tuple[int, int, int]
_SIDE = 14  # of an MNIST quarter


def _sizes(shape: ImageShape, n_layers: int) -> list[tuple[int, int]]:
    """Heights and widths before and after each stride-2 layer, the image first."""
    sizes = [(shape[1], shape[2])]
    for _ in range(n_layers):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


class ConvFeatures(nn.Module):
    """3x3 convolutions of stride 2 with activations: flat images (..., C*H*W) -> (..., width).

    Args:
        shape: Channels, height and width of the image.
        channels: Output channels of each layer.
        activation: A key of `ACTIVATIONS`.
    """

    def __init__(self, shape: ImageShape, channels: Sequence[int], activation: str) -> None:
        super().__init__()
        self.shape = shape
        self.activation = activation
        pairs = zip((shape[0], *channels), channels, strict=False)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        height, width = _sizes(shape, len(channels))[-1]
        self.width = channels[-1] * height * width

    def forward(self, value: Tensor, supplied: Supplied) -> Tensor:
        """Map flat images to flat features; there is nothing to supply."""
        activate = ACTIVATIONS[self.activation]
        image = value.reshape(-1, *self.shape)
        for layer in self.layers:
            image = activate(layer(image))
        return image.reshape(*value.shape[:-1], self.width)


class ImageHead(nn.Module):
    """A linear seed and transposed convolutions, the mirror of `ConvFeatures`, to flat images.

    Args:
        inputs: Numbers per row.
        shape: Channels, height and width of the image.
        channels: Those of the mirrored `ConvFeatures`; its odd sizes are met exactly.
        activation: A key of `ACTIVATIONS`.
    """

    def __init__(
        self, inputs: int, shape: ImageShape, channels: Sequence[int], activation: str
    ) -> None:
        super().__init__()
        sizes = _sizes(shape, len(channels))[::-1]
        widths = (channels[-1], *channels[-2::-1], channels[-1])
        self.seed_shape = (channels[-1], *sizes[0])
        self.activation = activation
        self.seed = nn.Linear(inputs, channels[-1] * sizes[0][0] * sizes[0][1])
        self.layers = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 3, 2, 1, output_padding=(1 - h % 2, 1 - w % 2))
            for a, b, (h, w) in zip(widths, widths[1:], sizes[1:], strict=False)
        )
        self.last = nn.ConvTranspose2d(channels[-1], shape[0], 3, stride=1, padding=1)

    def forward(self, value: Tensor) -> Tensor:
        """Map rows to flat images."""
        activate = ACTIVATIONS[self.activation]
        image = activate(self.seed(value).reshape(-1, *self.seed_shape))
        for layer in self.layers:
            image = activate(_transposed(layer, image))
        return _transposed(self.last, image).reshape(*value.shape[:-1], -1)


class QuarterFeatures(nn.Module):
    """`ConvFeatures` of the 28x28 image whose bottom-left quarter, the condition, is 0.

    The input is the quarter task's target: top-left, top-right, bottom-right, (..., 588).
    """

    def __init__(self, channels: Sequence[int], activation: str) -> None:
        super().__init__()
        self.convolutions = ConvFeatures((1, 2 * _SIDE, 2 * _SIDE), channels, activation)
        self.width = self.convolutions.width

    def forward(self, value: Tensor, supplied: Supplied) -> Tensor:
        """Map (..., 588) to (..., width)."""
        top_left, top_right, bottom_right = value.reshape(
            *value.shape[:-1], 3, _SIDE, _SIDE
        ).unbind(-3)
        top = torch.cat([top_left, top_right], -1)
        bottom = torch.cat([torch.zeros_like(bottom_right), bottom_right], -1)
        features: Tensor = self.convolutions(torch.cat([top, bottom], -2).flatten(-2), supplied)
        return features


class TargetQuarters(nn.Module):
    """The target's three quarters of a flat 28x28 image: (..., 784) -> (..., 588)."""

    def forward(self, value: Tensor) -> Tensor:
        """Cut, flatten and join the quarters in the order of the quarter task."""
        image = value.reshape(*value.shape[:-1], 2 * _SIDE, 2 * _SIDE)
        top, bottom = image[..., :_SIDE, :], image[..., _SIDE:, _SIDE:]
        quarters = (top[..., :_SIDE], top[..., _SIDE:], bottom)
        return torch.cat([quarter.flatten(-2) for quarter in quarters], -1)


class UpscaledQuarter(nn.Module):
    """A 14x14 quarter upscaled by transposed convolutions: (..., 196) -> (..., 784)."""

    width = 4 * _SIDE * _SIDE

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.upscale = nn.ConvTranspose2d(1, channels, 3, stride=2, padding=1, output_padding=1)
        self.last = nn.ConvTranspose2d(channels, 1, 3, stride=1, padding=1)

    def forward(self, value: Tensor, supplied: Supplied) -> Tensor:
        """Map flat quarters to flat images; there is nothing to supply."""
        image = _transposed(self.upscale, value.reshape(-1, 1, _SIDE, _SIDE))
        image = ACTIVATIONS[self.activation](image)
        return _transposed(self.last, image).reshape(*value.shape[:-1], self.width)


def _transposed(layer: nn.Module, image: Tensor) -> Tensor:
    """Apply a transposed convolution, its bias apart.

    On a processor the bias's gradient would take oneDNN as long as that of the weights.
    """
    layer = cast(nn.ConvTranspose2d, layer)
    padding = cast("tuple[int, ...]", layer.padding)
    grown = functional.conv_transpose2d(
        image, layer.weight, None, layer.stride, padding, layer.output_padding
    )
    bias = cast(Tensor, layer.bias).to(grown.dtype)  # of bfloat16 products
    return grown.add_(bias[:, None, None])
