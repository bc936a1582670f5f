"""The certificate: the strongest variance left unexplained, and what one more unit must exceed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, eigsh

from posterior_collapse.diagnosis.results import LevelDiagnosis
from posterior_collapse.diagnosis.statistics import Reservoir
from posterior_collapse.specs import ChainSpec, HVAESpec, Spec
from posterior_collapse.theory import ACTIVE_INFORMATION, unclaimed_signal
from posterior_collapse.theory.thresholds import SURE, variance_error

__all__ = ["Residual", "Residuals", "Signal", "thresholds"]

Float = NDArray[np.float64]
Floats = NDArray[np.floating]

NUMBERS = 2**24
"""Numbers of residuals that are kept: 64 MiB in float32, and up to twice that while they come."""
LEAST_KEPT = 100
DENSE = 2048
"""Features up to which all eigenvalues are found, else the `FEW` largest."""
FEW = 8
LEAST_INFORMED = -math.expm1(-2 * ACTIVE_INFORMATION)
"""Share of a direction's variance that varies with x where it carries that information."""
ROWS_PER_FEATURE = 2
"""Rows per feature of x from which x is regressed out."""

Input = Literal["all", "removed", "only"]


class Residual(NamedTuple):
    """What a decoder leaves of its targets, averaged over samples of the posterior.

    The covariance of `average` holds the noise of these samples; that of `difference` is just it.

    Attributes:
        average: Target less the decoder's mean, (rows, paths, features).
        difference: Half the difference between the averages of two halves of the samples.
    """

    average: Float
    difference: Float


class Signal(NamedTuple):
    """Variances left unexplained, in squared units of what the level decodes.

    Attributes:
        variances: Of the strongest directions, descending.
        error: Standard error of the first.
        informed: Whether each direction varies with x, and not only with the noise injected
            below: there is none below level 1.
        notes: What was left out.
    """

    variances: Float
    error: float
    informed: NDArray[np.bool_]
    notes: tuple[str, ...] = ()


class Residuals:
    """Collects the residuals of one level and finds their strongest directions.

    A covariance of few rows shows directions stronger than there are. Each half of the rows gives
    directions whose variance is too large on itself and, by as much to first order, too small on
    the other half: the mean of the two is returned.

    Args:
        rng: Chooses the rows that are kept.
        inputs: What of the residual counts: all that an encoder of y can read; what x does not
            predict ("removed"), where the decoder sees x; or what x predicts ("only"), where the
            encoder sees x alone.
        center: Whether the model has biases.
    """

    def __init__(
        self, rng: np.random.Generator, inputs: Input = "all", center: bool = True
    ) -> None:
        self._kept = Reservoir(rng, NUMBERS, least=LEAST_KEPT)
        self._inputs = inputs
        self._center = center

    def add(self, residual: Residual, x: Float) -> None:
        """Take in a batch, with its inputs (rows, dim x)."""
        arrays = [*residual, *([x] if self._inputs != "all" else [])]
        self._kept.add(*(array.astype(np.float32) for array in arrays))

    def signal(self) -> Signal:
        """Return what was found; NaN from fewer than 4 rows."""
        average, difference, *inputs = self._kept.rows()
        n = len(average)
        if n < 4:
            return Signal(np.full(1, math.nan), math.nan, np.ones(1, bool))
        if self._center:
            # Rows vary less about their own mean than about the true one.
            average = (average - average.mean((0, 1))) * math.sqrt(n / (n - 1))
        notes: tuple[str, ...] = ()
        if inputs:
            average, notes = self._regressed(average, inputs[0])
        first, second = (_Covariance(average[k::2], difference[k::2]) for k in (0, 1))
        found = [_across(first, second), _across(second, first)]
        variances = np.mean([values for values, _, _ in found], axis=0)
        order = np.argsort(-variances)
        informed = np.any([half.informed(len(order)) for half in (first, second)], axis=0)
        strongest = float(variances[order[0]])
        error = math.hypot(*(error for _, error, _ in found)) / 2
        # Where many directions are as strong as the first, all that is sure is that the truth
        # lies between the two halves: of a uniform law, 1/sqrt(12) is the standard deviation.
        gap = float(np.mean([gap for _, _, gap in found])) / math.sqrt(12)
        error = math.hypot(variance_error(strongest, error, n), gap)
        return Signal(variances[order], error, informed[order], notes)

    def _regressed(self, average: Floats, x: Floats) -> tuple[Floats, tuple[str, ...]]:
        n, dim = x.shape
        if self._inputs == "removed" and n < ROWS_PER_FEATURE * dim:
            return average, (
                f"{n:,} rows are too few to tell what the {dim:,} features of x predict of the "
                "residual: the signal counts it all",
            )
        x = x - x.mean(0) if self._center else x
        flat = average.reshape(n, -1)
        predicted = x @ linalg.lstsq(x, flat, cond=1e-6)[0]
        if self._inputs == "only":
            return predicted.reshape(average.shape), ()
        # A fit of as many features takes their share of what it cannot predict.
        scale = math.sqrt(n / (n - dim))
        return scale * (flat - predicted).reshape(average.shape), ()


class _Covariance:
    """Cov(average) - Cov(difference) of some rows."""

    def __init__(self, average: Floats, difference: Floats) -> None:
        self.rows, self.paths, self.features = average.shape
        self._parts = [part.reshape(-1, self.features) for part in (average, difference)]
        self._matrix: Float | None = None
        if self.features <= DENSE:
            a, d = self._parts
            self._matrix = (a.T @ a - d.T @ d).astype(np.float64) / len(a)

    def times(self, vectors: Floats) -> Floats:
        """The product with (features,) or (features, vectors)."""
        if self._matrix is not None:
            return self._matrix @ vectors
        a, d = self._parts
        vectors = vectors.astype(a.dtype)
        return np.asarray((a.T @ (a @ vectors) - d.T @ (d @ vectors)) / len(a))

    @cached_property
    def strongest(self) -> tuple[Float, Floats]:
        """Eigenvalues, descending, and eigenvectors: all, or the `FEW` largest."""
        if self._matrix is not None:
            values, vectors = linalg.eigh(self._matrix)
        else:
            shape = (self.features, self.features)
            operator = LinearOperator(shape, matvec=self.times, dtype=np.float64)
            # A start of its own: the library's is random.
            start = np.ones(self.features)
            values, vectors = eigsh(operator, k=FEW, which="LA", v0=start, tol=1e-4)
        return values[::-1], vectors[:, ::-1]

    def error(self, direction: Floats) -> float:
        """Standard error of the variance along a direction."""
        a, d = (np.square(part @ direction.astype(part.dtype)) for part in self._parts)
        per_row = (a - d).reshape(self.rows, self.paths).mean(1)
        return float(per_row.std()) / math.sqrt(self.rows)

    def informed(self, count: int) -> NDArray[np.bool_]:
        """Whether the strongest directions vary with the row, beyond error, or only by path."""
        if self.paths == 1:
            return np.ones(count, bool)
        values, directions = self.strongest
        along = (self._parts[0] @ directions).reshape(self.rows, self.paths, -1)
        # The products of different paths hold no noise of a path.
        pairs = along.sum(1) ** 2 - np.square(along).sum(1)
        products = pairs / (self.paths * (self.paths - 1))
        error = products.std(0) / math.sqrt(self.rows)
        return np.asarray(products.mean(0) - SURE * error > LEAST_INFORMED * values)


def _across(of: _Covariance, on: _Covariance) -> tuple[Float, float, float]:
    """Variances along the directions of one half, the first's error, and how far halves differ."""
    own, directions = of.strongest
    other = (directions * on.times(directions)).sum(0)
    return (own + other) / 2, on.error(directions[:, 0]), float(abs(own[0] - other[0]))


Levels = Sequence[LevelDiagnosis]


def thresholds(spec: Spec, levels: Levels, eta_dec: float | None) -> tuple[float, ...]:
    """Return per level the variance that one more unit must exceed.

    Where the fixed sigma differs from unit to unit, the unit is the collapsed one with the
    smallest; none collapsed: the smallest of all.

    Args:
        spec: The hyperparameters.
        levels: Says which units are spare, here and in the level above.
        eta_dec: Decoder std, where the spec learns it.
    """
    return tuple(
        _threshold(_for_spare_units(spec, levels, number), levels, number, eta_dec)
        for number in range(1, len(levels) + 1)
    )


def _threshold(spec: Spec, levels: Levels, number: int, eta_dec: float | None) -> float:
    on = sum(status != "collapsed" for status in levels[number - 1].status)
    # The level above encodes at most as many units as it has.
    spare = number < len(levels) and spec.dims[number] > on
    return 1 / unclaimed_signal(spec, 1.0, level=number, eta_dec=eta_dec, spare_above=spare)


def _for_spare_units(spec: Spec, levels: Levels, number: int) -> Spec:
    sigma = spec.sigma_levels[number - 1]
    if not isinstance(sigma, tuple):
        return spec
    spare = [s for s, u in zip(sigma, levels[number - 1].status, strict=True) if u == "collapsed"]
    changes: dict[str, Any] = {"sigma": min(spare or sigma)}
    if isinstance(spec, HVAESpec):
        changes = {f"sigma_{number}": changes["sigma"]}
    elif isinstance(spec, ChainSpec):
        sigmas = list(spec.sigma_levels)
        sigmas[number - 1] = changes["sigma"]
        changes = {"sigmas": sigmas}
    return spec.replace(**changes)
