"""The objective of a linear model with the noise integrated out, sample by sample or in moments.

Formulas: arXiv:2306.05023 (sections 3 to 5) with the chain written recursively: with
`q(z_l|z_{l-1}) = N(W_l z_{l-1}, Sigma_l)` everything follows from the second moments
`S_l = W_l S_{l-1} W_l' + Sigma_l`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models.gaussians import relative_entropy
from posterior_collapse.models.linear import LinearValues
from posterior_collapse.models.objective import Terms, log_normaliser

__all__ = ["exact_terms", "moment_terms"]


def exact_terms(values: LinearValues, x: Tensor, y: Tensor | None = None) -> Terms:
    """Return each sample's terms, averaged over all noise.

    Args:
        values: The model's, from `linear_values`.
        x: Input or condition, (batch, dim x).
        y: Target, (batch, dim y); none: x.

    Raises:
        InvalidArgumentError: A conditional model without y.
    """
    target = x if y is None else y
    data = x
    if values.direct is not None:
        if y is None:
            raise InvalidArgumentError("y", "nothing", "a conditional model's target", "Pass y.")
        data, target = torch.cat([x, y], -1), y - x @ values.direct.mT
    if values.decoder_bias is not None:
        target = target - values.decoder_bias
    means, covariances = _levels(values, data)
    residual = (target - means[0] @ values.decoders[0].mT).square().sum(-1)
    spread = _quadratic(values.decoders[0], covariances[0]).sum(-1)
    distances = [
        (mean - above @ U.mT).square() + _quadratic(_loop(W, U), C) + _quadratic(U, _square(std))
        for mean, above, C, W, U, std in zip(
            means,
            means[1:],
            covariances,
            values.encoders[1:],
            values.decoders[1:],
            values.stds[1:],
            strict=False,
        )
    ]
    top = means[-1].square() + covariances[-1].diagonal(dim1=-2, dim2=-1)
    return _terms(values, residual + spread, [*distances, top], tuple(means))


def moment_terms(
    values: LinearValues, xx: Tensor, yx: Tensor | None = None, yy: Tensor | None = None
) -> Terms:
    """Return the terms averaged over data and noise, as those of a batch of one.

    Biases play no part: with centred moments they are at their optimum (see `set_biases`), with
    raw moments the model has none. `means` are 0.

    Args:
        values: The model's, from `linear_values`.
        xx: `E xx'` of the input or condition, (dim x, dim x).
        yx: `E yx'`, (dim y, dim x); none for an autoencoder.
        yy: `E yy'`, (dim y, dim y).

    Raises:
        InvalidArgumentError: Only one of yx and yy, or neither for a conditional model.

    Example:
        >>> from posterior_collapse.models import build, linear_values
        >>> from posterior_collapse.specs import VAESpec
        >>> model = build(VAESpec(latent_dim=2, sigma=1.0), "linear", x_dim=3, initial_std=1e-9)
        >>> terms = moment_terms(linear_values(model), torch.eye(3))
        >>> round(terms.squared_error.item(), 6), terms.kl[0].shape
        (3.0, torch.Size([1, 2]))
    """
    if (yx is None) != (yy is None) or (yx is None and values.direct is not None):
        raise InvalidArgumentError(
            "yx", "not all moments", "yx and yy together; both if conditional", "Pass yx and yy."
        )
    data, cross, target = _moments(values, xx, yx, yy)
    seconds = _second_moments(values, data)
    W, U = values.encoders[0], values.decoders[0]
    error = target - 2 * ((U @ W) * cross).sum((-2, -1)) + _quadratic(U, seconds[0]).sum(-1)
    distances = [
        _quadratic(_loop(W, U), S) + _quadratic(U, _square(std))
        for S, W, U, std in zip(
            seconds, values.encoders[1:], values.decoders[1:], values.stds[1:], strict=False
        )
    ]
    top = seconds[-1].diagonal(dim1=-2, dim2=-1)
    batched = [distance.unsqueeze(-2) for distance in (*distances, top)]
    means = tuple(torch.zeros_like(distance) for distance in batched)
    return _terms(values, error.unsqueeze(-1), batched, means)


def _moments(
    values: LinearValues, xx: Tensor, yx: Tensor | None, yy: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """`E uu'`, `E tu'` and `E|t|^2` of what the encoder sees, u, and z_1 has to explain, t."""
    if yx is None or yy is None:
        return xx, xx, _trace(xx)
    if values.direct is None:
        return xx, yx, _trace(yy)
    K = values.direct  # t = y - K x
    data = torch.cat([torch.cat([xx, yx.mT], -1), torch.cat([yx, yy], -1)], -2)
    cross = torch.cat([yx, yy], -1) - K @ data[..., : xx.shape[-1], :]
    target = _trace(yy) - 2 * (K * yx).sum((-2, -1)) + _quadratic(K, xx).sum(-1)
    return data, cross, target


def _levels(values: LinearValues, data: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Mean (batch, units) and covariance (units, units) of each level given the data."""
    means: list[Tensor] = []
    covariances: list[Tensor] = []
    for W, std in zip(values.encoders, values.stds, strict=True):
        noise = torch.diag_embed(std.square())
        if not means:
            mean = data @ W.mT
            means.append(mean if values.encoder_bias is None else mean + values.encoder_bias)
            covariances.append(noise)
        else:
            means.append(means[-1] @ W.mT)
            covariances.append(W @ covariances[-1] @ W.mT + noise)
    return means, covariances


def _second_moments(values: LinearValues, data: Tensor) -> list[Tensor]:
    found = [data]
    for W, std in zip(values.encoders, values.stds, strict=True):
        found.append(W @ found[-1] @ W.mT + torch.diag_embed(std.square()))
    return found[1:]


def _loop(W: Tensor, U: Tensor) -> Tensor:
    """What is left of z_l after up and down again, `I - U W`."""
    return torch.eye(U.shape[-2], dtype=U.dtype, device=U.device) - U @ W


def _square(std: Tensor) -> Tensor:
    return torch.diag_embed(std.square())


def _quadratic(M: Tensor, S: Tensor) -> Tensor:
    """Diagonal of `M S M'`."""
    return ((M @ S) * M).sum(-1)


def _trace(S: Tensor) -> Tensor:
    return S.diagonal(dim1=-2, dim2=-1).sum(-1)


def _terms(
    values: LinearValues, error: Tensor, distances: Sequence[Tensor], means: tuple[Tensor, ...]
) -> Terms:
    stds_p = (*values.eta_decs[1:], values.eta_enc)
    kl = tuple(
        relative_entropy(distance, q, p)
        for distance, q, p in zip(distances, values.stds, stds_p, strict=True)
    )
    eta = values.eta_decs[0]
    return Terms(error, eta, log_normaliser(eta, values.decoders[0].shape[-2]), kl, means)
