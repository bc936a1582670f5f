"""Linear models: one batch with the noise integrated out, and the certificate from moments."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from posterior_collapse.arrays import Float
from posterior_collapse.diagnosis.certificate import LEAST_INFORMED, Signal
from posterior_collapse.diagnosis.comparing import Compared, gaussian_log_density
from posterior_collapse.diagnosis.levels import RowPosteriors
from posterior_collapse.diagnosis.passes import Pass, upward
from posterior_collapse.diagnosis.reading import check_finite, in_double, noise_generator
from posterior_collapse.diagnosis.statistics import Which
from posterior_collapse.models import (
    LatentModel,
    MarkovVAE,
    exact_terms,
    linear_values,
    load_parameters,
    read_parameters,
)
from posterior_collapse.models.likelihoods import draw
from posterior_collapse.models.linear import LinearValues
from posterior_collapse.moments import Moments
from posterior_collapse.theory.spectrum import Modes
from posterior_collapse.theory.thresholds import variance_error

SAME = 1e-9
"""Rounding, as a share of the largest variance: units whose means covary less than that lie along
their directions already."""


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
    """Takes batches through a linear model, for which `is_exact` holds, in float64.

    The generator is of one path per row, which shows what upper levels know of lower ones.
    """

    decodes, whitened, output = True, None, None  # as of a `SampledPass`

    def __init__(self, model: LatentModel, generator: torch.Generator) -> None:
        self.values = _float64(cast(MarkovVAE, model))
        self.generator = generator

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor | None, wanted: Sequence[Which] = ()) -> Pass:
        """Return what a batch says; `wanted` asks for nothing: moments tell what is left."""
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
            check_finite("posterior", f" of z{len(levels) + 1}", mean=mean, std=std)
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
            z = draw(Normal(given, std, validate_args=False), self.generator)
        error, eta = in_double(terms.squared_error), float(values.eta_decs[0])
        density = gaussian_log_density(error, eta, (x if y is None else y).shape[-1])
        return Pass(tuple(levels), Compared(error, density, np.full(len(error), eta**2)))


def level_posteriors(
    model: LatentModel,
    x: Tensor,
    y: Tensor | None,
    samples: int,
    generator: torch.Generator,
    *,
    row: int = 0,
    kl_paths: int | None = None,
) -> tuple[RowPosteriors, ...]:
    """Return what rows say of each level, without the noise where that can be; see `upward`."""
    if is_exact(model):
        return ExactPass(model, generator)(x, y).levels
    return upward(model, x, y, samples, generator, row=row, kl_paths=kl_paths)[0]


def exact_signals(model: LatentModel, moments: Moments) -> tuple[Signal, ...]:
    """Return per level the variances left unexplained, as the training objective sees them.

    Of a model for which `is_exact` holds, from the moments of its data, central if it has biases.
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
    conditional, split = values.direct is not None, xx.shape[0]
    # What is left is `on_x x + on_y y`.
    on_x, on_y = -U @ W[:, :split], np.eye(len(yy))
    if values.direct is not None:
        on_x, on_y = on_x - in_double(values.direct), on_y - U @ W[:, split:]
    cross = on_x @ xx + on_y @ yx
    left = cross @ on_x.T + (on_x @ yx.T + on_y @ yy) @ on_y.T
    return Modes(Moments.from_matrices(xx, cross, (left + left.T) / 2), conditional)


def _float64(model: MarkovVAE) -> LinearValues:
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return linear_values(model, {name: v.detach().double() for name, v in state.items()})


def _rows(values: Tensor, like: Tensor) -> Float:
    return in_double(values.expand_as(like))


def free_levels(model: LatentModel) -> list[int]:
    """Return the levels whose units can be rotated freely, 1 next to the data.

    Example:
        >>> from posterior_collapse import HVAESpec
        >>> from posterior_collapse.models import build
        >>> free_levels(build(HVAESpec((3, 2), sigma_1=0.5), "linear", x_dim=4))
        [1]
    """
    if not isinstance(model, MarkovVAE):
        return []
    free = model.architecture.rotatable(model.spec)
    return [n for n, one in enumerate(free, 1) if one and model.units[n - 1] > 1]


def rotated(
    model: MarkovVAE,
    rows: Iterable[tuple[Tensor, Tensor | None]],
    *,
    samples: int,
    seed: int,
) -> LatentModel:
    """Return the same model with the units of its free levels along their directions.

    It is the model itself where they are already. The model is in evaluation mode; rows are batches
    of x and y; samples are as for `upward`, from a seed.
    """
    rotations = _rotations(model, rows, samples, seed) if free_levels(model) else []
    if all(rotation is None for rotation in rotations):
        return model
    if not is_exact(model):
        return _Rotated(
            model, [None if t is None else torch.from_numpy(t).to(model.eta_enc) for t in rotations]
        )
    found = read_parameters(model)
    for level, rotation in enumerate(rotations, 1):
        if rotation is None:
            continue
        made_by = ["W1", "b1", *["W2"] * model.conditional] if level == 1 else [f"W{level}"]
        for name in made_by:
            if name in found:
                found[name] = rotation.T @ found[name]
        found[f"U{level}"] = found[f"U{level}"] @ rotation
        if level < len(rotations):
            found[f"W{level + 1}"] = found[f"W{level + 1}"] @ rotation
            found[f"U{level + 1}"] = rotation.T @ found[f"U{level + 1}"]
    other = copy.deepcopy(model).double()
    load_parameters(other, found)
    return other


def _rotations(
    model: MarkovVAE,
    rows: Iterable[tuple[Tensor, Tensor | None]],
    samples: int,
    seed: int,
) -> list[Float | None]:
    """Per level the directions as columns, the most varied mean first; None: it stays."""
    free = free_levels(model)
    generator = noise_generator(model.eta_enc.device, seed)
    sums = {level: np.zeros((2, model.units[level - 1])) for level in free}
    products = {level: np.zeros((model.units[level - 1],) * 2) for level in free}
    n = 0
    for x, y in rows:
        if free == [1] and not is_exact(model):  # no sample is needed to know its means
            means: list[tuple[Float, ...]] = [(in_double(model.posterior(1, x, y).mean),)]
        else:
            levels = level_posteriors(model, x, y, samples, generator, row=n)
            means = [level.means for level in levels]
        n += len(x)
        for level in free:
            # Two halves of the samples: what varies with the samples alone averages out.
            halves = means[level - 1][0], means[level - 1][-1]
            sums[level] += [half.sum(0) for half in halves]
            products[level] += halves[0].T @ halves[1]
    rotations: list[Float | None] = [None] * len(model.units)
    for level in free:
        first, second = sums[level] / n
        due = products[level] / n - np.outer(first, second) * model.centred
        due = (due + due.T) / 2
        if np.abs(due - np.diag(np.diag(due))).max() > SAME * np.abs(due).max():
            rotations[level - 1] = np.linalg.eigh(due)[1][:, ::-1].copy()
    return rotations


class _Rotated(LatentModel):
    """A model whose latents are read along other axes; its law is the same."""

    def __init__(self, model: LatentModel, rotations: Sequence[Tensor | None]) -> None:
        self.model = model
        self.rotations = rotations
        self.spec = model.spec

    @property
    def centred(self) -> bool:
        return self.model.centred

    def posterior(self, level: int, given: Tensor, y: Tensor | None = None) -> Normal:
        q = self.model.posterior(level, self._back(level - 1, given), y)
        return self._there(level, q)

    def prior(self, level: int, given: Tensor | None = None) -> Normal:
        above = None if given is None else self._back(level + 1, given)
        return self._there(level, self.model.prior(level, above))

    def decode(self, z: Tensor, x: Tensor | None = None) -> Distribution:
        return self.model.decode(self._back(1, z), x)

    def _there(self, level: int, found: Normal) -> Normal:
        rotation = self.rotations[level - 1]
        return found if rotation is None else Normal(found.mean @ rotation, found.stddev)

    def _back(self, level: int, z: Tensor) -> Tensor:
        rotation = self.rotations[level - 1] if level else None
        return z if rotation is None else z @ rotation.mT
