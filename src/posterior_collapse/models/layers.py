"""The layers and networks that models are built from, and the Gaussians that they give.

A vectorised sweep computes the first product with the data for all its runs at once and draws its
own dropout masks; both reach the layer through one mapping, `supplied`, from the layer's qualified
name to the tensor it would otherwise compute.

A level's two networks are each a sum over their inputs of features and a head. The sum is what
makes one class serve them all: `W1 x + W2 y` of a linear conditional model, the two-path nets of
the paper, and a plain stack when there is one input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

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
    return 0.5 * (squared_distance / std_p.square() - 1) + (std_p / std_q).log()


Supplied = Mapping[str, Tensor]


def _tanh(value: Tensor) -> Tensor:
    """The hyperbolic tangent; a processor has the sigmoid at a tenth of its time.

    Its error is that of float32 relative to 1, not to itself: enough for a mean, not for a std,
    whose log is taken.
    """
    if value.device.type == "cpu" and value.dtype == torch.float32:
        return 2 * torch.sigmoid(2 * value) - 1
    return torch.tanh(value)


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda value: value,
    "relu": torch.relu,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "softplus": functional.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": _tanh,
}


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
        uniform = torch.rand(n, self.width, generator=generator, device=generator.device)
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
        return (target - self.forward(inputs, supplied)).square().sum(-1)
