"""How the parameters of stacked models lie in memory: the leaves that one step trains at once.

All first layers that meet the same data lie in one leaf, and so do the heads of the decoder, their
biases as rows: a leaf is multiplied with the data at once, for all runs. Small parameters lie in
one leaf, which the optimiser updates at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from posterior_collapse.models import MarkovVAE

DATA_LAYERS, HEADS, REST = "stems", "heads", "rest"
"""Names of leaves that are of several parameters; optimisers' states are kept under them."""
SMALL = 4096
"""Parameters of up to so many numbers share a leaf: an operation each would cost more than them."""


class Layout:
    """Names of a model's parameters against the leaves that are trained.

    Attributes:
        data_layers: Per kind of data, the layers that meet it and their widths.
        heads: The heads in the order of their hidden features; empty where they stay apart.
    """

    def __init__(self, model: MarkovVAE, rows: int, *, share_heads: bool = True) -> None:
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        self.names = list(shapes)
        self.data_layers: dict[str, dict[str, int]] = {}
        for name, key in model.data_layers.items():
            self.data_layers.setdefault(key, {})[name] = shapes[f"{name}.weight"][0]
        widths = {name: shapes[f"{name}.weight"][1] for name in model.heads}
        # Without residuals, a decoder's error costs features^2 per output, not rows x features.
        few = 2 * sum(widths.values()) <= rows
        self.heads = widths if share_heads and few else {}
        self.biases = [f"{name}.bias" for name in self.heads if f"{name}.bias" in shapes]
        self.shared = {
            *(f"{name}.weight" for found in self.data_layers.values() for name in found),
            *(f"{name}.weight" for name in self.heads),
            *self.biases,
        }

        apart = {name: shape for name, shape in shapes.items() if name not in self.shared}
        # Matrices are stored as (inputs, outputs), as their gradients come: no step transposes.
        self.turned = {name for name, shape in apart.items() if len(shape) == 2}
        self.rest = {
            name: torch.Size(reversed(shape) if name in self.turned else shape)
            for name, shape in apart.items()
            if math.prod(shape) <= SMALL
        }

    def gather(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return contiguous leaves, (runs, ...) each, from parameters by name."""
        apart = {n: p.mT if n in self.turned else p for n, p in parameters.items()}
        names = [n for n in self.names if n not in self.shared and n not in self.rest]
        leaves = {name: apart[name] for name in names}
        if self.rest:
            leaves[REST] = torch.cat([apart[n].reshape(len(apart[n]), -1) for n in self.rest], 1)
        for key, layers in self.data_layers.items():
            leaves[f"{DATA_LAYERS}.{key}"] = torch.cat(
                [parameters[f"{n}.weight"] for n in layers], 1
            )
        if self.heads:
            rows = [parameters[f"{name}.weight"].mT for name in self.heads]
            rows += [parameters[name].unsqueeze(1) for name in self.biases]
            leaves[HEADS] = torch.cat(rows, 1)
        return {
            name: leaf.clone(memory_format=torch.contiguous_format) for name, leaf in leaves.items()
        }

    def scatter(self, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return views of the leaves by parameter name; (runs, ...) each."""
        found = {n: leaf for n, leaf in leaves.items() if n in self.names}
        if self.rest:
            parts = torch.split(leaves[REST], [shape.numel() for shape in self.rest.values()], 1)
            shapes = zip(self.rest.items(), parts, strict=True)
            found.update({n: part.view(-1, *shape) for (n, shape), part in shapes})
        found = {n: value.mT if n in self.turned else value for n, value in found.items()}
        for key, layers in self.data_layers.items():
            parts = torch.split(leaves[f"{DATA_LAYERS}.{key}"], list(layers.values()), 1)
            found.update({f"{n}.weight": part for n, part in zip(layers, parts, strict=True)})
        if self.heads:
            sizes = [*self.heads.values(), *(1 for _ in self.biases)]
            parts = torch.split(leaves[HEADS], sizes, 1)
            weights = zip(self.heads, parts, strict=False)
            found.update({f"{name}.weight": part.mT for name, part in weights})
            biases = zip(self.biases, parts[len(self.heads) :], strict=True)
            found.update({name: part.squeeze(1) for name, part in biases})
        return {name: found[name] for name in self.names}
