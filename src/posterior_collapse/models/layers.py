"""The layers and networks that models are built from, and the Gaussians that they give.

A vectorised sweep computes the first product with the data for all its runs at once and draws its
own dropout masks; both reach the layer through one mapping, `supplied`, from the layer's qualified
name to the tensor it would otherwise compute.

A level's two networks are each a sum over their inputs of features and a head. The sum is what
makes one class serve them all: `W1 x + W2 y` of a linear conditional model, the two-path nets of
the paper, and a plain stack when there is one input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from posterior_collapse.models.activations import ACTIVATIONS
from posterior_collapse.models.convolutions import convolved

_BOUND = 15.0  # of a log std given by a network: exp(15) is far from every useful scale
_FLOOR = 1e-12  # variance that keeps the log of a signed std finite at 0


class Gaussian(NamedTuple):
    """Mean (..., units) and std, broadcastable to it. Unlike `Normal` it lives inside `vmap`."""

    mean: Tensor
    std: Tensor

    def at(self, noise: Tensor) -> Tensor:
        """Return the sample that standard normal `noise` (..., units) makes."""
        return self.mean + self.std * noise


class Scale(nn.Module):
    """A std that no input moves: fixed (buffer `value`) or learned (parameter `log`, its log).

    Args:
        std: The fixed std, one or one per unit; `"learned"` per unit; `"shared"`, one learned.
        shape: `(units,)`, or `()` for a scalar.
    """

    value: Tensor
    log: Tensor

    def __init__(self, std: float | Sequence[float] | str, shape: tuple[int, ...]) -> None:
        super().__init__()
        if isinstance(std, str):
            self.log = nn.Parameter(torch.zeros(() if std == "shared" else shape))
        else:
            # float64 here: the cast to the model's dtype then rounds once.
            value = torch.tensor(std, dtype=torch.float64).expand(shape)
            self.register_buffer("value", value.clone())

    @property
    def learned(self) -> bool:
        """Whether the std is trained."""
        return "log" in self._parameters

    def forward(self) -> Tensor:
        """Return the std."""
        return self.log.exp() if self.learned else self.value

    @torch.no_grad()
    def set(self, std: Tensor) -> None:
        """Set the std, learned or fixed."""
        if self.learned:
            self.log.copy_(std.log())
        else:
            self.value.copy_(std)


def _std_of_log(head: Tensor) -> Tensor:
    return (_BOUND * torch.tanh(head / _BOUND)).exp()


def log_head_of(std: Tensor) -> Tensor:
    """Return the network output that the `"log"` head turns into `std`."""
    return _BOUND * torch.atanh(std.log() / _BOUND)


def _std_of_signed(head: Tensor) -> Tensor:
    return (head.square() + _FLOOR).sqrt()


def _std_of_tanh(head: Tensor) -> Tensor:
    return _std_of_signed(torch.tanh(head))


STD_HEADS = {"log": _std_of_log, "signed": _std_of_signed, "tanh": _std_of_tanh}
"""Std from a network's output s: `exp(s)` (bounded softly), `|s|`, or `|tanh s|`. The last two are
the paper's, whose variance is the square of a signed number; they stay finite at s = 0."""


def kl_divergence(q: Gaussian, p: Gaussian) -> Tensor:
    """Return `KL(q || p)` of each unit in nats, of the broadcast shape.

    Example:
        >>> one = torch.ones(1)
        >>> kl_divergence(Gaussian(one, one), Gaussian(0 * one, one)).item()
        0.5
    """
    second_moment = (q.mean - p.mean).square() + q.std.square()
    return relative_entropy(second_moment, q.std, p.std)


def relative_entropy(squared_distance: Tensor, std_q: Tensor, std_p: Tensor) -> Tensor:
    """Return `E_q[log q - log p]` of each unit in nats, for Gaussians q and p.

    Args:
        squared_distance: `(z - mean_p)^2`, sampled or averaged over q.
        std_q: Std of q; its entropy is used in closed form.
        std_p: Std of p.

    Example:
        >>> one = torch.ones(1)
        >>> relative_entropy(one, one, one).item()
        0.0
    """
    # Of two logs apart the slopes are simpler, and that of a fixed std_p is a constant.
    return 0.5 * (squared_distance / std_p.square() - 1) + std_p.log() - std_q.log()


Supplied = Mapping[str, Tensor]


class Affine(nn.Linear):
    """A linear layer whose output can be supplied."""

    name = ""
    """Qualified name in the model, set once the model is complete."""

    def forward(self, value: Tensor, supplied: Supplied | None = None) -> Tensor:
        """Map (..., in) to (..., out), or take the output from `supplied`."""
        if supplied and self.name in supplied:
            return supplied[self.name]
        return super().forward(value)


class Mask(nn.Module):
    """Dropout whose mask is supplied (already divided by the share kept); none: no dropout."""

    name = ""

    def __init__(self, width: int, rate: float) -> None:
        super().__init__()
        self.width = width
        self.rate = rate

    def forward(self, value: Tensor, supplied: Supplied) -> Tensor:
        """Multiply (..., width) by the supplied mask."""
        return value * supplied[self.name] if self.name in supplied else value

    def draw(self, n: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Draw a mask, (n, width)."""
        # In single precision whatever a program has for its default: other numbers would come.
        uniform = torch.rand(
            n, self.width, generator=generator, device=generator.device, dtype=torch.float32
        )
        return (uniform >= self.rate).to(dtype) / (1 - self.rate)


class Dense(nn.Module):
    """Hidden layers: affine, activation, dropout, once per width; no width is the identity."""

    def __init__(
        self, inputs: int, widths: Sequence[int], activation: str, dropout: float = 0.0
    ) -> None:
        super().__init__()
        sizes = (inputs, *widths)
        self.layers = nn.ModuleList(Affine(a, b) for a, b in pairwise(sizes))
        self.masks = nn.ModuleList(Mask(width, dropout) for width in widths if dropout > 0)
        self.activation = activation
        self.width = sizes[-1]

    def forward(self, value: Tensor, supplied: Supplied) -> Tensor:
        """Map (..., inputs) to (..., width)."""
        activate = ACTIVATIONS[self.activation]
        for i, layer in enumerate(self.layers):
            value = activate(layer(value, supplied))
            if len(self.masks):
                value = self.masks[i](value, supplied)
        return value


Inputs = Mapping[str, Tensor]


class Encoder(nn.Module):
    """`q(z_l | .)`: its mean is a squashed sum of affine heads over features of the inputs.

    Args:
        features: Per input, its feature network.
        heads: Per input, the affine head of the mean.
        std: A `Scale`, or per input an affine head of the std.
        squash: Activation of the mean.
        std_head: A key of `STD_HEADS`.
    """

    def __init__(
        self,
        features: Mapping[str, nn.Module],
        heads: Mapping[str, Affine],
        std: Scale | Mapping[str, Affine],
        squash: str = "identity",
        std_head: str = "log",
    ) -> None:
        super().__init__()
        self.features = nn.ModuleDict(dict(features))
        self.mean = nn.ModuleDict(dict(heads))
        self.std = std if isinstance(std, Scale) else nn.ModuleDict(dict(std))
        self.squash = squash
        self.std_head = std_head

    def forward(self, inputs: Inputs, supplied: Supplied) -> Gaussian:
        """Map the inputs, (..., size) each, to mean and std, (..., units)."""
        features = {key: net(inputs[key], supplied) for key, net in self.features.items()}

        def summed(heads: nn.ModuleDict) -> Tensor:
            parts: list[Tensor] = [head(features[key], supplied) for key, head in heads.items()]
            return sum(parts[1:], parts[0])

        mean = ACTIVATIONS[self.squash](summed(self.mean))
        if isinstance(self.std, Scale):
            return Gaussian(mean, self.std())
        return Gaussian(mean, STD_HEADS[self.std_head](summed(self.std)))

    def data_layers(self, key: str) -> list[Affine]:
        """Return the affine layers applied straight to an input: first layers, or the heads."""
        features = self.features[key]
        if not isinstance(features, Dense):
            return []
        heads = [self.mean[key]] if isinstance(self.std, Scale) else [self.mean[key], self.std[key]]
        return cast("list[Affine]", list(features.layers[:1]) or heads)


class Decoder(nn.Module):
    """The mean of `p(y | z_1, .)` or `p(z_l | z_{l+1})`: a squashed sum of heads over features.

    Args:
        features: Per input, its feature network.
        heads: Per input, an `nn.Linear` or a network on the features.
        squash: Activation of the mean.
    """

    def __init__(
        self,
        features: Mapping[str, nn.Module],
        heads: Mapping[str, nn.Module],
        squash: str = "identity",
    ) -> None:
        super().__init__()
        self.features = nn.ModuleDict(dict(features))
        self.heads = nn.ModuleDict(dict(heads))
        self.squash = squash

    @property
    def affine(self) -> bool:
        """Whether the mean is affine in the features, so that heads can be projected on."""
        linear = all(isinstance(head, nn.Linear) for head in self.heads.values())
        return linear and self.squash == "identity"

    def data_layers(self, key: str) -> list[Affine]:
        """Return the affine layer applied straight to an input, unless it is a head."""
        features = self.features[key]
        found = list(features.layers[:1]) if isinstance(features, Dense) else []
        return cast("list[Affine]", found)

    def forward(self, inputs: Inputs, supplied: Supplied) -> Tensor:
        """Map the inputs, (..., size) each, to the mean, (..., outputs)."""
        parts: list[Tensor] = [
            self.heads[key](net(inputs[key], supplied)) for key, net in self.features.items()
        ]
        total: Tensor = sum(parts[1:], parts[0])
        return ACTIVATIONS[self.squash](total)

    def squared_error(self, inputs: Inputs, target: Tensor, supplied: Supplied) -> Tensor:
        """Return `|target - mean|^2`, (...); target (..., outputs)."""
        return (self.forward(inputs, supplied) - target).square().sum(-1)


# Convolutional parts: images come and go as flat rows, whatever their leading dimensions.

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
            image = activate(convolved(cast(nn.Conv2d, layer), image))
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
            image = activate(convolved(cast(nn.ConvTranspose2d, layer), image))
        return convolved(self.last, image).reshape(*value.shape[:-1], -1)


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
        image = convolved(self.upscale, value.reshape(-1, 1, _SIDE, _SIDE))
        image = ACTIVATIONS[self.activation](image)
        return convolved(self.last, image).reshape(*value.shape[:-1], self.width)
