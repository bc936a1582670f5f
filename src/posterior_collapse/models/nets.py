"""The two networks of a latent level, each a sum over its inputs of features and a head.

The sum is what makes one class serve them all: `W1 x + W2 y` of a linear conditional model, the
two-path nets of the paper, and a plain stack when there is one input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from posterior_collapse.models.gaussians import STD_HEADS, Gaussian, Scale
from posterior_collapse.models.layers import ACTIVATIONS, Affine, Dense, Supplied

__all__ = ["Decoder", "Encoder"]

Inputs = Mapping[str, Tensor]


def _sum(values: Sequence[Tensor]) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


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
        mean = _sum([head(features[key], supplied) for key, head in self.mean.items()])
        mean = ACTIVATIONS[self.squash](mean)
        if isinstance(self.std, Scale):
            return Gaussian(mean, self.std())
        raw = _sum([head(features[key], supplied) for key, head in self.std.items()])
        return Gaussian(mean, STD_HEADS[self.std_head](raw))

    def stems(self, key: str) -> list[Affine]:
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

    def stems(self, key: str) -> list[Affine]:
        """Return the affine layer applied straight to an input, unless it is a head."""
        features = self.features[key]
        return (
            cast("list[Affine]", list(features.layers[:1])) if isinstance(features, Dense) else []
        )

    def forward(self, inputs: Inputs, supplied: Supplied) -> Tensor:
        """Map the inputs, (..., size) each, to the mean, (..., outputs)."""
        hidden = [
            (self.heads[key], net(inputs[key], supplied)) for key, net in self.features.items()
        ]
        return ACTIVATIONS[self.squash](_sum([head(value) for head, value in hidden]))

    def squared_error(
        self, inputs: Inputs, target: Tensor, supplied: Supplied, heads: Mapping[str, str]
    ) -> Tensor:
        """Return `|target - mean|^2`, (...), without residuals if every head's projection is there.

        Args:
            inputs: As in `forward`.
            target: (..., outputs).
            supplied: May hold, under each head's name, `target @ head.weight`, (..., features).
            heads: Per input, the name of its head.
        """
        if not (heads and all(name in supplied for name in heads.values())):
            return (target - self.forward(inputs, supplied)).square().sum(-1)
        hidden = torch.cat([net(inputs[key], supplied) for key, net in self.features.items()], -1)
        projected = torch.cat([supplied[heads[key]] for key in self.features], -1)
        layers = [cast(nn.Linear, self.heads[key]) for key in self.features]
        weight = torch.cat([layer.weight for layer in layers], 1)  # (outputs, features)
        cross = (hidden * projected).sum(-1)
        norm = (hidden @ (weight.T @ weight) * hidden).sum(-1)
        error = target.square().sum(-1) - 2 * cross + norm
        biases = [layer.bias for layer in layers if layer.bias is not None]
        if not biases:
            return error
        bias = _sum(biases)
        return error + 2 * (hidden @ (weight.T @ bias)) - 2 * (target @ bias) + bias @ bias
