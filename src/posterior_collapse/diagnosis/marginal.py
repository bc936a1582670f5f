"""log p(y|x) of models whose decoders are affine: a Gaussian, integrated in closed form."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.distributions import Normal

from posterior_collapse.models import LatentModel, MarkovVAE

__all__ = ["Marginal", "has_marginal"]

NUMBERS = 2**22
"""Numbers of the target at a time."""


def has_marginal(model: LatentModel) -> bool:
    """Whether every decoder is affine in its latents, whatever the encoders are.

    Example:
        >>> from posterior_collapse import VAESpec
        >>> from posterior_collapse.models import build
        >>> [has_marginal(build(VAESpec(2), name, x_dim=3)) for name in ("linear", "mlp")]
        [True, False]
    """
    if not isinstance(model, MarkovVAE):
        return False
    networks = model.architecture
    return networks.activation == networks.latent == networks.output == "identity"


class Marginal:
    """`p(y|x) = N(U m + c(x), U S U' + eta_dec^2 I)`, where the prior of z_1 is `N(m, S)`.

    Args:
        model: With affine decoders.
        eta_dec: Decoder std; none: the model's own.
    """

    def __init__(self, model: MarkovVAE, eta_dec: float | None = None) -> None:
        # A copy in float64: differences of outputs then give the matrices to all digits.
        self.model = copy.deepcopy(model).double()
        with torch.no_grad():
            self.mean, root = self._prior()
            x = root.new_zeros(1, self.model.shapes.x_dim)
            U = _slope(partial(self.model.decode, x=x), root)
            self.noise = self.model.decode(self.mean, x).stddev[0, 0].square()
            if eta_dec is not None:
                self.noise = torch.full_like(self.noise, eta_dec**2)
            self.axes, stretch, _ = torch.linalg.svd(U @ root, full_matrices=False)
            self.variances = stretch.square() + self.noise

    @torch.no_grad()
    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return log p(y|x) per row, (rows,) in float64.

        Args:
            x: Input or condition, (rows, dim x).
            y: Target, (rows, dim y); none for an autoencoder.

        Raises:
            InvalidArgumentError: The data do not have the model's shapes.
        """
        # The encoder has no part in p(y|x), but it refuses data of other shapes by name.
        self.model.posterior(1, x[:1].double(), None if y is None else y[:1].double())
        rows = max(1, NUMBERS // len(self.axes))
        pairs = zip(torch.split(x, rows), torch.split(x if y is None else y, rows), strict=True)
        return torch.cat([self._part(*pair) for pair in pairs])

    def _part(self, x: Tensor, y: Tensor) -> Tensor:
        residual = y.double() - self.model.decode(self.mean, x.double()).mean
        along = residual @ self.axes
        across = residual - along @ self.axes.T
        dim = residual.shape[-1]
        logs = self.variances.log().sum() + (dim - len(self.variances)) * self.noise.log()
        squares = (along.square() / self.variances).sum(-1)
        squares += across.square().sum(-1) / self.noise
        value: Tensor = -0.5 * (squares + logs + dim * math.log(2 * math.pi))
        return value

    def _prior(self) -> tuple[Tensor, Tensor]:
        """Mean, (1, units), and a root of the covariance, (units, units), of z_1."""
        top = len(self.model.units)
        p = self.model.prior(top)
        mean, S = p.mean.unsqueeze(0), torch.diag(p.stddev.square())
        for level in range(top - 1, 0, -1):
            U = _slope(partial(self.model.prior, level), S)
            p = self.model.prior(level, mean)
            mean, S = p.mean, U @ S @ U.T + torch.diag(p.stddev[0].square())
        return mean, torch.linalg.cholesky(S)


def _slope(p: Callable[[Tensor], Normal], like: Tensor) -> Tensor:
    """The matrix of an affine map of rows to means, (outputs, units); `like`: (units, units)."""
    unit_vectors = torch.eye(len(like), dtype=like.dtype, device=like.device)
    return (p(unit_vectors).mean - p(torch.zeros_like(like)).mean).T
