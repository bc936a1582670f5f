"""Convolutions as a processor computes them fast: the numbers are those of torch's own layers.

oneDNN, by which torch convolves on a processor, is fastest where the channels of a pixel lie beside
each other. It takes as long for a bias's gradient as for that of the weights, and as long for one
channel as for sixteen. So images and kernels are laid out channels last, a bias's gradient is a sum
of its own, and what makes few channels is a product and a few shifted sums.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

FEW = 3
"""Channels up to which the sums of a product are faster than the convolution."""


def convolved(layer: nn.Conv2d | nn.ConvTranspose2d, image: Tensor) -> Tensor:
    """Apply a convolution, transposed or not.

    Args:
        layer: With a bias, without dilation and groups; padded with zeros.
        image: (n, channels, height, width).

    Example:
        >>> layer, image = nn.ConvTranspose2d(4, 1, 3, padding=1), torch.rand(2, 4, 5, 5)
        >>> torch.allclose(convolved(layer, image), layer(image), atol=1e-6)
        True
    """
    # A compiler knows torch's own convolution, and lays out images itself.
    if image.device.type != "cpu" or torch.compiler.is_compiling():
        return cast(Tensor, layer(image))
    tensors: list[Any] = [image, layer.weight, layer.bias]
    # Autocast leaves float64 as it is.
    if torch.is_autocast_enabled("cpu") and layer.weight.dtype != torch.float64:
        tensors = [tensor.to(torch.get_autocast_dtype("cpu")) for tensor in tensors]
    image, weight, bias = tensors
    transposed = isinstance(layer, nn.ConvTranspose2d)
    how = layer.stride, layer.padding, layer.dilation, transposed, layer.output_padding, 1
    image = image.movedim(1, -1).contiguous().movedim(-1, 1)
    return cast(Tensor, _Convolved.apply(image, channels_last(weight), bias, how))  # type: ignore[no-untyped-call]


def channels_last(weight: Tensor) -> Tensor:
    """Return a kernel, (a, b, height, width), laid out channels last, where images follow it."""
    # Not `contiguous`: it takes a single channel for channels last whatever its strides, by which
    # libraries go.
    laid_out = weight.movedim(1, -1).clone(memory_format=torch.contiguous_format)
    return laid_out.movedim(-1, 1)


class _Convolved(torch.autograd.Function):
    """A convolution with a bias; `how` is what `torch.convolution` takes after it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(image: Tensor, weight: Tensor, bias: Tensor, how: tuple[Any, ...]) -> Tensor:
        stride, padding, _, transposed, *_ = how
        if transposed and stride == (1, 1) and weight.shape[1] <= FEW:
            return (_summed(image, weight, padding) + bias[:, None, None]).to(image.dtype)
        return torch.convolution(image, weight, bias, *how)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        image, weight, _, ctx.how = inputs
        ctx.save_for_backward(image, weight)
        ctx.save_for_forward(image, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (image, weight), (slope,) = ctx.saved_tensors, gradients
        needed = [*ctx.needs_input_grad[:2], False]
        of_image, of_weight, _ = torch.ops.aten.convolution_backward(
            slope, image, weight, None, *ctx.how, needed
        )
        return of_image, of_weight, slope.sum((0, 2, 3)), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (image, weight), (of_image, of_weight, of_bias, _) = ctx.saved_tensors, tangents
        moved = torch.convolution(of_image, weight, of_bias, *ctx.how)
        return moved + torch.convolution(image, of_weight, None, *ctx.how)


def _summed(image: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
    """A transposed convolution of stride 1: the product of pixels and kernels, shifted and summed.

    Products of fewer digits than those of float32 are summed in float32, and stay so.
    """
    n, _, height, width = image.shape
    channels, *kernel = weight.shape[1:]
    kernels = weight.permute(1, 2, 3, 0).flatten(0, 2)[:, :, None, None]
    parts = torch.conv2d(image, kernels).view(n, channels, *kernel, height, width)
    dtype = torch.promote_types(image.dtype, torch.float32)
    whole = [size + more - 1 for size, more in zip((height, width), kernel, strict=True)]
    total = parts.new_zeros(n, channels, *whole, dtype=dtype)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            total[:, :, i : i + height, j : j + width] += parts[:, :, i, j]
    above, left = padding
    return total[:, :, above : whole[0] - above, left : whole[1] - left]
