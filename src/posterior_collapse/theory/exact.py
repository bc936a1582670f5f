"""The exact objective of linear models, the noise integrated out, and its gradient.

Written from the definition of the ELBO (theory sections 1 to 4), with nothing of the closed forms
and none of their code, so that numerical minimisation can confirm or refute them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg

from posterior_collapse.arrays import Float
from posterior_collapse.moments import Moments
from posterior_collapse.specs import Spec
from posterior_collapse.theory.reading import as_moments


class ExactTerms(NamedTuple):
    """What the loss is made of, averaged over data and noise, before any weight.

    Attributes:
        squared_error: `E|y - mu|^2`, in data units squared.
        normaliser: `dim(y)/2 log(2 pi eta_dec^2)`, nats.
        kl: Per level, bottom first, of each unit, nats, (units,).
    """

    squared_error: float
    eta_dec: float
    normaliser: float
    kl: tuple[Float, ...]


class ExactObjective:
    """Negative beta-ELBO per sample in nats of a linear model, as a function of its parameters.

    With `q(z_l|z_{l-1}) = N(W_l z_{l-1}, Sigma_l)` everything follows from the second moments
    `S_l = W_l S_{l-1} W_l' + Sigma_l`. Parameters are named as in `Forecast.parameters`. Biases
    play no part: with centred moments they are at their optimum, with raw ones there are none.

    Args:
        data: As for `forecast`.
        spec: The hyperparameters; `eta_dec` is read from the parameters when it is learned.
        weights: Of `|y - mu|^2 / eta_dec^2`, of `beta KL` and of the Gaussian normaliser; another
            convention of the loss has others.

    Raises:
        InvalidArgumentError: `spec` is not a spec.
        DataError: The data cannot be used, or a conditional model has no condition.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> from posterior_collapse.theory import forecast
        >>> m = Moments.from_matrices(np.diag([4.0, 1.0, 0.25]))
        >>> f = forecast(m, VAESpec(latent_dim=2, beta=0.5))
        >>> bool(abs(ExactObjective(m, f.spec).loss(f.parameters()) - f.loss) < 1e-12)
        True
    """

    def __init__(
        self,
        data: Moments | Any,
        spec: Spec,
        weights: tuple[float, float, float] = (0.5, 1.0, 1.0),
    ) -> None:
        moments, spec = as_moments(data, spec)
        self.moments = moments
        self.spec, self.weights, self.conditional = spec, weights, spec.model == "cvae"
        # What the encoder reads: x, and of a conditional model y too.
        self.second, self.cross = moments.xx, moments.yx  # E uu', E yu'
        self.condition = slice(None, len(moments.xx))
        if self.conditional:
            self.cross = np.hstack([moments.yx, moments.yy])
            self.second = np.block([[moments.xx, moments.yx.T], [self.cross]])

    def loss(self, parameters: Mapping[str, Float]) -> float:
        """Return the loss."""
        return self.weighed(self.terms(parameters))

    def terms(self, parameters: Mapping[str, Float]) -> ExactTerms:
        """Return what the loss is made of."""
        return self._terms_and_gradient(parameters)[0]

    def loss_and_gradient(self, parameters: Mapping[str, Float]) -> tuple[float, dict[str, Float]]:
        """Return the loss and its gradient by parameter name (sigma and eta_dec included)."""
        terms, gradient = self._terms_and_gradient(parameters)
        return self.weighed(terms), gradient

    def weighed(self, terms: ExactTerms) -> float:
        """Return the loss that these terms amount to."""
        error, kl, normaliser = self.weights
        total = error * terms.squared_error / terms.eta_dec**2 + normaliser * terms.normaliser
        for beta, level in zip(self.spec.beta_levels, terms.kl, strict=True):
            total += kl * beta * level.sum()
        return float(total)

    def encoder(self, parameters: Mapping[str, Float]) -> Float:
        """Return the first encoder, (units, features read): `W1`, or `[W1, W2]` if conditional."""
        p = parameters
        return np.hstack([p["W1"], p["W2"]]) if self.conditional else p["W1"]

    def singular_values(self, parameters: Mapping[str, Float]) -> list[tuple[Float, Float]]:
        """Return per level those of W_l S_{l-1}^{1/2} and of U_l, descending."""
        p, found, second = parameters, [], self.moments.xx
        if self.conditional:
            yx = self.moments.yx
            second = self.moments.yy - yx @ linalg.lstsq(self.moments.xx, yx.T)[0]
        for level in range(1, len(self.spec.dims) + 1):
            W = p["W2"] if self.conditional else p[f"W{level}"]
            values, vectors = linalg.eigh(second)
            root = vectors * np.sqrt(np.clip(values, 0, None))
            found.append((_descending(W @ root, len(W)), _descending(p[f"U{level}"], len(W))))
            second = W @ second @ W.T + np.diag(p[f"sigma_{level}"] ** 2)
        return found

    def information(self, parameters: Mapping[str, Float]) -> list[Float]:
        """Return what each level's modes know of the data, in nats, descending.

        Modes are the canonical directions of a level, between what the data say of it and all that
        it is: they are determined even where an optimum leaves units free to be rotated.

        Example:
            >>> from posterior_collapse.specs import VAESpec
            >>> from posterior_collapse.theory import forecast
            >>> m = Moments.from_matrices(np.diag([4.0, 1.0, 0.25]))
            >>> f = forecast(m, VAESpec(latent_dim=2))
            >>> (known,) = ExactObjective(m, f.spec).information(f.parameters())
            >>> known.round(4), f.levels[0].information.round(4)
            (array([0.6931, 0.    ]), array([0.6931, 0.    ]))
        """
        p, levels = parameters, []
        known = total = self.second
        for level in range(1, len(self.spec.dims) + 1):
            W = self.encoder(p) if level == 1 else p[f"W{level}"]
            known = W @ known @ W.T
            total = W @ total @ W.T + np.diag(p[f"sigma_{level}"] ** 2)
            share = np.clip(linalg.eigh(known, total, eigvals_only=True), 0, 1 - 1e-15)
            levels.append(-np.log1p(-share[::-1]) / 2)
        return levels

    @np.errstate(all="ignore")  # a search may try anything: what overflows is infinite
    def _terms_and_gradient(self, p: Mapping[str, Float]) -> tuple[ExactTerms, dict[str, Float]]:
        W, cross, total = self.encoder(p), self.cross, self.moments.total_variance
        x, y = self.condition, slice(self.condition.stop, None)
        if self.conditional:  # t = y - U2 x is left for z_1 to explain
            U2 = p["U2"]
            total += float(np.vdot(U2 @ self.second[x, x] - 2 * cross[:, x], U2))
            cross = cross - U2 @ self.second[x]
        read = W @ self.second
        terms, gradient = self.of_levels(p, read @ W.T, cross @ W.T, total)
        by_mean, by_cross = gradient.pop("mean"), gradient.pop("cross")
        by_encoder = 2 * by_mean @ read + by_cross.T @ cross
        gradient["W1"] = by_encoder[:, x]
        if self.conditional:
            gradient["W2"] = by_encoder[:, y]
            left = cross[:, x] - p["U1"] @ read[:, x]
            gradient["U2"] = -2 * self.weights[0] * left / terms.eta_dec**2
        return terms, gradient

    def of_levels(
        self, p: Mapping[str, Float], mean: Float, cross: Float, total: float
    ) -> tuple[ExactTerms, dict[str, Float]]:
        """Return terms and gradient given what the first encoder makes of the data.

        Args:
            p: The parameters but those that read the data.
            mean: `E mm'` of the mean m of z_1, (units, units).
            cross: `E tm'` with the target t, (features, units).
            total: `E|t|^2`.

        Returns:
            The gradient is by `p`, and by `mean` and `cross`.
        """
        spec, depth, features = self.spec, len(self.spec.dims), self.moments.features[1]
        of_error, of_kl, of_normaliser = self.weights
        etas = [float(p["eta_dec"] if eta == "learned" else eta) for eta in spec.eta_levels]
        stds = [p[f"sigma_{level}"] for level in range(1, depth + 1)]
        seconds = [mean + np.diag(stds[0] ** 2)]
        for level in range(2, depth + 1):
            W = p[f"W{level}"]
            seconds.append(W @ seconds[-1] @ W.T + np.diag(stds[level - 1] ** 2))

        U, fit = p["U1"], of_error / etas[0] ** 2
        error = total + np.vdot(U @ seconds[0] - 2 * cross, U)
        gradient = {"U1": 2 * fit * (U @ seconds[0] - cross), "cross": -2 * fit * U}
        by_second = [fit * U.T @ U]
        by_eta = [(of_normaliser * features - 2 * fit * error) / etas[0]]
        kl = []
        priors = (*etas[1:], spec.eta_enc)
        for k, (S, std, prior, beta) in enumerate(
            zip(seconds, stds, priors, spec.beta_levels, strict=True)
        ):
            distance, scale = np.diag(S), of_kl * beta / (2 * prior**2)
            by_second[k] = by_second[k] + scale * np.eye(len(S))
            if k + 1 < depth:  # p(z_l|z_{l+1}) has its mean at U z_{l+1}
                W, U, above = p[f"W{k + 2}"], p[f"U{k + 2}"], seconds[k + 1]
                back = U @ W
                distance = distance - 2 * (back * S).sum(1) + ((U @ above) * U).sum(1)
                by_second[k] -= scale * (back + back.T)
                by_second.append(scale * U.T @ U)
                gradient[f"W{k + 2}"] = -2 * scale * U.T @ S
                gradient[f"U{k + 2}"] = 2 * scale * (U @ above - S @ W.T)
            kl.append((distance / prior**2 - 1) / 2 + np.log(prior / std))
            by_eta.append(of_kl * beta * (len(S) - distance.sum() / prior**2) / prior)

        for k in reversed(range(depth)):  # what a level's second moment owes to those below
            by, beta = by_second[k], of_kl * spec.beta_levels[k]
            gradient[f"sigma_{k + 1}"] = 2 * np.diag(by) * stds[k] - beta / stds[k]
            if k:
                W = p[f"W{k + 1}"]
                gradient[f"W{k + 1}"] += 2 * by @ W @ seconds[k - 1]
                by_second[k - 1] = by_second[k - 1] + W.T @ by @ W
        gradient["mean"] = by_second[0]
        learned = [by for by, eta in zip(by_eta, spec.eta_levels, strict=False) if eta == "learned"]
        if learned:
            gradient["eta_dec"] = np.asarray(sum(learned))
        normaliser = features * math.log(math.sqrt(2 * math.pi) * etas[0])
        return ExactTerms(float(error), etas[0], normaliser, tuple(kl)), gradient


def _descending(matrix: Float, length: int) -> Float:
    values = linalg.svdvals(matrix) if matrix.size else np.zeros(0)
    return np.concatenate([values, np.zeros(length)])[:length]
