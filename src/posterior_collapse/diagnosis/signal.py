"""The certificate's signal: the strongest variance that a level's decoder leaves unexplained."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, eigsh

from posterior_collapse.diagnosis.streams import Reservoir

__all__ = ["Residual", "Residuals", "Signal"]

Float = NDArray[np.float64]
Floats = NDArray[np.floating]

NUMBERS = 2**24
"""Numbers of residuals that are kept: 64 MiB in float32, and up to twice that while they come."""
LEAST_ROWS = 100
DENSE = 2048
"""Features up to which all eigenvalues are found, else the `FEW` largest."""
FEW = 8
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
        notes: What was left out.
    """

    variances: Float
    error: float
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
        self._kept = Reservoir(rng, NUMBERS, least=LEAST_ROWS)
        self._inputs = inputs
        self._center = center

    def add(self, residual: Residual, x: Float) -> None:
        """Take in a batch, with its inputs (rows, dim x)."""
        arrays = [*residual, *([x] if self._inputs != "all" else [])]
        self._kept.add(*(array.astype(np.float32) for array in arrays))

    def signal(self) -> Signal:
        """Return what was found; NaN from fewer than 4 rows."""
        average, difference, *inputs = self._kept.rows()
        if len(average) < 4:
            return Signal(np.full(1, math.nan), math.nan)
        if self._center:
            average = average - average.mean((0, 1))
        notes: tuple[str, ...] = ()
        if inputs:
            average, notes = self._regressed(average, inputs[0])
        halves = [
            (average[part], difference[part]) for part in (slice(0, None, 2), slice(1, None, 2))
        ]
        found = [_across(*halves), _across(*halves[::-1])]
        variances = np.mean([v for v, _, _ in found], axis=0)
        gap = float(np.mean([g for _, _, g in found]))
        error = math.hypot(*(e for _, e, _ in found)) / 2
        return Signal(np.sort(variances)[::-1], math.hypot(error, gap / 4), notes)

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


def _across(of: tuple[Floats, Floats], on: tuple[Floats, Floats]) -> tuple[Float, float, float]:
    """Variances along the directions of one half, less first-order bias; the first's error, gap."""
    own, directions = _strongest(*of)
    average, difference = (part @ directions for part in on)
    rows = (np.square(average, dtype=np.float64) - np.square(difference, dtype=np.float64)).mean(1)
    other = rows.mean(0)
    error = float(rows[:, 0].std() / math.sqrt(len(rows)))
    return (own + other) / 2, error, float(abs(own[0] - other[0]))


def _strongest(average: Floats, difference: Floats) -> tuple[Float, Floats]:
    """Eigenvalues, descending, and eigenvectors of Cov(average) - Cov(difference)."""
    a, d = (part.reshape(-1, part.shape[-1]) for part in (average, difference))
    n, features = a.shape
    if features <= max(DENSE, FEW + 1):
        covariance = (a.T @ a - d.T @ d).astype(np.float64) / n
        values, vectors = linalg.eigh(covariance)
        return values[::-1], vectors[:, ::-1]

    def product(v: Floats) -> Floats:
        return (a.T @ (a @ v) - d.T @ (d @ v)) / n

    operator = LinearOperator((features, features), matvec=product, dtype=np.float64)
    start = np.ones(features)
    values, vectors = eigsh(operator, k=FEW, which="LA", v0=start, tol=1e-4)
    return values[::-1], vectors[:, ::-1]
