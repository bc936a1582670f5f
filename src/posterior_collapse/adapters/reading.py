"""What the terms of a loss are: which likelihood's, and a KL to which prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import expit, softmax, xlogy

from posterior_collapse.adapters.probing import Probe, Sizes, random_numbers
from posterior_collapse.arrays import Float
from posterior_collapse.checks import Likelihood
from posterior_collapse.errors import InvalidArgumentError

__all__ = ["KLReading", "ReconstructionReading", "plain", "read_kl", "read_reconstruction"]

TOLERANCE = 1e-3
"""Relative: a loss may compute in float32."""
ROWS = 6
"""Rows that a reading goes by, in as many batches as it takes."""
FAR = (3.0, 30.0)
"""Errors at which a robust loss shows that it is no squared one."""
MOST_UNITS = 256
"""Units that are looked at one by one, where they differ."""

NEAR = ((0.5, 0.0), (-0.6, 0.3), (0.0, 0.5), (0.0, -0.5), (0.7, -0.9), (1.1, 0.2), (-0.9, 0.8))
"""Posteriors (mean, log-variance) next to the prior, beside (0, 0)."""
DISTANT = tuple((mean + math.copysign(20.0, mean), log_var) for mean, log_var in NEAR)
"""Posteriors of about 200 nats per unit, more than any floor; the first is compared with."""


class ReconstructionReading(NamedTuple):
    """How the loss depends on the reconstruction.

    Attributes:
        kind: Of a likelihood: `"squared"`, `"log squared"` (a Gaussian whose std is fitted to the
            batch), `"bernoulli"`, `"bernoulli logits"`, `"poisson"` (of log rates), `"poisson
            rates"`, `"negative-binomial"` (of log means), `"negative-binomial logits"`,
            `"negative-binomial means"`, `"categorical"` (of logits), `"categorical
            log-probabilities"`, `"categorical probabilities"`. Else `"absolute"`, `"other"` or
            `"none"`.
        weight: Its factor, per sample and summed over features.
        weights: Factors per feature, shape of a sample, where they differ; `weight` is their mean.
        axis: Of the classes of a categorical, among the features.
        dispersion: r of a negative binomial; None if it is one per feature.
        apart: Whether each feature is compared with its own target alone.
    """

    kind: str
    weight: float
    weights: Any = None
    axis: int | None = None
    dispersion: float | None = None
    apart: bool = True

    @property
    def likelihood(self) -> Likelihood:
        """What it is the negative log of; "other": none that is known, or weights that differ."""
        first = self.kind.partition(" ")[0]
        if self.weights is not None:
            return "other"
        if self.kind in ("squared", "log squared"):
            return "gaussian"
        return first if first in _NAMES else "other"  # type: ignore[return-value]

    @property
    def link(self) -> str | None:
        """What the decoder gives: "logits", "probabilities", "log rates", ...; None: unknown."""
        return _LINKS.get(self.kind)


_NAMES = ("bernoulli", "poisson", "negative-binomial", "categorical")
_LINKS = {
    "squared": "means",
    "log squared": "means",
    "bernoulli": "probabilities",
    "bernoulli logits": "logits",
    "poisson": "log rates",
    "poisson rates": "rates",
    "negative-binomial": "log means",
    "negative-binomial logits": "logits",
    "negative-binomial means": "means",
    "categorical": "logits",
    "categorical log-probabilities": "log-probabilities",
    "categorical probabilities": "probabilities",
}


class KLReading(NamedTuple):
    """How the loss depends on the posterior.

    Attributes:
        kind: `"gaussian"`: a multiple of the KL to `N(prior_mean, prior_std^2)`; `"free bits"`: the
            same, but a small KL costs nothing; `"capacity"`: the same, but a small KL is rewarded;
            `"squared capacity"`: the square of a KL's distance from one, to `N(0, 1)`;
            `"no log"`: a KL without its logarithm; `"none"`; or `"other"`.
        weight: Its factor, per sample and summed over latents; the least where units differ.
        prior_std: Std of the prior; a mean over units where they differ.
        prior_mean: Mean of the prior, likewise.
        weights: Factors per unit where they differ.
        floor: KL in nats below which nothing is charged, for free bits and capacities.
        floor_over: Whether the floor is each `"unit"`'s or of `"all"` together.
        spread: What the last argument is: `"log-variance"`, `"log-std"`, `"std"`, `"variance"`, or
            what softplus makes one of, `"softplus std"` and `"softplus variance"`.
        sampled: Whether it is estimated from samples of the posterior.
    """

    kind: str
    weight: float
    prior_std: float = 1.0
    prior_mean: float = 0.0
    weights: tuple[float, ...] | None = None
    floor: float = 0.0
    floor_over: str = "all"
    spread: str = "log-variance"
    sampled: bool = False


def plain(value: float) -> float:
    """Return a value without the rounding of how it was found.

    Example:
        >>> plain(0.31999999999999995)
        0.32
    """
    return float(f"{value:.12g}")


# The reconstruction


class _Rows(NamedTuple):
    """Reconstructions, targets and gradients of rows, (rows, *features), as for one row alone."""

    output: Float
    target: Float
    gradient: Float


def read_reconstruction(probe: Probe, sizes: Sizes) -> ReconstructionReading:
    """Return what the gradient with respect to the reconstruction says of the loss.

    Raises:
        InvalidArgumentError: The loss raises, is not finite, is random or gives no single number.
    """
    y_hat, y = probe.made_up(sizes, 0)
    if probe.value(y_hat, y, 0.0, 0.0, sizes) != probe.value(y_hat, y, 0.0, 0.0, sizes):
        raise random_numbers()
    batches = [_look(probe, sizes, seed) for seed in range(max(2, -(-ROWS // sizes.batch)))]
    rows = _Rows(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))
    if not rows.gradient.any():
        return ReconstructionReading("none", 0.0)
    for kind, slope, axis in _slopes(rows, probe):
        found = _fitted(kind, rows, slope, axis)
        if found is not None and _is_likelihood(probe, sizes, found):
            far = kind in ("squared", "absolute") and not _holds_far(probe, sizes, found)
            return _other(probe, sizes) if far else found
    fitted = _fitted_std(batches, sizes)
    if fitted is not None:
        return fitted
    return _negative_binomial(rows) or _other(probe, sizes)


def _look(probe: Probe, sizes: Sizes, seed: int, error: float | None = None) -> _Rows:
    """Return what a batch shows; with errors of a given size, of either sign."""
    y_hat, y = probe.made_up(sizes, seed)
    alike = _alike(probe, y, sizes)
    if error is not None:
        y_hat = torch.from_numpy(alike.copy()) + error * (2.0 * (y_hat > 0.5) - 1.0) * (0.5 + y_hat)
    gradient = probe.gradient(y_hat, y, sizes) * sizes.batch
    return _Rows(y_hat.numpy(), alike, gradient)


def _alike(probe: Probe, y: Any, sizes: Sizes) -> Float:
    """Return targets of the reconstruction's shape: class numbers as one-hot."""
    values, axis = probe.target
    if values != "classes" or axis is None:
        return np.asarray(y, dtype=np.float64)
    hot = torch.nn.functional.one_hot(y, sizes.features[axis]).double()
    return (hot if axis < 0 else hot.movedim(-1, 1)).numpy()


def _slopes(rows: _Rows, probe: Probe) -> Iterator[tuple[str, Any, int | None]]:
    """Yield the gradient that each known term of weight 1 has, with the axis of its classes."""
    o, y, _ = rows
    classes = probe.target.values in ("classes", "one-hot")
    if not classes:
        yield "squared", 2 * (o - y), None
        yield "absolute", np.sign(o - y), None
        yield "bernoulli", (o - y) / (o * (1 - o)), None
        yield "bernoulli logits", expit(o) - y, None
        yield "poisson", np.exp(o) - y, None
        yield "poisson rates", 1 - y / o, None
    axes = (probe.target.axis,) if classes else tuple(range(-1, -o.ndim, -1))
    for axis in axes:
        along = axis if axis is None or axis < 0 else axis + 1
        total = y.sum(axis=along, keepdims=True)
        yield "categorical", softmax(o, axis=along) * total - y, axis
    if classes:
        yield "categorical log-probabilities", -y, axes[0]
        yield "categorical probabilities", -y / o, axes[0]
        yield "squared", 2 * (o - y), None
        yield "bernoulli", (o - y) / (o * (1 - o)), None
        yield "bernoulli logits", expit(o) - y, None
    else:
        yield "categorical log-probabilities", -y, -1
        yield "categorical probabilities", -y / o, -1


def _fitted(kind: str, rows: _Rows, slope: Float, axis: int | None) -> ReconstructionReading | None:
    """Return the reading if gradients are a multiple of the slope, of each feature its own."""
    g = rows.gradient
    scale = np.abs(g).max()
    if not np.isfinite(slope).all() or not slope.any():
        return None
    square = np.square(slope).sum(axis=0)
    if axis is not None and (square == 0).any():  # a class that none of the rows has
        square = np.broadcast_to(square.mean(), square.shape)
    weight = float((g * slope).sum() / np.square(slope).sum())
    if np.abs(g - weight * slope).max() <= TOLERANCE * scale:
        return ReconstructionReading(kind, plain(weight), axis=axis)
    if axis is not None:
        return None
    weights = (g * slope).sum(axis=0) / np.where(square > 0, square, 1.0)
    if np.abs(g - weights * slope).max() <= TOLERANCE * scale:
        return ReconstructionReading(kind, float(weights.mean()), weights=weights)
    return None


def _holds_far(probe: Probe, sizes: Sizes, found: ReconstructionReading) -> bool:
    """Whether large errors count as small ones do; a loss that refuses them is not asked."""
    weights = found.weight if found.weights is None else found.weights
    for error in FAR:
        try:
            o, y, g = _look(probe, sizes, 1, error)
        except InvalidArgumentError:
            continue
        slope = 2 * (o - y) if found.kind == "squared" else np.sign(o - y)
        if not np.isfinite(g).all():
            continue
        if np.abs(g - weights * slope).max() > TOLERANCE * np.abs(weights * slope).max():
            return False
    return True


def _is_likelihood(probe: Probe, sizes: Sizes, found: ReconstructionReading) -> bool:
    """Whether a loss with the gradient of `-y log p` is that, as a function of y too.

    A cross-entropy of logits has that gradient with respect to its target, but more beside. That of
    `y log y`, in a Kullback-Leibler divergence, is still one. Other kinds are not asked.
    """
    if probe.target.values == "classes" or not found.kind.startswith("categorical "):
        return True
    o, y = probe.made_up(sizes, 0)
    log_p = (o if found.kind.endswith("log-probabilities") else o.log()).numpy()
    weights = found.weight if found.weights is None else found.weights
    beside, entropy = [], []
    for part in (0.5, 0.75, 1.0):
        target = part * y.numpy()
        try:
            total = probe.value(o, part * y, 0.0, 0.0, sizes) * sizes.batch
        except InvalidArgumentError:  # of whole targets only
            return True
        beside.append(total + float((weights * target * log_p).sum()))
        entropy.append(float((weights * xlogy(target, target)).sum()))
    allowed = TOLERANCE * float(np.abs(weights * y.numpy() * log_p).sum())
    return any(
        np.ptp(np.subtract(beside, times * np.array(entropy))) <= allowed for times in (0.0, 1.0)
    )


def _fitted_std(batches: Sequence[_Rows], sizes: Sizes) -> ReconstructionReading | None:
    """Return the reading of the log of a squared error, of the batch's or of each sample's."""
    for over in (None, tuple(range(1, 1 + len(sizes.features)))):
        found = []
        for o, y, g in batches:
            squares = np.square(o - y).sum(axis=over, keepdims=True)
            count = sizes.batch if over is None else 1
            found.append(g / (o - y) * squares / (2 * count))
        weights = np.concatenate(found)
        if np.ptp(weights) <= TOLERANCE * abs(weights.flat[0]):
            return ReconstructionReading("log squared", float(weights.mean()))
    return None


def _negative_binomial(rows: _Rows) -> ReconstructionReading | None:
    """Return the reading of a negative binomial: variance / m is linear in the mean m."""
    o, y, g = (part.reshape(len(part), -1) for part in rows)
    if len(o) < 4:
        return None
    for kind, m, times in (
        ("negative-binomial", np.exp(o), 1.0),
        ("negative-binomial means", o, o),
    ):
        with np.errstate(all="ignore"):
            left = (m - y) / (g * times)  # 1/w + m / (w r)
        if not np.isfinite(left).all():
            continue
        ones = np.ones(len(m))
        fits = [
            np.linalg.lstsq(np.stack([ones, m[:, j]], 1), left[:, j], rcond=None)[0]
            for j in range(m.shape[1])
        ]
        intercept, slope = np.array(fits).T
        miss = np.abs(intercept + slope * m - left).max()
        if miss <= TOLERANCE * np.abs(left).max() and (intercept * slope > 0).all():
            return _of_dispersion(kind, 1 / intercept, intercept / slope)
    # total_count r and logits o: g = w ((r + y) expit(o) - y)
    design = expit(o)
    with np.errstate(all="ignore"):
        fits = [
            np.linalg.lstsq(
                np.stack([design[:, j], y[:, j] * (design[:, j] - 1)], 1), g[:, j], rcond=None
            )[0]
            for j in range(o.shape[1])
        ]
    both, weights = np.array(fits).T
    miss = np.abs(both * design + weights * y * (design - 1) - g).max()
    if miss <= TOLERANCE * np.abs(g).max() and (both * weights > 0).all():
        return _of_dispersion("negative-binomial logits", weights, both / weights)
    return None


def _of_dispersion(kind: str, weights: Float, r: Float) -> ReconstructionReading | None:
    same = np.ptp(weights) <= 10 * TOLERANCE * abs(weights[0])
    if not same:
        return None
    one = np.ptp(r) <= 10 * TOLERANCE * abs(r[0])
    dispersion = float(np.median(r)) if one else None
    return ReconstructionReading(kind, float(np.median(weights)), dispersion=dispersion)


def _other(probe: Probe, sizes: Sizes) -> ReconstructionReading:
    """Return what is left: its weight is the slope at one error, to see how it is reduced."""
    y_hat, y = probe.made_up(sizes, 0)
    if probe.target.axis is None:
        values = {"soft": 0.5, "binary": 1.0, "counts": 2.0}
        y_hat = torch.full_like(y_hat, 0.7)
        y = torch.full_like(y, values[probe.target.values])
    error = y_hat.numpy() - _alike(probe, y, sizes)
    gradient = probe.gradient(y_hat, y, sizes) * sizes.batch
    weight = float((gradient * error).sum() / (2 * np.square(error).sum()))
    return ReconstructionReading("other", weight, apart=_apart(probe, sizes))


def _apart(probe: Probe, sizes: Sizes) -> bool:
    """Whether moving half of the features leaves the others' gradients as they were."""
    y_hat, y = probe.made_up(sizes, 0)
    moved = y_hat.clone().reshape(sizes.batch, -1)
    moved[:, ::2] = 0.5 * moved[:, ::2] + 0.2
    still = np.s_[:, 1::2]
    before, after = (
        probe.gradient(at.reshape(y_hat.shape), y, sizes).reshape(sizes.batch, -1)[still]
        for at in (y_hat, moved)
    )
    scale = np.abs(before).max(initial=0.0)
    return bool(np.abs(before - after).max(initial=0.0) <= TOLERANCE * scale)


# The KL


def read_kl(probe: Probe, sizes: Sizes) -> KLReading:
    """Return what moving the posterior off the prior says of the loss."""
    at = _losses(probe, sizes)
    near = _fit(at(((0.0, 0.0), *NEAR)), ((0.0, 0.0), *NEAR), sizes.latents)
    far = _fit(at(DISTANT), DISTANT, sizes.latents)
    found = _put_together(near, far, at, sizes)
    if found.kind == "other":
        found = _squared(at, sizes) or found
    if found.kind == "gaussian" and sizes.latents > 1:
        found = _of_units(found, at, sizes)
    return found._replace(spread=probe.spread, sampled=probe.drew)


Losses = Callable[..., Float]


def _losses(probe: Probe, sizes: Sizes) -> Losses:
    y_hat, y = probe.made_up(sizes, 0)

    def at(
        points: Sequence[tuple[float, float]],
        units: Any = slice(None),
        rest: tuple[float, float] = (0.0, 0.0),
    ) -> Float:
        found = []
        for mean, log_var in points:
            moved = np.repeat(np.array(rest)[:, None], sizes.latents, axis=1)
            moved[0, units], moved[1, units] = mean, log_var
            found.append(probe.value(y_hat, y, moved[0], moved[1], sizes))
        return np.array(found)

    return at


def _fit(losses: Float, points: Sequence[tuple[float, float]], units: int) -> KLReading:
    """Fit `c0 mean^2 + c1 mean + c2 var - c3 log var` per unit to the loss's differences."""
    rise = losses[1:] - losses[0]
    # A loss that ignores an argument repeats itself to the last bit.
    if not np.abs(rise).max() > 1e-14 * abs(losses[0]):
        return KLReading("none", 0.0)
    terms = np.array([[m**2, m, math.exp(s), -s] for m, s in points])
    design = units * (terms[1:] - terms[0])
    (of_square, of_mean, of_var, of_log), *_ = np.linalg.lstsq(design, rise, rcond=None)
    misfit = np.abs(design @ (of_square, of_mean, of_var, of_log) - rise).max()
    fits = misfit <= TOLERANCE * np.abs(rise).max()
    same = abs(of_square - of_var) <= 0.01 * abs(of_square)
    if not (fits and same):
        return KLReading("other", 2 * float(of_log))
    if abs(of_log) <= TOLERANCE * abs(of_square):
        return KLReading("no log", plain(2 * of_square))
    if of_log * of_square <= 0:
        return KLReading("other", 2 * float(of_log))
    prior_mean, prior_std = -float(of_mean / (2 * of_square)), math.sqrt(of_log / of_square)
    # What single precision makes of N(0, 1) is N(0, 1).
    prior_mean = 0.0 if abs(prior_mean) <= TOLERANCE else plain(prior_mean)
    prior_std = 1.0 if abs(prior_std - 1) <= TOLERANCE else plain(prior_std)
    return KLReading("gaussian", plain(2 * of_log), prior_std, prior_mean)


def _put_together(near: KLReading, far: KLReading, at: Losses, sizes: Sizes) -> KLReading:
    if near.kind == "no log" or far.kind != "gaussian":
        return near
    # Far points lose digits in float32: the near ones are the reading.
    if near.kind == "gaussian" and math.isclose(near.weight, far.weight, rel_tol=0.02):
        return near
    return _with_floor(far, at, sizes)


def _with_floor(found: KLReading, at: Losses, sizes: Sizes) -> KLReading:
    """Return whether a small KL is free or rewarded, and up to which.

    From the prior, the far loss is less than the KL's by the floor of free bits; by twice a
    capacity, for its loss falls up to there before it rises. A KL of a quarter of that is below
    either, and says which.
    """
    scale = found.prior_std
    prior = (found.prior_mean, 2 * math.log(scale))

    def at_kl(nats: float) -> tuple[float, float]:
        return prior[0] + scale * math.sqrt(2 * nats), prior[1]

    def rise(there: tuple[float, float], units: Any) -> float:
        """Return how much more than at the prior is charged, in nats."""
        before, after = at((prior, there), units, prior)
        return float(after - before) / found.weight

    def lacking(there: tuple[float, float], units: Any, number: int) -> float:
        return max(number * _kl(there, found) - rise(there, units), 0.0)

    every, first = slice(None), slice(0, 1)
    together, alone = lacking(DISTANT[0], every, sizes.latents), lacking(DISTANT[0], first, 1)
    each = sizes.latents > 1 and alone < 0.75 * together
    units, number = (first, 1) if each else (every, sizes.latents)
    less = alone if each else together
    # Not as far beyond it, where single precision has digits left.
    less = lacking(at_kl(2 * less / number), units, number)
    # In parts of that KL: 0 if it is free, -1 if it is rewarded.
    charged = math.nan
    if less > 0:
        charged = rise(at_kl(less / 4 / number), units) / (less / 4)
    for kind, part, times in (("free bits", 0.0, 1.0), ("capacity", -1.0, 2.0)):
        if abs(charged - part) <= 0.1:
            over = "unit" if each else "all"
            return found._replace(kind=kind, floor=plain(less / times), floor_over=over)
    return found._replace(kind="other")


def _squared(at: Losses, sizes: Sizes) -> KLReading | None:
    """Return the reading of `weight (KL - capacity)^2`, of all units together or of each."""
    standard = KLReading("squared capacity", 1.0)

    def read(units: Any, number: int) -> tuple[float, float] | None:
        points = [(0.0, 0.0), *NEAR, *DISTANT[:2]]
        nats = number * np.array([_kl(point, standard) for point in points])
        losses = at(points, units)
        square, line, _ = fit = np.polyfit(nats, losses, 2)
        allowed = TOLERANCE * np.abs(np.diff(losses[: len(NEAR)])).max()
        if not square or np.abs(np.polyval(fit, nats) - losses).max() > allowed:
            return None
        return float(square), float(-line / (2 * square))

    together, alone = read(slice(None), sizes.latents), read(slice(0, 1), 1)
    if together is None or alone is None or together[1] < 0:
        return None
    each = sizes.latents > 1 and alone[1] < 0.75 * together[1]
    weight, capacity = alone if each else together
    return standard._replace(
        weight=plain(weight), floor=plain(capacity), floor_over="unit" if each else "all"
    )


def _kl(point: tuple[float, float], found: KLReading) -> float:
    mean, log_var = point
    square = (math.exp(log_var) + (mean - found.prior_mean) ** 2) / found.prior_std**2
    return 0.5 * (square - 1 - log_var) + math.log(found.prior_std)


def _of_units(found: KLReading, at: Losses, sizes: Sizes) -> KLReading:
    """Look whether units have priors or weights of their own."""
    points = ((0.0, 0.0), *NEAR)

    def read(units: Any, number: int) -> KLReading:
        return _fit(at(points, units), points, number)

    few = (np.arange(0, sizes.latents, 2), np.arange(sizes.latents // 2), np.array([0]))
    parts = [read(units, len(units)) for units in few]
    same = all(math.isclose(part.weight, found.weight, rel_tol=0.01) for part in parts)
    if same or sizes.latents > MOST_UNITS:
        return found
    each = [read(slice(i, i + 1), 1) for i in range(sizes.latents)]
    if any(one.kind not in ("gaussian", "none") for one in each):
        return found._replace(kind="other")
    weights = tuple(one.weight for one in each)
    return found._replace(weight=min(weights), weights=weights)
