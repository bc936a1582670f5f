"""Layers whose costly or random part can be supplied from outside, by the layer's name.

A vectorised sweep computes the first product with the data for all its runs at once and draws its
own dropout masks; both reach the layer through one mapping, `supplied`, from the layer's qualified
name to the tensor it would otherwise compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ACTIVATIONS", "Affine", "Dense", "Mask", "Supplied"]

Supplied = Mapping[str, Tensor]

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda value: value,
    "relu": torch.relu,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "softplus": functional.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
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
