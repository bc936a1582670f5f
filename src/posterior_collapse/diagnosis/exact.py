"""Linear models: one batch with the noise integrated out, and the certificate from moments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posterior_collapse.diagnosis.certificate import LEAST_INFORMED, Signal
from posterior_collapse.diagnosis.levels import RowPosteriors
from posterior_collapse.diagnosis.passes import Pass, Reconstruction
from posterior_collapse.diagnosis.reading import in_double
from posterior_collapse.diagnosis.statistics import Which
from posterior_collapse.errors import DataError
from posterior_collapse.models import LatentModel, MarkovVAE, exact_terms, linear_values
from posterior_collapse.models.linear import LinearValues
from posterior_collapse.moments import Moments
from posterior_collapse.theory.spectrum import Modes
from posterior_collapse.theory.thresholds import variance_error

__all__ = ["ExactPass", "exact_signals", "is_exact"]

Float = NDArray[np.float64]


def is_exact(model: LatentModel) -> bool:
    """Whether the noise can be integrated out: linear, Gaussian, and no input moves the stds.

    Example:
        >>> from posterior_collapse import VAESpec
        >>> from posterior_collapse.models import build
        >>> [is_exact(build(VAESpec(2), name, x_dim=3)) for name in ("linear", "mlp")]
        [True, False]
    """
    if not isinstance(model, MarkovVAE) or model.architecture.name != "linear":
        return False
    return model.observation is None and "input" not in model.spec.sigma_levels


class ExactPass:
    """Takes batches through a linear model in float64.

    Args:
        model: For which `is_exact` holds.
        generator: On the model's device: of one path per row, which shows what upper levels know
            of lower ones.
    """

    def __init__(self, model: LatentModel, generator: torch.Generator) -> None:
        self.values = _float64(cast(MarkovVAE, model))
        self.generator = generator

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor | None, wanted: Sequence[Which] = ()) -> Pass:
        """Return what a batch says, x (rows, dim x) and y (rows, dim y) or none.

        Args:
            x: Inputs.
            y: Targets.
            wanted: Asks for nothing here: moments tell what is left.

        Raises:
            DataError: A posterior is not finite.
        """
        values = self.values
        x, y = x.double(), None if y is None else y.double()
        terms = exact_terms(values, x, y)
        priors = (*values.eta_decs[1:], values.eta_enc)
        covariance, z = x.new_zeros(()), terms.means[0]
        levels: list[RowPosteriors] = []
        for W, std, mean, kl, prior in zip(
            values.encoders, values.stds, terms.means, terms.kl, priors, strict=True
        ):
            first = not levels
            noise = std.square()
            covariance = torch.diag(noise) if first else W @ covariance @ W.mT + torch.diag(noise)
            given = mean if first else z @ W.mT
            _check(mean, std, len(levels) + 1)
            levels.append(
                RowPosteriors(
                    in_double(kl),
                    (in_double(mean),),
                    (_rows(covariance.diagonal(), mean),),
                    _rows(noise, mean),
                    in_double(prior),
                    None if first else (in_double(given), _rows(std, mean)),
                    0.0 if len(levels) == len(values.stds) - 1 else math.nan,
                )
            )
            z = given + std * torch.randn(
                given.shape, generator=self.generator, device=given.device, dtype=given.dtype
            )
        features = (x if y is None else y).shape[-1]
        eta = float(values.eta_decs[0])
        normaliser = features / 2 * math.log(2 * math.pi * eta**2)
        density = -terms.squared_error / (2 * eta**2) - normaliser
        reconstruction = Reconstruction(
            in_double(terms.squared_error), in_double(density), eta, features
        )
        return Pass(tuple(levels), reconstruction, ())


def exact_signals(model: LatentModel, moments: Moments) -> tuple[Signal, ...]:
    """Return per level the variances left unexplained, as the training objective sees them.

    Args:
        model: For which `is_exact` holds.
        moments: Of its data, central if it has biases.
    """
    values = _float64(cast(MarkovVAE, model))
    variances = np.square(_residual_modes(values, moments).theta)
    found = [(variances, np.ones(len(variances), bool))]
    data, encoder = moments.xx, in_double(values.encoders[0])
    if values.direct is not None:
        data = np.block([[moments.xx, moments.yx.T], [moments.yx, moments.yy]])
    # Second moments of z_l, and the part of them that varies with x.
    known = encoder @ data @ encoder.T
    second = known + np.diag(in_double(values.stds[0]) ** 2)
    for W, U, std in zip(
        map(in_double, values.encoders[1:]),
        map(in_double, values.decoders[1:]),
        map(in_double, values.stds[1:]),
        strict=True,
    ):
        left = np.eye(len(second)) - U @ W
        variances, directions = np.linalg.eigh(left @ second @ left.T)
        of_x = (directions * (left @ known @ left.T @ directions)).sum(0)
        found.append((variances[::-1], (of_x > LEAST_INFORMED * variances)[::-1]))
        known, second = W @ known @ W.T, W @ second @ W.T + np.diag(std**2)
    n = moments.n
    return tuple(
        Signal(v, math.nan if n is None else variance_error(float(v[0]), 0.0, n), informed)
        for v, informed in found
    )


def _residual_modes(values: LinearValues, moments: Moments) -> Modes:
    """Modes of what z_1 leaves of y, as a model that reads the same inputs sees them."""
    U, W = in_double(values.decoders[0]), in_double(values.encoders[0])
    xx, yx, yy = moments.xx, moments.yx, moments.yy
    if values.direct is None:
        through = U @ W
        cross = yx - through @ xx
        left = yy - through @ yx.T - cross @ through.T
        return Modes(Moments.from_matrices(xx, cross, (left + left.T) / 2))
    split = xx.shape[0]
    on_x = -U @ W[:, :split] - in_double(values.direct)
    on_y = np.eye(len(yy)) - U @ W[:, split:]
    cross = on_x @ xx + on_y @ yx
    left = cross @ on_x.T + (on_x @ yx.T + on_y @ yy) @ on_y.T
    return Modes(Moments.from_matrices(xx, cross, (left + left.T) / 2), conditional=True)


def _float64(model: MarkovVAE) -> LinearValues:
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return linear_values(model, {name: v.detach().double() for name, v in state.items()})


def _check(mean: Tensor, std: Tensor, level: int) -> None:
    for part, values in (("mean", mean), ("std", std)):
        if not bool(values.isfinite().all()):
            raise DataError(
                f"posterior {part} of z{level}", "NaN or inf", f"a finite {part}",
                "Check the model's weights and the scale of the data.",
            )  # fmt: skip


def _rows(values: Tensor, like: Tensor) -> Float:
    return in_double(values.expand_as(like))
