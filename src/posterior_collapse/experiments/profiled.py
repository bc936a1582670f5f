"""Linear models minimised exactly and fast: decoders eliminated, the encoders' inputs whitened.

Whatever the encoders, the best decoders are least-squares fits, so only encoders and stds are
searched, by L-BFGS from the model's own random start. In whitened coordinates the search does not
feel that pixels have variances from 0 to 5. Nothing of the closed forms is used: theorems can be
held against what is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor

from posterior_collapse.models import (
    LinearValues,
    MarkovVAE,
    linear_values,
    load_parameters,
    loss,
    moment_terms,
    read_parameters,
)
from posterior_collapse.moments import Moments
from posterior_collapse.training import Settings

__all__ = ["train"]

Float = NDArray[np.float64]
History = dict[str, list[float]]
STEPS = 5_000
ROUNDS = 10
LEAST_VARIANCE = 1e-12
"""Of the largest: directions of the data with less have no variance but rounding."""
SAME = 1e-13


def train(model: MarkovVAE, settings: Settings, moments: Moments) -> History:
    """Minimise in place; return the loss per iteration.

    Args:
        model: Of architecture `linear`, without biases, stds independent of the input and
            eta_dec fixed; its present parameters are the start.
        settings: `steps` bounds the iterations, `convention` weighs the loss.
        moments: Raw moments of an autoencoder, or of condition and target.
    """
    white = _White.of(moments)
    search = _Search(model, white, settings.convention)
    history: History = {"step": [], "loss": []}

    def after(intermediate_result: OptimizeResult) -> None:
        history["step"].append(len(history["step"]) + 1)
        history["loss"].append(float(intermediate_result.fun))

    limit = settings.steps or STEPS
    point: Any = search.start()
    best = np.inf
    for _ in range(ROUNDS):
        options: Any = {
            "maxiter": limit - len(history["step"]), "maxfun": 20 * limit, "maxcor": 30,
            "ftol": 1e-16, "gtol": 1e-11,
        }  # fmt: skip
        found = minimize(
            search, point, jac=True, method="L-BFGS-B", callback=after, options=options
        )
        point = found.x
        # The stale curvature of the last steps is thrown away while a new start still helps.
        if len(history["step"]) >= limit or best - found.fun < SAME * max(1.0, abs(found.fun)):
            break
        best = found.fun
    load_parameters(model, white.parameters(read_parameters(model), search, point))
    return history


@dataclass(frozen=True)
class _White:
    """Data as `(x~, r~)`, uncorrelated and of unit variance: y = K x + r, r = P diag(root) r~.

    Attributes:
        root: Standard deviations of the modes of r, (modes,).
        P: Modes of r, (features, modes).
        condition: From x to x~, (condition modes, features of x); no rows for an autoencoder.
        K: Regression of y on x.
        outside: Features of the target.
    """

    root: Float
    P: Float
    condition: Float
    K: Float
    outside: int

    @staticmethod
    def of(moments: Moments) -> _White:
        xx = np.asarray(moments.xx)
        if not moments.paired:
            root, P = _modes(xx)
            return _White(root, P, np.zeros((0, len(xx))), np.zeros((len(xx), 0)), len(xx))
        deviation, Q = _modes(xx)
        condition = (Q / deviation).T
        K = moments.yx @ condition.T @ condition
        root, P = _modes(moments.yy - K @ moments.yx.T)
        return _White(root, P, condition, K, len(K))

    def encoder(self, found: Mapping[str, Float]) -> Float:
        """The first encoder in white coordinates, `[A, B]`, (units, condition modes + modes)."""
        if not self.K.size:
            return found["W1"] @ self.P * self.root
        B = found["W2"] @ self.P * self.root
        A = (found["W1"] + found["W2"] @ self.K) @ np.linalg.pinv(self.condition)
        return np.hstack([A, B])

    def parameters(
        self, found: Mapping[str, Float], search: _Search, point: Float
    ) -> dict[str, Float]:
        """Back to the model's parameters."""
        with torch.no_grad():
            values, white = search.values(torch.from_numpy(point))
        encoder = white.numpy()
        split = len(self.condition)
        A, B = encoder[:, :split], encoder[:, split:]
        changed: dict[str, Float] = {"U1": self.P @ values.decoders[0].numpy()}
        reading = B / self.root @ self.P.T
        if self.K.size:
            direct = A @ self.condition
            changed |= {"W2": reading, "W1": direct - reading @ self.K}
            changed["U2"] = self.K - changed["U1"] @ direct
        else:
            changed["W1"] = reading
        for level, std in enumerate(values.stds, start=1):
            changed[f"sigma_{level}"] = std.numpy()
        for level in range(2, len(values.stds) + 1):
            changed[f"W{level}"] = values.encoders[level - 1].numpy()
            changed[f"U{level}"] = values.decoders[level - 1].numpy()
        return {**found, **changed}


class _Search:
    """The loss over everything but the lowest decoder, as a function of one flat vector."""

    def __init__(self, model: MarkovVAE, white: _White, convention: str) -> None:
        self.model, self.white, self.convention = model, white, convention
        self.fixed = linear_values(model)
        found = read_parameters(model)
        self.learned = [sigma in ("learned", "shared") for sigma in model.spec.sigma_levels]
        self.pieces = [white.encoder(found)]
        second = self.pieces[0] @ self.pieces[0].T
        for level in range(2, len(model.units) + 1):
            second = second + np.diag(found[f"sigma_{level - 1}"] ** 2)
            root = np.linalg.cholesky(second)
            self.pieces.append(found[f"W{level}"] @ root)
            second = self.pieces[-1] @ self.pieces[-1].T
        self.pieces += [
            np.log(found[f"sigma_{level}"])[: 1 if sigma == "shared" else None]
            for level, sigma in enumerate(model.spec.sigma_levels, start=1)
            if sigma in ("learned", "shared")
        ]
        self.root = torch.from_numpy(white.root)

    def start(self) -> Float:
        return np.concatenate([piece.ravel() for piece in self.pieces])

    def __call__(self, point: Float) -> tuple[float, Float]:
        free = torch.from_numpy(point.copy()).requires_grad_()
        values, white = self.values(free)
        mean = white @ white.mT
        cross = (self.root * white[:, len(self.white.condition) :]).mT
        # What the decoder leaves out of a mean that also follows x~ is not its concern: U2 takes
        # that path for free. So only r~'s part counts as signal, and all of the mean as KL.
        terms = moment_terms(values, mean, cross, torch.diag(self.root.square()))
        terms = terms._replace(squared_error=terms.squared_error - self._condition(values, white))
        constant = self.white.outside - len(self.root)
        value = loss(terms, self.model.spec.beta_levels, convention=self.convention)
        value.backward()  # type: ignore[no-untyped-call]
        assert free.grad is not None
        return float(value.detach()) + self._normaliser(constant), free.grad.numpy()

    def values(self, free: Tensor) -> tuple[LinearValues, Tensor]:
        """The model as it stands, its first encoder reading its own mean; and that encoder."""
        parts, start = [], 0
        for piece in self.pieces:
            parts.append(free[start : start + piece.size].view(piece.shape))
            start += piece.size
        levels = len(self.model.units)
        white, logs = parts[:levels], iter(parts[levels:])
        stds = tuple(
            next(logs).exp().expand(units) if learned else std
            for learned, units, std in zip(
                self.learned, self.model.units, self.fixed.stds, strict=True
            )
        )
        # At their optimum the decoders' own gradients are 0: they may stand as constants.
        B = white[0][:, len(self.white.condition) :]
        S = B @ B.mT + torch.diag(stds[0].square())
        decoders = [torch.linalg.solve(S, B * self.root).mT.detach()]
        encoders = [torch.eye(len(B), dtype=B.dtype)]
        S = white[0] @ white[0].mT + torch.diag(stds[0].square())
        for V, std in zip(white[1:], stds[1:], strict=True):
            root = torch.linalg.cholesky(S)
            encoders.append(torch.linalg.solve_triangular(root, V, upper=False, left=False))
            S = V @ V.mT + torch.diag(std.square())
            decoders.append((root @ torch.linalg.solve(S, V).mT).detach())
        values = self.fixed._replace(
            encoders=tuple(encoders), decoders=tuple(decoders), stds=stds, direct=None
        )
        return values, white[0]

    def _condition(self, values: LinearValues, white: Tensor) -> Tensor:
        """`|U A x~|^2`, which the direct path from x takes away."""
        A = white[:, : len(self.white.condition)]
        return (values.decoders[0] @ A).square().sum()

    def _normaliser(self, features: int) -> float:
        """Of the features without variance, which the small problem leaves out."""
        if self.convention != "elbo":
            return 0.0
        return features * float(torch.log(self.fixed.eta_decs[0]) + 0.5 * np.log(2 * np.pi))


def _modes(second: Float) -> tuple[Float, Float]:
    values, vectors = np.linalg.eigh((second + second.T) / 2)
    keep = values > LEAST_VARIANCE * values[-1]
    return np.sqrt(values[keep]), vectors[:, keep]
