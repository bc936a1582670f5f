"""The KL term of a loss: to which prior, with which weights, from which floor on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from posterior_collapse.adapters.precision import MOST_APART, beside, rounding
from posterior_collapse.adapters.probing import Probe
from posterior_collapse.adapters.reconstruction import TOLERANCE, plain
from posterior_collapse.arrays import Float
from posterior_collapse.errors import InvalidArgumentError

LEAST_FREE, MOST_FREE = 1e-3, 64.0
"""Nats of a floor: of less it is none, as a unit of so few is collapsed; of a mask no more."""
NEAR = ((0.5, 0.0), (-0.6, 0.3), (0.0, 0.5), (0.0, -0.5), (0.7, -0.9), (1.1, 0.2), (-0.9, 0.8))
"""Posteriors (mean, log-variance) next to the prior, beside (0, 0)."""
DISTANT = tuple((mean + math.copysign(20.0, mean), log_var) for mean, log_var in NEAR)
"""Posteriors of about 200 nats per unit, more than any floor; the first is compared with."""

AWAY = 200.0
"""Stds from the prior's mean at which a KL exceeds any floor, and what rounding adds."""
ALIKE = 0.02
"""Relative: weights that differ by less are one."""
SCALES = (0.1, 10.0)
"""Of outputs whose errors are others."""
ROWS = 8
"""Of a batch, whose weights are compared."""
OF_ONE_WEIGHT = ("gaussian", "free bits", "capacity")
"""Kinds of KL of which a weight says what a nat costs."""
WeighedBy = Literal["", "error", "row's error", "error at collapse"]


class KLReading(NamedTuple):
    """How the loss depends on the posterior.

    Attributes:
        kind: `"gaussian"`: a multiple of the KL to `N(prior_mean, prior_std^2)`; `"free bits"`: the
            same, but a small KL costs nothing; `"capacity"`: the same, but a small KL is rewarded;
            `"squared capacity"`: the square of a KL's distance from one, to `N(0, 1)`;
            `"batch"`: the same, but rows of a batch that differ cost more or less than their KLs;
            `"samples"`: the same, but samples that differ cost less, as in an importance-weighted
            bound;
            `"group floors"`: free bits or a capacity, of which units or groups of them have more
            or less than others;
            `"uneven"`: the gradient has more of it at the mean than at the spread, or less;
            `"no log"`: a KL without its logarithm; `"none"`; or `"other"`.
        weight: Its factor, per sample and summed over latents; the least where units differ.
        prior_std: Std of the prior; a mean over units where they differ.
        prior_mean: Mean of the prior, likewise.
        weights: Factors per unit where they differ.
        floor: KL in nats below which nothing is charged, for free bits and capacities.
        floor_over: Whether the floor is each `"unit"`'s or of `"all"` together.
        spread: What the last argument is: `"log-variance"`, `"log-std"`, `"std"`, `"variance"`, or
            what softplus makes one of, `"softplus std"` and `"softplus variance"`; with what is
            added to it, `"softplus std + 0.1"`.
        sampled: Whether it is estimated from samples of the posterior.
        pulls: Parts of it that reach the gradient, at the mean and at the spread: less than 1 where
            some stands behind `.detach()`. The weight is that of what trains.
        weighed_by: `"error"` where the weight goes by the batch's error, `"row's error"` where by
            each row's; `"error at collapse"`: the weight is that at collapse on the data.
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
    pulls: tuple[float, float] = (1.0, 1.0)
    weighed_by: WeighedBy = ""

    @property
    def has_beta(self) -> bool:
        """Whether one weight says what a nat costs."""
        return self.kind in OF_ONE_WEIGHT and self.weighed_by in ("", "error at collapse")

    def times(self, factor: float) -> KLReading:
        """Return the reading of a KL with so many times the weight."""
        weights = None if self.weights is None else tuple(factor * one for one in self.weights)
        return self._replace(weight=plain(self.weight * factor), weights=weights)

    @property
    def has_floor(self) -> bool:
        """Whether a small KL costs nothing or is rewarded: then no weight collapses every unit."""
        return self.kind in ("free bits", "capacity") and self.floor > 0

    @property
    def whose(self) -> str:
        """Of what the floor is, in words."""
        return "each unit" if self.floor_over == "unit" else "all units together"


def read_kl(probe: Probe) -> KLReading:
    """Return what moving the posterior off the prior says of the loss."""
    units, at = probe.sizes.latents, losses_at(probe)
    losses = at(NEAR)
    near, far = _fit(losses, NEAR, units), _fit(at(DISTANT), DISTANT, units)
    found = near
    if near.kind != "no log" and far.kind == "gaussian":
        # Far points lose digits in float32: the near ones are the reading.
        same = near.kind == "gaussian" and math.isclose(near.weight, far.weight, rel_tol=0.02)
        least = max(LEAST_FREE, 8 * rounding(losses) / abs(far.weight))
        # Under a floor of each unit the first lacks it too; units of other weights lack by chance.
        lacks = (_Charge(near, at).lacking(NEAR[0], slice(n), n) for n in (units, 1))
        whole = same and any(abs(nats) <= least for nats in lacks)
        found = near if whole else _with_floor(far, at, units, least)
    if found.kind == "other":
        found = _squared(at, units) or found
    if found.kind == "gaussian" and units > 1:
        found = _of_units(found, at, units)
        if found.kind == "other" and far.kind == "gaussian":
            found = _with_floor(far, at, units, least)
    return found._replace(spread=str(probe.spread), sampled=probe.drew)


Losses = Callable[..., Float]


def losses_at(probe: Probe) -> Losses:
    """Return a function of posteriors to losses: of some units there, of the rest elsewhere."""
    y_hat, y = beside(probe)

    def at(
        points: Sequence[tuple[float, float]],
        units: Any = slice(None),
        rest: tuple[float, float] = (0.0, 0.0),
    ) -> Float:
        found = []
        for mean, log_var in points:
            moved = np.repeat(np.array(rest)[:, None], probe.sizes.latents, axis=1)
            moved[0, units], moved[1, units] = mean, log_var
            found.append(probe.value(y_hat, y, *moved))
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
    # Far from the prior the mean's part has the most digits.
    weight = 2 * float(of_square) * prior_std**2
    return KLReading("gaussian", plain(weight), prior_std, prior_mean)


class _Charge(NamedTuple):
    """What a loss charges for a KL that is a multiple of it far from the prior."""

    found: KLReading
    at: Losses

    @property
    def prior(self) -> tuple[float, float]:
        return self.found.prior_mean, 2 * math.log(self.found.prior_std)

    def at_kl(self, nats: float) -> tuple[float, float]:
        """Return a posterior so many nats from the prior."""
        mean, log_var = self.prior
        return mean + self.found.prior_std * math.sqrt(2 * nats), log_var

    def rise(self, there: tuple[float, float], units: Any) -> float:
        """Return how much more than at the prior is charged, in nats."""
        before, after = self.at((self.prior, there), units, self.prior)
        return float(after - before) / self.found.weight

    def lacking(self, there: tuple[float, float], units: Any, number: int) -> float:
        """Return how much less than its KL that is."""
        return number * _kl(there, self.found) - self.rise(there, units)


def _with_floor(found: KLReading, at: Losses, latents: int, least: float) -> KLReading:
    """Return whether a small KL is free or rewarded, and up to which, of `least` nats or more.

    From the prior, the far loss is less than the KL's by the floor of free bits; by twice a
    capacity, for its loss falls up to there before it rises. A KL of a quarter of that is below
    either, and says which.
    """
    charge = _Charge(found, at)
    every, first = slice(None), slice(0, 1)
    together, alone = (
        max(charge.lacking(DISTANT[0], units, number), 0.0)
        for units, number in ((every, latents), (first, 1))
    )
    each = latents > 1 and alone < 0.75 * together
    units, number = (first, 1) if each else (every, latents)
    first_less = less = alone if each else together
    # Not as far beyond it, where single precision has digits left.
    less = max(charge.lacking(charge.at_kl(2 * less / number), units, number), 0.0)
    # In parts of that KL: 0 if it is free, -1 if it is rewarded.
    charged = math.nan
    if less > least and math.isclose(less, first_less, rel_tol=0.3):
        charged = charge.rise(charge.at_kl(less / 4 / number), units) / (less / 4)
    for kind, part, times in (("free bits", 0.0, 1.0), ("capacity", -1.0, 2.0)):
        if abs(charged - part) <= 0.1:
            all_lack = latents * less if each else less
            if not _is_even(charge, 2 * less, (less, all_lack), latents, least):
                return found._replace(kind="group floors")
            over = "unit" if each else "all"
            return found._replace(kind=kind, floor=plain(less / times), floor_over=over)
    return _with_mask(charge, latents, least)


def _with_mask(charge: _Charge, latents: int, least: float) -> KLReading:
    """Return up to which floor nothing is charged, where beyond it all of the KL is.

    The gradients of such a mask are those of free bits.
    """
    found, every, first = charge.found, slice(None), slice(0, 1)
    free, all_of_it = 0.0, MOST_FREE
    for _ in range(40):
        nats = (free + all_of_it) / 2
        charged = charge.rise(charge.at_kl(nats), first)
        free, all_of_it = (free, nats) if charged > nats / 2 else (nats, all_of_it)
    in_full = charge.rise(charge.at_kl(free / 2), first) > TOLERANCE * free
    if in_full or not least < all_of_it < MOST_FREE:
        return found._replace(kind="other")
    if not _is_even(charge, 2 * all_of_it, (0.0, 0.0), latents, least):
        return found._replace(kind="group floors")
    each = latents == 1 or charge.rise(charge.at_kl(0.9 * free), every) <= TOLERANCE * free
    return found._replace(
        kind="free bits", floor=plain(all_of_it), floor_over="unit" if each else "all"
    )


def _is_even(
    charge: _Charge, nats: float, lack: tuple[float, float], latents: int, least: float
) -> bool:
    """Whether at a KL beyond the floor the first and last unit lack the same, and all that of all.

    Not of units or groups of them that have floors, weights or priors of their own.
    """
    there, (alone, together) = charge.at_kl(nats), lack
    whose = [(slice(0, 1), 1, alone), (slice(-1, None), 1, alone), (slice(None), latents, together)]
    return all(
        math.isclose(charge.lacking(there, units, number), expected, rel_tol=0.05, abs_tol=least)
        for units, number, expected in whose
    )


def _squared(at: Losses, latents: int) -> KLReading | None:
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

    together, alone = read(slice(None), latents), read(slice(0, 1), 1)
    if together is None or alone is None or together[1] < 0:
        return None
    each = latents > 1 and alone[1] < 0.75 * together[1]
    weight, capacity = alone if each else together
    return standard._replace(
        weight=plain(weight), floor=plain(capacity), floor_over="unit" if each else "all"
    )


def _kl(point: tuple[float, float], found: KLReading) -> float:
    mean, log_var = point
    square = (math.exp(log_var) + (mean - found.prior_mean) ** 2) / found.prior_std**2
    return 0.5 * (square - 1 - log_var) + math.log(found.prior_std)


def _of_units(found: KLReading, at: Losses, latents: int) -> KLReading:
    """Look whether units have priors or weights of their own."""

    def read(units: Any, number: int) -> KLReading:
        return _fit(at(NEAR, units), NEAR, number)

    few = (np.arange(0, latents, 2), np.arange(latents // 2), np.array([0]))
    parts = [read(units, len(units)) for units in few]
    same = all(math.isclose(part.weight, found.weight, rel_tol=0.01) for part in parts)
    if same or latents > MOST_APART:
        return found
    each = [read(slice(i, i + 1), 1) for i in range(latents)]
    weights = tuple(one.weight for one in each)
    # Beyond a floor of all together units cost what each alone does not.
    adds_up = math.isclose(sum(weights), latents * found.weight, rel_tol=0.05)
    if not adds_up or any(one.kind not in ("gaussian", "none") for one in each):
        return found._replace(kind="other")
    return found._replace(weight=min(weights), weights=weights)


def weighed_by(kl: KLReading, probe: Probe) -> WeighedBy:
    """Return what the KL's weight goes by."""
    y_hat, y = beside(probe)
    here, elsewhere = rise(kl, probe, y_hat, y), (times * y_hat for times in SCALES)
    if not any(abs(rise(kl, probe, other, y) - here) > ALIKE * abs(here) for other in elsewhere):
        return ""
    rows = min(probe.sizes.batch, ROWS)
    each = [rise(kl, probe, y_hat, y, row) for row in range(rows)]
    by_row = rows == 1 or np.ptp(each) > ALIKE * abs(np.mean(each))
    return "row's error" if by_row else "error"


def rise(
    kl: KLReading, probe: Probe, y_hat: Tensor, y: Tensor, rows: int | slice = slice(None)
) -> float:
    """Return what a large KL of some rows adds to the loss.

    NaN where rounding hides it, or the loss takes no such output or target.
    """
    away = np.full((probe.sizes.batch, probe.sizes.latents), kl.prior_mean)
    away[rows] += AWAY * kl.prior_std
    log_var = 2 * math.log(kl.prior_std)
    try:
        ends = np.array([probe.value(y_hat, y, at, log_var) for at in (kl.prior_mean, away)])
    except InvalidArgumentError:
        return math.nan
    added = float(ends[1] - ends[0])
    return added if abs(added) * ALIKE > 8 * rounding(ends) else math.nan
