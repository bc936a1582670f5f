"""Coordinates in which the data are uncorrelated and of unit variance, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.moments import Moments

__all__ = ["White"]

Float = NDArray[np.float64]
LEAST_VARIANCE = 1e-12
"""Of the largest: directions of the data with less have no variance but rounding."""


@dataclass(frozen=True)
class White:
    """What the encoder reads as r~, uncorrelated and of unit variance.

    r is the input; a conditional model's is what the condition leaves of the target, `y - K x`.

    Attributes:
        modes: From r~ to r, (features, modes).
        inverse: From r to r~, (modes, features).
        condition: From x to x~, white too, (condition modes, features of x); no rows without.
        K: Regression of y on x, (features of y, features of x); no columns without.
        basis: Orthonormal, of the target t in the features of y, (features of y, target modes).
        cross: `E t r~'`, (target modes, modes).
        target: `E tt'`, (target modes, target modes).
    """

    modes: Float
    inverse: Float
    condition: Float
    K: Float
    basis: Float
    cross: Float
    target: Float

    @staticmethod
    def of(moments: Moments, conditional: bool) -> White:
        """Whiten."""
        xx = np.asarray(moments.xx)
        if not conditional:
            std, P = _modes(xx)
            no = np.zeros((0, len(xx)))
            if not moments.paired:
                return White(P * std, (P / std).T, no, no.T, P, np.diag(std), np.diag(std**2))
            yx, yy = np.asarray(moments.yx), np.asarray(moments.yy)
            cross = yx @ P / std
            return White(P * std, (P / std).T, no, no.T, np.eye(len(yy)), cross, yy)
        std, P = _modes(xx)
        condition = (P / std).T
        K = moments.yx @ condition.T @ condition
        std, P = _modes(moments.yy - K @ moments.yx.T)
        return White(P * std, (P / std).T, condition, K, P, np.diag(std), np.diag(std**2))

    def encoder(self, found: Mapping[str, Float]) -> Float:
        """The first encoder in white coordinates, `[A, B]`, (units, condition modes + modes)."""
        if not self.K.size:
            return found["W1"] @ self.modes
        A = (found["W1"] + found["W2"] @ self.K) @ np.linalg.pinv(self.condition)
        return np.hstack([A, found["W2"] @ self.modes])

    def rotated(self, found: Mapping[str, Float]) -> Float:
        """The first encoder as if it read data already white, along the same modes."""
        if not self.K.size:
            return found["W1"] @ _unit(self.modes.T).T
        direct = found["W1"] @ _unit(self.condition).T
        return np.hstack([direct, found["W2"] @ _unit(self.modes.T).T])

    def parameters(self, decoder: Float, encoder: Float) -> dict[str, Float]:
        """The lowest level's parameters, from its decoder to t and its white encoder."""
        U = self.basis @ decoder
        split = len(self.condition)
        reading = encoder[:, split:] @ self.inverse
        if not self.K.size:
            return {"U1": U, "W1": reading}
        direct = encoder[:, :split] @ self.condition
        return {"U1": U, "U2": self.K - U @ direct, "W1": direct - reading @ self.K, "W2": reading}


def _unit(rows: Float) -> Float:
    found: Float = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def _modes(second: Float) -> tuple[Float, Float]:
    """Stds and directions of the modes."""
    values, vectors = np.linalg.eigh((second + second.T) / 2)
    keep = values > LEAST_VARIANCE * values[-1]
    stds: Float = np.sqrt(values[keep])
    return stds, vectors[:, keep]
