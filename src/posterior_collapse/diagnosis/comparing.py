"""What a decoder says of its targets: squared errors, log densities, and residuals or scores."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from posterior_collapse.arrays import Float
from posterior_collapse.diagnosis.certificate import Residual
from posterior_collapse.diagnosis.reading import as_array, check_finite, in_double
from posterior_collapse.diagnosis.scores import Meant, mean_curvature, scored, unexpanded
from posterior_collapse.errors import DataError

SAME_STD = 1e-4
"""Relative difference of stds that is rounding."""


class Compared(NamedTuple):
    """Of some rows, averaged over their samples; None: there is no such thing, or it is 0.

    Attributes:
        squared_error: |y - mu|^2, (rows,).
        log_density: log p(y|z) by the model's own distribution, (rows,).
        variance: Mean variance of a Gaussian decoder, (rows,).
        standardised: Squared error in units of it, where one std does not serve all, (rows,).
        data: What the data alone decide of the log density, (rows,).
    """

    squared_error: Float
    log_density: Float
    variance: Float | None = None
    standardised: Float | None = None
    data: Float | None = None


def gaussian_log_density(squared_error: Float, eta_dec: float, features: int) -> Float:
    """Return log p(y|z) of a Gaussian whose one std is eta_dec, (rows,)."""
    normaliser = features / 2 * math.log(2 * math.pi * eta_dec**2)
    return -squared_error / (2 * eta_dec**2) - normaliser


def by_errors(p: Normal, target: Tensor) -> tuple[Compared, Residual | None]:
    """Compare by a Gaussian's errors, for an eta_dec that is known; see `_residual`."""
    residual, std = target - p.mean, unexpanded(p.stddev)
    # In one pass, without an array of the squares.
    squared_error = torch.linalg.vector_norm(residual, dim=-1).square()
    _check_finite(p, squared_error, std.sum(-1))
    if not bool(squared_error.isfinite().all()):
        raise DataError(
            "data", f"values up to {float(target.abs().max()):.3g}",
            f"values whose squares fit {residual.dtype}", "Rescale the data.",
        )  # fmt: skip
    # Where one std serves all, which is the rule, this passes over the outputs but once.
    scaled = squared_error / std[..., 0].square()
    if std.shape[-1] > 1:
        scaled = (residual / std).square().sum(-1)
    logs = std.log().mean(-1) + 0.5 * math.log(2 * math.pi)
    density = -0.5 * scaled - target.shape[-1] * logs
    compared = Compared(
        in_double(squared_error.mean(0)),
        in_double(density.mean(0)),
        in_double(std.square().mean().expand(len(target))),
    )
    return compared, _residual(residual)


def by_scores(p: Distribution, target: Tensor) -> tuple[Compared, Residual | None]:
    """Compare by the scores of any distribution; no residual where it has none."""
    found, error = scored(p, target), target - p.mean
    squared_error = error.square().sum(-1)
    _check_finite(p, squared_error, found.log_density)
    if not bool(found.log_density.isfinite().all()):
        raise DataError(
            "decoder output", "a log density that is NaN or inf", "finite numbers",
            "Check that the data are in the domain of its distribution, and the model's weights.",
        )  # fmt: skip
    residual = None if found.score is None else _residual(found.score)
    if residual is not None and found.curvature is not None:
        residual = residual._replace(curvature=as_array(mean_curvature(p, found.curvature)))
    own = has_eta_dec(p)
    compared = Compared(
        in_double(squared_error.mean(0)),
        in_double(found.log_density.mean(0)),
        in_double(p.stddev.square().mean().expand(len(target))) if own else None,
        in_double((error / p.stddev).square().mean((0, -1))) if own else None,
        None if found.data is None else in_double(found.data.mean(0)),
    )
    return compared, residual


def has_eta_dec(p: Distribution) -> bool:
    """Say whether an output is a Gaussian's, or a stand-in of its kind, whose std is eta_dec."""
    return isinstance(p, Normal) and not isinstance(p, Meant)


def differ(std: Tensor) -> bool:
    """Say whether stds are not all the same."""
    std = unexpanded(std)
    return std.numel() > 1 and float(std.max()) > (1 + SAME_STD) * float(std.min())


def _check_finite(p: Distribution, *sums: Tensor) -> None:
    """Refuse a decoder whose outputs are not finite, which sums over features tell at once."""
    if all(bool(values.isfinite().all()) for values in sums):
        return
    check_finite("decoder", mean=p.mean)
    if isinstance(p, Normal):
        check_finite("decoder", std=p.stddev)


def _residual(samples: Tensor) -> Residual | None:
    """Of residuals or scores, (samples, rows, features); None of a single sample of each row."""
    if len(samples) == 1:
        return None
    first, second = (half[0] if len(half) == 1 else half.mean(0) for half in samples.chunk(2))
    average, difference = as_array((first + second).div_(2)), as_array((first - second).div_(2))
    return Residual(average[:, None], difference[:, None])
