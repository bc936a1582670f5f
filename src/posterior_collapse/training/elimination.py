"""The loss of a linear model with its decoders eliminated and the encoders' inputs whitened.

Whatever the encoders, the best decoders are least-squares fits, so only encoders and stds are
searched. In whitened coordinates the search does not feel that pixels have variances from 0 to 5,
nor how large a unit of the data is. Nothing of the closed forms is used: theorems can be held
against what is found.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posterior_collapse.models import (
    LinearValues,
    MarkovVAE,
    linear_values,
    load_parameters,
    log_normaliser,
    loss,
    moment_terms,
    read_parameters,
)
from posterior_collapse.moments import Moments
from posterior_collapse.training.whitening import White

__all__ = ["Eliminated"]

Float = NDArray[np.float64]
BOUND = 150.0
"""Of the logs of stds, since a line search may try any: beyond the widest that a spec may ask for,
and far from overflow."""


class Eliminated:
    """The loss over everything but the decoders, as a function of one flat vector.

    Args:
        model: Of architecture `linear`, stds independent of the input.
        moments: Central for a model with biases, raw for one without.
        convention: Weighs the loss.
        fresh: Take the encoders' weights for white coordinates, as an initialisation that knows
            nothing of the data's units means them; else the search starts where the model is.
    """

    def __init__(
        self, model: MarkovVAE, moments: Moments, convention: str, *, fresh: bool = False
    ) -> None:
        self.model, self.convention = model, convention
        self.white = White.of(moments, model.conditional)
        self.cross = torch.from_numpy(self.white.cross)
        self.target = torch.from_numpy(self.white.target)
        with torch.no_grad():
            self.fixed = linear_values(model)
        self.learned = [sigma in ("learned", "shared") for sigma in model.spec.sigma_levels]
        self.eta_learned = model.spec.eta_levels[0] == "learned"
        found = read_parameters(model)
        self.pieces = self._initial(found) if fresh else self._present(found)
        self.pieces += [
            np.log(found[f"sigma_{level}"])[: 1 if sigma == "shared" else None]
            for level, sigma in enumerate(model.spec.sigma_levels, start=1)
            if sigma in ("learned", "shared")
        ]
        if self.eta_learned:
            self.pieces.append(np.log(found["eta_dec"]).reshape(1))

    def _present(self, found: Mapping[str, Float]) -> list[Float]:
        """Each encoder times the root of the second moment of what it reads."""
        pieces = [self.white.encoder(found)]
        for level in range(2, len(self.model.units) + 1):
            below = pieces[-1] @ pieces[-1].T + np.diag(found[f"sigma_{level - 1}"] ** 2)
            pieces.append(found[f"W{level}"] @ np.linalg.cholesky(below))
        return pieces

    def _initial(self, found: Mapping[str, Float]) -> list[Float]:
        """The same as if each encoder read white data and gave latents of the prior's size."""
        size = float(np.sqrt(self.white.target.trace() / len(self.white.basis)))
        etas = (*self.model.spec.eta_levels[1:], self.model.spec.eta_enc)
        sizes = [size if eta == "learned" else float(eta) for eta in etas]
        first = self.white.rotated(found)
        rest = [found[f"W{level}"] for level in range(2, len(sizes) + 1)]
        return [size * W for size, W in zip(sizes, [first, *rest], strict=True)]

    def start(self) -> Float:
        """Where the search begins."""
        return np.concatenate([piece.ravel() for piece in self.pieces])

    def __call__(self, point: Float) -> tuple[float, Float]:
        """Return the loss and its gradient."""
        free = torch.from_numpy(point.copy()).requires_grad_()
        values, white = self._values(free)
        mean = white @ white.mT
        cross = self.cross @ white[:, len(self.white.condition) :].mT
        # What the decoder leaves out of a mean that also follows x~ is not its concern: U2 takes
        # that path for free. So only r~'s part counts as signal, and all of the mean as KL.
        terms = moment_terms(values, mean, cross, self.target)
        terms = terms._replace(
            squared_error=terms.squared_error - self._condition(values, white),
            # The features without variance are part of the loss, if not of the search.
            normaliser=log_normaliser(values.eta_decs[0], len(self.white.basis)),
        )
        value = loss(terms, self.model.spec.beta_levels, convention=self.convention)
        value.backward()  # type: ignore[no-untyped-call]
        assert free.grad is not None
        return float(value.detach()), free.grad.numpy()

    def write(self, point: Float) -> None:
        """Move the model to a point."""
        with torch.no_grad():
            values, white = self._values(torch.from_numpy(point))
        changed = self.white.parameters(values.decoders[0].numpy(), white.numpy())
        for level, std in enumerate(values.stds, start=1):
            changed[f"sigma_{level}"] = std.numpy()
        for level in range(2, len(values.stds) + 1):
            changed[f"W{level}"] = values.encoders[level - 1].numpy()
            changed[f"U{level}"] = values.decoders[level - 1].numpy()
        changed["eta_dec"] = values.eta_decs[0].numpy()
        load_parameters(self.model, {**read_parameters(self.model), **changed})

    def _values(self, free: Tensor) -> tuple[LinearValues, Tensor]:
        """The model as it stands, its first encoder reading its own mean; and that encoder."""
        parts, start = [], 0
        for piece in self.pieces:
            parts.append(free[start : start + piece.size].view(piece.shape))
            start += piece.size
        levels = len(self.model.units)
        white = parts[:levels]
        stds = iter([log.clamp(-BOUND, BOUND).exp() for log in parts[levels:]])
        values = self.fixed._replace(
            stds=tuple(
                next(stds).expand(units) if learned else std
                for learned, units, std in zip(
                    self.learned, self.model.units, self.fixed.stds, strict=True
                )
            )
        )
        if self.eta_learned:
            values = values._replace(eta_decs=(next(stds)[0],) * levels)
        encoders, decoders = self._least_squares(white, values.stds)
        return values._replace(encoders=encoders, decoders=decoders, direct=None), white[0]

    def _least_squares(
        self, white: list[Tensor], stds: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The encoders, no longer white, and the best decoders.

        At their optimum the decoders' own gradients are 0: they may stand as constants.
        """
        B = white[0][:, len(self.white.condition) :]
        S = B @ B.mT + torch.diag(stds[0].square())
        decoders = [torch.linalg.solve(S, B @ self.cross.mT).mT.detach()]
        encoders = [torch.eye(len(B), dtype=B.dtype, device=B.device)]
        S = white[0] @ white[0].mT + torch.diag(stds[0].square())
        for V, std in zip(white[1:], stds[1:], strict=True):
            root = torch.linalg.cholesky(S)
            encoders.append(torch.linalg.solve_triangular(root, V, upper=False, left=False))
            S = V @ V.mT + torch.diag(std.square())
            decoders.append((root @ torch.linalg.solve(S, V).mT).detach())
        return tuple(encoders), tuple(decoders)

    def _condition(self, values: LinearValues, white: Tensor) -> Tensor:
        """`|U A x~|^2`, which the direct path from x takes away."""
        A = white[:, : len(self.white.condition)]
        return (values.decoders[0] @ A).square().sum()
