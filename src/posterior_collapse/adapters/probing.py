"""Weights read off a loss function by calling it on made-up tensors.

Every sample of a batch is moved the same way and the loss's rise is set against what each known
term would do. With all samples moved, a term averaged over the batch has the same weight at every
batch size, and one summed over it a weight proportional to the size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models.modules import tensor_behind

__all__ = ["KLReading", "Probe", "ReconstructionReading", "Sizes"]

_TOLERANCE = 1e-3  # relative: a loss may compute in float32
_HEIGHTS = (0.08, 0.16, 0.24)  # errors: not 0, where some losses are singular, and inside (0, 1)
_SMALL = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.0, -0.5), (0.7, -0.9))  # (mean, log variance)
_LARGE = tuple((mean + 20.0, log_var) for mean, log_var in _SMALL)  # KL about 200 nats per unit


class Sizes(NamedTuple):
    """What the loss is called with: samples, the shape of one, and latent units."""

    batch: int
    features: tuple[int, ...]
    latents: int


class ReconstructionReading(NamedTuple):
    """How the loss depends on the reconstruction.

    Attributes:
        kind: `"squared"`, `"log squared"` (a Gaussian whose std is fitted to the batch),
            `"bernoulli"`, `"bernoulli logits"`, `"absolute"`, `"none"` or `"other"`.
        weight: Its factor, per sample and summed over features.
    """

    kind: str
    weight: float


class KLReading(NamedTuple):
    """How the loss depends on the posterior.

    Attributes:
        kind: `"gaussian"`: a multiple of the KL to `N(0, prior_std^2)`; `"free bits"`: the same,
            but a small KL costs nothing; `"capacity"`: the same, but a small KL is rewarded;
            `"no log"`: a KL without its logarithm; `"none"`; or `"other"`.
        weight: Its factor, per sample and summed over latents.
        prior_std: Std of the prior.
    """

    kind: str
    weight: float
    prior_std: float = 1.0


class Probe:
    """A loss `loss(reconstruction, target, mean, log_var)`, called with tensors of any sizes.

    Args:
        loss: The function. It may return a number, or a sequence or mapping with the total first
            or under `"loss"`.
        log_var: Whether its last argument is a log-variance; False: a std.
    """

    def __init__(self, loss: Callable[..., Any], *, log_var: bool = True) -> None:
        self._loss, self._log_var = loss, log_var
        own = tensor_behind(loss)
        # Where the loss has tensors of its own; but MPS has no float64.
        away = own is not None and own.device.type != "mps"
        self._device = own.device if own is not None and away else torch.device("cpu")
        self.parts: str | None = None
        """What was returned, in words, if it was no single number."""

    def reconstruction(self, sizes: Sizes) -> ReconstructionReading:
        """Return the reading of moving the reconstruction off its target."""
        target, sign = _targets(sizes)
        moved = [target + height * sign for height in _HEIGHTS]
        losses = [self._call(y_hat, target, 0.0, 0.0, sizes) for y_hat in moved]
        if losses[0] != self._call(moved[0], target, 0.0, 0.0, sizes):
            raise InvalidArgumentError(
                "loss",
                "two values for the same arguments",
                "a loss without random numbers",
                "Sample z outside, and pass the reconstruction.",
            )
        rise = np.subtract(losses[1:], losses[0])
        if not _visible(rise, losses[0]):
            return ReconstructionReading("none", 0.0)
        n = math.prod(sizes.features)
        squares = np.square(_HEIGHTS)
        terms = {
            "squared": n * squares,
            "log squared": np.log(squares),
            "absolute": n * np.array(_HEIGHTS),
            "bernoulli": np.array([_cross_entropy(y_hat, target) for y_hat in moved]),
            "bernoulli logits": np.array(
                [_cross_entropy(y_hat.sigmoid(), target) for y_hat in moved]
            ),
        }
        for kind, term in terms.items():
            weights = rise / (term[1:] - term[0])
            if np.ptp(weights) <= _TOLERANCE * abs(weights[0]):
                return ReconstructionReading(kind, float(weights[0]))
        return ReconstructionReading("other", float(rise[0] / (n * (squares[1] - squares[0]))))

    def kl(self, sizes: Sizes) -> KLReading:
        """Return the reading of moving the posterior off the prior."""
        small, large = self._kl_from(_SMALL, sizes), self._kl_from(_LARGE, sizes)
        if small.kind == "no log":
            return small
        if large.kind != "gaussian":
            return small
        if small.kind != "gaussian":
            return large._replace(kind="free bits")
        if small.weight * large.weight < 0:
            return large._replace(kind="capacity")
        # Far points lose digits in float32: the near ones are the reading.
        same = math.isclose(small.weight, large.weight, rel_tol=0.02)
        return small if same else large._replace(kind="other")

    def _kl_from(self, points: Sequence[tuple[float, float]], sizes: Sizes) -> KLReading:
        """Fit `c0 mean^2 + c1 var - c2 log var` to the loss's differences between points."""
        target, _ = _targets(sizes)
        losses = np.array([self._call(target + 0.1, target, m, s, sizes) for m, s in points])
        rise = losses[1:] - losses[0]
        if not _visible(rise, losses[0]):
            return KLReading("none", 0.0)
        terms = np.array([[m**2, math.exp(s), -s] for m, s in points])
        design = sizes.latents * (terms[1:] - terms[0])
        (of_mean, of_var, of_log), *_ = np.linalg.lstsq(design, rise, rcond=None)
        misfit = np.abs(design @ (of_mean, of_var, of_log) - rise).max()
        scale = np.abs(rise).max()
        same = abs(of_mean - of_var) <= 0.01 * abs(of_mean)
        if misfit <= _TOLERANCE * scale and same and abs(of_log) <= _TOLERANCE * abs(of_mean):
            return KLReading("no log", 2 * float(of_mean))
        if misfit > _TOLERANCE * scale or not same or of_log * of_mean <= 0:
            return KLReading("other", 2 * float(of_log))
        return KLReading("gaussian", 2 * float(of_log), math.sqrt(of_log / of_mean))

    def _call(
        self, y_hat: Tensor, target: Tensor, mean: float, log_var: float, sizes: Sizes
    ) -> float:
        shape = (sizes.batch, sizes.latents)
        spread = log_var if self._log_var else math.exp(log_var / 2)
        arguments = (
            y_hat.to(self._device, copy=True),
            target.to(self._device, copy=True),
            torch.full(shape, mean, dtype=torch.float64, device=self._device),
            torch.full(shape, spread, dtype=torch.float64, device=self._device),
        )
        try:
            output = self._loss(*arguments)
        except Exception as error:
            raise InvalidArgumentError(
                "loss",
                f"{type(error).__name__} ({str(error).splitlines()[0] if str(error) else ''})",
                f"a number for arguments of shapes {[tuple(a.shape) for a in arguments]}",
                "Check features=, latents= and the device of tensors of its own, or wrap it: "
                "lambda y_hat, y, mean, log_var: ...",
            ) from error
        if isinstance(output, Mapping):
            self.parts = f"a dict of {sorted(map(str, output))}"
        elif isinstance(output, Sequence):
            self.parts = f"a {type(output).__name__} of {len(output)}"
        value = _total(output)
        if not math.isfinite(value):
            name = "log-variance" if self._log_var else "std"
            other = "log_var=False, if it takes a std" if self._log_var else "log_var=True"
            raise InvalidArgumentError(
                "loss", value, f"a finite number at a {name} of {spread:g}", f"Pass {other}."
            )
        return value


def _targets(sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Return targets in [0.3, 0.7] and signs, of the shape of a batch whose rows are equal."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, *sizes.features)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
    shape = (sizes.batch, *sizes.features)
    sign = torch.where(uniform[1] < 0.5, -1.0, 1.0).to(torch.float64)
    return (0.3 + 0.4 * uniform[0]).expand(shape), sign.expand(shape)


def _cross_entropy(mean: Tensor, target: Tensor) -> float:
    per_feature = target * mean.log() + (1 - target) * (1 - mean).log()
    return -float(per_feature[0].sum())


def _visible(rise: np.ndarray[Any, Any], base: float) -> bool:
    """Whether the loss moved; one that ignores an argument repeats itself to the last bit."""
    return bool(np.abs(rise).max() > 1e-14 * abs(base))


def _total(output: Any) -> float:
    if isinstance(output, Mapping):
        output = output["loss"] if "loss" in output else next(iter(output.values()))
    elif isinstance(output, Sequence):
        output = output[0]
    shape = tuple(getattr(output, "shape", ()))
    try:
        return float(output)
    except (TypeError, ValueError, RuntimeError):
        got = f"a result of shape {shape}" if shape else type(output).__name__
        raise InvalidArgumentError(
            "loss", got, "one number", "Reduce it as your training does."
        ) from None
