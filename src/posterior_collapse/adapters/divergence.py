"""What the KL term of a loss is: to which prior, with which weights, from which floor on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from posterior_collapse.adapters.probing import Probe, Sizes
from posterior_collapse.adapters.reading import TOLERANCE, plain
from posterior_collapse.arrays import Float

__all__ = ["KLReading", "read_kl"]

MOST_UNITS = 256
"""Units that are looked at one by one, where they differ."""

NEAR = ((0.5, 0.0), (-0.6, 0.3), (0.0, 0.5), (0.0, -0.5), (0.7, -0.9), (1.1, 0.2), (-0.9, 0.8))
"""Posteriors (mean, log-variance) next to the prior, beside (0, 0)."""
DISTANT = tuple((mean + math.copysign(20.0, mean), log_var) for mean, log_var in NEAR)
"""Posteriors of about 200 nats per unit, more than any floor; the first is compared with."""


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

    @property
    def has_beta(self) -> bool:
        """Whether one weight says what a nat costs."""
        return self.kind in ("gaussian", "free bits", "capacity")


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
