"""The exact objective of linear models, noise integrated, and its gradient (theory 1, 2 and 4).

Written from the definition of the ELBO, with nothing of the closed forms, so that numerical
minimisation can confirm or refute them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy import linalg

from posterior_collapse.moments import Moments
from posterior_collapse.moments.arrays import Float
from posterior_collapse.specs import Spec

__all__ = ["ExactObjective"]


class ExactObjective:
    """Negative beta-ELBO per sample in nats of a linear model, as a function of its parameters.

    Parameters are named as in `Forecast.parameters`; biases are accounted for by the centring of
    the moments.

    Args:
        moments: Second moments of the data.
        spec: The hyperparameters; `eta_dec` is read from the parameters when it is learned.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> from posterior_collapse.theory import forecast
        >>> m = Moments.from_matrices(np.diag([4.0, 1.0, 0.25]))
        >>> f = forecast(m, VAESpec(latent_dim=2, beta=0.5))
        >>> bool(abs(ExactObjective(m, f.spec).loss(f.parameters()) - f.loss) < 1e-12)
        True
    """

    def __init__(self, moments: Moments, spec: Spec) -> None:
        self.spec = spec
        self.conditional = spec.model == "cvae"
        self.depth = len(spec.dims)
        self.a, self.b, self.c = moments.xx, moments.yx, moments.yy
        self.extra = moments.unresolved
        self.target_dim = moments.features[1]
        self.condition_dim = len(self.a)
        if self.conditional:
            self.joint = np.block([[self.a, self.b.T], [self.b, self.c]])

    def loss(self, parameters: Mapping[str, Float]) -> float:
        """Return the loss."""
        return self.loss_and_gradient(parameters)[0]

    def loss_and_gradient(self, parameters: Mapping[str, Float]) -> tuple[float, dict[str, Float]]:
        """Return the loss and its gradient by parameter name (sigma and eta_dec included)."""
        p = parameters
        eta = float(p["eta_dec"]) if self.spec.eta_levels[0] == "learned" else None
        etas = [eta if e == "learned" else float(e) for e in self.spec.eta_levels]
        priors = [*etas[1:], self.spec.eta_enc]
        betas, depth = self.spec.beta_levels, self.depth
        weights = [self._encoder(p)] + [p[f"W{k + 1}"] for k in range(1, depth)]
        decoders = [p[f"U{k + 1}"] for k in range(depth)]
        sigmas = [p[f"sigma_{k + 1}"] for k in range(depth)]
        a, b, c = self._seen(p)
        seconds, before = [], a
        for w, sigma in zip(weights, sigmas, strict=True):
            before = w @ before @ w.T + np.diag(sigma**2)
            seconds.append(before)

        variance = float(etas[0] or 0) ** 2
        w, u, s = weights[0], decoders[0], seconds[0]
        error = np.trace(c) + self.extra - 2 * np.vdot(u @ w, b) + np.vdot(u @ s, u)
        loss = error / variance + self.target_dim * math.log(2 * math.pi * variance)
        grads_w = [-2 * u.T @ b / variance]
        grads_u = [2 * (u @ s - b @ w.T) / variance]
        grads_s = [u.T @ u / variance]
        grad_etas = [2 * (self.target_dim - error / variance) / etas[0]]
        for k in range(depth):
            prior, beta, s = float(priors[k] or 0), betas[k], seconds[k]
            spread, slope = float(np.trace(s)), np.eye(len(s))
            if k + 1 < depth:
                w, u, above = weights[k + 1], decoders[k + 1], seconds[k + 1]
                spread += float(np.vdot(u @ above, u) - 2 * np.vdot(u @ w, s))
                slope = slope - u @ w - (u @ w).T
                scale = beta / prior**2
                grads_w.append(-2 * scale * u.T @ s)
                grads_u.append(2 * scale * (u @ above - s @ w.T))
                grads_s.append(scale * u.T @ u)
            units = len(s)
            loss += beta * (spread / prior**2 - 2 * np.log(sigmas[k] / prior).sum() - units)
            grads_s[k] = grads_s[k] + beta * slope / prior**2
            grad_etas.append(2 * beta * (units - spread / prior**2) / prior)
        gradient: dict[str, Float] = {}
        for k in reversed(range(depth)):
            w, g = weights[k], grads_s[k]
            below = seconds[k - 1] if k else a
            grads_w[k] = grads_w[k] + 2 * g @ w @ below
            if k:
                grads_s[k - 1] = grads_s[k - 1] + w.T @ g @ w
            gradient[f"sigma_{k + 1}"] = np.diag(g) * sigmas[k] - betas[k] / sigmas[k]
            gradient[f"W{k + 1}"], gradient[f"U{k + 1}"] = grads_w[k] / 2, grads_u[k] / 2
        learned = [
            g for g, e in zip(grad_etas, self.spec.eta_levels, strict=False) if e == "learned"
        ]
        if learned:
            gradient["eta_dec"] = np.asarray(sum(learned) / 2)
        if self.conditional:
            self._split_condition(p, gradient, variance)
        return float(loss / 2), gradient

    def singular_values(self, parameters: Mapping[str, Float]) -> list[tuple[Float, Float]]:
        """Return per level those of W_l S_{l-1}^{1/2} and of U_l, descending."""
        p, found = parameters, []
        second = self.a
        for k in range(self.depth):
            w = p["W2"] if self.conditional else p[f"W{k + 1}"]
            if self.conditional:
                half = linalg.lstsq(self.a, self.b.T)[0]
                second = self.c - self.b @ half
            values, vectors = linalg.eigh(second)
            root = vectors * np.sqrt(np.clip(values, 0, None))
            units = len(w)
            found.append((_descending(w @ root, units), _descending(p[f"U{k + 1}"], units)))
            second = w @ second @ w.T + np.diag(p[f"sigma_{k + 1}"] ** 2)
        return found

    def _encoder(self, p: Mapping[str, Float]) -> Float:
        return np.hstack([p["W1"], p["W2"]]) if self.conditional else p["W1"]

    def _seen(self, p: Mapping[str, Float]) -> tuple[Float, Float, Float]:
        """Moments of the encoder's input and of the target less the condition's direct path."""
        if not self.conditional:
            return self.a, self.b, self.c
        less = np.hstack([-p["U2"], np.eye(self.target_dim)])
        return self.joint, less @ self.joint, less @ self.joint @ less.T

    def _split_condition(
        self, p: Mapping[str, Float], gradient: dict[str, Float], variance: float
    ) -> None:
        split = self.condition_dim
        gradient["W1"], gradient["W2"] = (
            gradient["W1"][:, :split],
            gradient["W1"][:, split:],
        )
        less = np.hstack([-p["U2"], np.eye(self.target_dim)]) - p["U1"] @ self._encoder(p)
        gradient["U2"] = -(less @ self.joint)[:, :split] / variance


def _descending(matrix: Float, length: int) -> Float:
    values = linalg.svdvals(matrix) if matrix.size else np.zeros(0)
    return np.concatenate([values, np.zeros(length)])[:length]
