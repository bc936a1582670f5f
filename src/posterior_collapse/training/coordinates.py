"""The parameters of a linear model as one vector that L-BFGS finds easy to move in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posterior_collapse.specs import Spec

__all__ = ["Coordinates", "flat"]

BOUND = 150.0
"""Of the logs of stds: beyond the widest that a spec may ask for, and far from overflow."""
FLOOR = 1e-6
"""Variances below this share of the largest are taken for it: they are little but rounding."""

Pair = tuple[Tensor, Tensor]


class Coordinates:
    """Coordinates in which the data are white and every latent is of size 1.

    Else the data's covariance scales the gradients, and L-BFGS has to find out about its condition
    number: on `digits` it takes ten times the iterations, and more in other units. The way to the
    optimum is then the same whatever the units of the data.

    Args:
        parameters: By the model's names; moved in place.
        spec: Gives the size of the latents.
        xx: Second moment of the input or condition, (dim x, dim x).
        yy: That of the target, (dim y, dim y); none: an autoencoder.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], spec: Spec, xx: Tensor, yy: Tensor | None
    ) -> None:
        self.parameters = parameters
        self.pairs = _pairs(spec, xx, yy)

    def read(self) -> NDArray[np.float64]:
        """Return where the parameters are."""
        named = self.parameters.items()
        return flat([p @ self.pairs[n][0] if n in self.pairs else p for n, p in named])

    @torch.no_grad()
    def write(self, point: NDArray[np.float64]) -> None:
        """Move the parameters to a point."""
        start = 0
        for name, p in self.parameters.items():
            value = torch.from_numpy(point[start : start + p.numel()]).view_as(p)
            start += p.numel()
            # What is no weight is the log of a std, and a line search may try any.
            pair = self.pairs.get(name)
            p.copy_(value.clamp(-BOUND, BOUND) if pair is None else value @ pair[1])

    def gradient(self, gradients: Sequence[Tensor]) -> NDArray[np.float64]:
        """Return the gradient at a point from that by the parameters, in their order."""
        named = zip(self.parameters, gradients, strict=True)
        return flat([g @ self.pairs[n][1].mT if n in self.pairs else g for n, g in named])


def flat(values: Sequence[Tensor]) -> NDArray[np.float64]:
    """Return all numbers in one array."""
    found: NDArray[np.float64] = torch.cat([v.detach().flatten() for v in values]).numpy()
    return found


def _pairs(spec: Spec, xx: Tensor, yy: Tensor | None) -> dict[str, Pair]:
    """By what to multiply each weight from the right to come into these coordinates, and back."""
    white = {"x": _roots(xx)} | ({} if yy is None else {"y": _roots(yy)})
    size = math.sqrt(float((xx if yy is None else yy).diagonal().mean())) or 1.0
    stds = (*spec.eta_levels[1:], spec.eta_enc)
    sizes = [size, *(size if std == "learned" else float(std) for std in stds)]

    def plain(dim: int) -> Pair:
        return (torch.eye(dim, dtype=xx.dtype),) * 2

    found = {"decoders.0.heads.x.weight": _times(white["x"], size)}
    for level, (dim, below, above) in enumerate(zip(spec.dims, sizes, sizes[1:], strict=False)):
        found[f"decoders.{level}.heads.z.weight"] = _times(plain(dim), below / above)
        for key, roots in white.items() if level == 0 else ():
            found[f"encoders.0.mean.{key}.weight"] = _times(roots, above)
        if level:
            pair = _times(plain(spec.dims[level - 1]), above / below)
            found[f"encoders.{level}.mean.z.weight"] = pair
    return found


def _times(pair: Pair, size: float) -> Pair:
    return pair[0] / size, pair[1] * size


def _roots(moment: Tensor) -> Pair:
    """The square root of a second moment, its small eigenvalues raised, and the inverse."""
    variances, modes = torch.linalg.eigh(moment)
    stds = variances.clamp(min=FLOOR * float(variances[-1])).sqrt()
    stds = torch.where(stds > 0, stds, 1.0)
    return (modes * stds) @ modes.mT, (modes / stds) @ modes.mT
