"""From second moments to data modes: what a linear encoder can read and a decoder can write.

With A = E[xx'], B = E[yx'], the modes are the singular triplets of Z = B A^{+1/2} (theory section
0). For an autoencoder theta_i^2 are the eigenvalues of A; for a conditional model those of the
residual covariance E = E[yy'] - B A^+ B' (section 2).

Features may be measured in units as different as one likes. What of a matrix is rounding is
decided on correlations, so that a feature is not lost beside one of a variance 1e16 times its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg

from posterior_collapse.arrays import Float
from posterior_collapse.errors import DataError
from posterior_collapse.moments import Moments
from posterior_collapse.theory.state import fit
from posterior_collapse.theory.whitening import Whitening

EPS = float(np.finfo(float).eps)
LEAST_SHARE = 1e-10
"""Of the total variance: an eigenvalue routine has digits for features with more."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """Directions of the modes in the data space, one row per mode.

    Attributes:
        read: Rows that give each mode unit variance when applied to the encoder's input.
        write: Orthonormal rows along which the modes stand in the target.
        regression: K of E[y|x] = K x for a conditional model, else None.
        mean_in: Mean of the encoder's input (x; for a conditional model (x, y)).
        mean_out: Mean of the target.
    """

    read: Float
    write: Float
    regression: Float | None
    mean_in: Float
    mean_out: Float


@dataclass(frozen=True, eq=False)
class _Factor:
    """G, whose singular values are the modes' standard deviations.

    Attributes:
        rows: G, shape (modes, features of y).
        axes: Of a pair, what turns x into the white coordinates that G's rows belong to, shape
            (features of x, modes).
        hidden: Variance that a direction left out of G may have for all that rounding tells.
    """

    rows: Float
    axes: Float | None = None
    hidden: float = 0.0


@dataclass(frozen=True, eq=False)
class Modes:
    """Spectrum of the data as a linear VAE sees it.

    Attributes:
        conditional: Whether x is a condition that the decoder sees too.
        noise: For a likelihood that is not Gaussian, what the data were measured in.
    """

    moments: Moments
    conditional: bool = False
    noise: Whitening | None = None

    @cached_property
    def theta(self) -> Float:
        """Standard deviations of the modes, descending, in data units."""
        theta = self._stds_of_all
        if self.noise is not None:
            theta[self.noise.modes :] = 0.0
        return theta

    @property
    def _stds_of_all(self) -> Float:
        """Those of as many modes as there are features."""
        if self.is_plain:
            values = linalg.eigvalsh(self.moments.xx)[::-1]
            floor = max(_rounding(values), self.moments.rounding * float(values[0]))
            return np.sqrt(np.where(values > floor, values, 0.0))
        most = min(self.moments.features) if self._paired else len(self.moments.yy)
        return fit(linalg.svdvals(_triangle(self._factor.rows)[1]), most)

    @property
    def total(self) -> float:
        """Variance of the target (for a conditional model: of its residual), over features."""
        return self.outside + float(np.sum(self.theta**2))

    @cached_property
    def outside(self) -> float:
        """Variance of the target in no mode: what a linear read-out of x cannot tell of y.

        Of moments in single precision, also that of modes below their rounding: small each, not in
        sum.
        """
        moments = self.moments
        if not self._paired:
            lost = float(np.trace(moments.yy) - np.sum(self.theta**2)) if moments.rounding else 0.0
            return moments.unresolved + max(lost, 0.0)
        variances = moments.yy.diagonal()
        left = variances - np.square(self._factor.rows).sum(axis=0)
        rounding = variances * EPS * 8 * max(moments.yx.shape)
        return moments.unresolved + float(left[left > rounding].sum())

    @property
    def hidden(self) -> float:
        """Variance that further modes may have and rounding hide; 0 where none can be missing."""
        moments = self.moments
        wide = moments.bases[1] is not None
        samples = math.inf if moments.n is None else moments.n - moments.center
        varying = moments.features[1] if wide else np.count_nonzero(moments.yy.diagonal())
        most = varying if self.noise is None else self.noise.modes
        complete = np.count_nonzero(self.theta) >= min(samples, most)
        if complete or self._paired or moments.unresolved > 0:
            return 0.0
        rounding = float(self.theta[0] ** 2) * moments.rounding
        if not self.is_plain:
            return max(self._factor.hidden, rounding)
        size = moments.n + 1 if wide and moments.n else len(self.theta)
        return max(float(self.theta[0] ** 2 * size * EPS), rounding)

    @property
    def target_dim(self) -> int:
        """Number of features of the target."""
        return self.moments.features[1]

    @cached_property
    def rank(self) -> int:
        """Number of independent directions of the condition or input."""
        return len(self._whitener[1])

    @cached_property
    def vectors(self) -> Vectors:
        """Directions of the modes, in the data space."""
        moments = self.moments
        if self.is_plain:
            write = linalg.eigh(moments.xx)[1].T[::-1]
            read = _divided(write, self.theta)
        else:
            factor = self._factor
            left, triangle, order = _triangle(factor.rows)
            inner, stds, right = linalg.svd(triangle, full_matrices=False)
            write = np.empty_like(right)
            write[:, order] = right
            read = _divided(write, stds)
            if factor.axes is not None:
                read = (left @ inner).T @ factor.axes.T
        lift_x, lift_y = (basis.lift if basis else np.asarray for basis in moments.bases)
        return Vectors(
            read=lift_x(read) if self._paired else lift_y(read),
            write=lift_y(write),
            regression=lift_y(lift_x(self._regression).T).T if self.conditional else None,
            mean_in=lift_x(moments.mean_x[None])[0],
            mean_out=lift_y(moments.mean_y[None])[0],
        )

    def check_units(self, units: int) -> None:
        """Refuse more units than a randomised subspace resolved modes.

        Raises:
            DataError: Wide data of many samples, and more units than its resolved modes.
        """
        resolved = len(self.theta)
        if self.moments.unresolved > 0 and units > resolved:
            raise DataError(
                "latent units",
                units,
                f"at most {resolved}, the modes resolved of data this wide",
                "Use fewer units, or fewer samples.",
            )

    @property
    def _paired(self) -> bool:
        """Whether x is read and another y written; otherwise the modes are a covariance's."""
        return self.moments.paired and not self.conditional

    @cached_property
    def is_plain(self) -> bool:
        """Whether the eigenvalues of A itself have digits for every feature."""
        variances = self.moments.xx.diagonal()
        varying = variances[variances > 0]
        least = varying.min(initial=math.inf)
        return not self.moments.paired and bool(least >= LEAST_SHARE * varying.sum())

    @cached_property
    def _factor(self) -> _Factor:
        if self.conditional:
            return self._residual
        if not self.moments.paired:
            return _root(*_correlations(self.moments.xx))
        scale = _stds(self.moments.yy)
        white = self.moments.yx @ self._whitener[0] / self._whitener[1]
        left, stds, right = linalg.svd((white / scale[:, None]).T, full_matrices=False)
        keep = stds > stds.max(initial=0) * 1e-14
        axes = self._whitener[0] / self._whitener[1] @ left[:, keep]
        return _Factor(stds[keep, None] * right[keep] * scale, axes)

    @cached_property
    def _whitener(self) -> tuple[Float, Float]:
        """Directions of x that are uncorrelated, as columns, and their standard deviations."""
        matrix, scale = _correlations(self.moments.xx)
        if len(matrix) == 0:
            return np.zeros((0, 0)), np.zeros(0)
        values, vectors = linalg.eigh(matrix)
        keep = values > _rounding(values)
        return vectors[:, keep] / scale[:, None], np.sqrt(values[keep])

    @cached_property
    def _regression(self) -> Float:
        """K = B A^+."""
        directions, stds = self._whitener
        found: Float = self.moments.yx @ directions / stds**2 @ directions.T
        return found

    @cached_property
    def _residual(self) -> _Factor:
        """The factor of the residual covariance E = C - K B'."""
        moments = self.moments
        directions, stds = self._whitener
        y_scale, x_scale = _stds(moments.yy), _stds(moments.xx)
        both = y_scale[:, None] * x_scale
        half = moments.yx @ directions / stds / y_scale[:, None]
        c = moments.yy / y_scale / y_scale[:, None]
        residual = c - half @ half.T
        # Rounding of the moments, carried to first order through C - K B' - B K' + K A K'.
        size = linalg.norm(self._regression / y_scale[:, None] * x_scale) if both.size else 0.0
        noise = np.trace(c) + 2 * size * linalg.norm(moments.yx / both)
        noise += size**2 * linalg.norm(moments.xx / x_scale / x_scale[:, None])
        floor = float(noise * EPS * 4 * max(half.shape[0], self.rank))
        return _root((residual + residual.T) / 2, y_scale, floor)


def _stds(matrix: Float) -> Float:
    """Standard deviations of the features, 1 for those that do not vary."""
    variances = matrix.diagonal()
    return np.sqrt(np.where(variances > 0, variances, 1.0))


def _correlations(matrix: Float) -> tuple[Float, Float]:
    """Return the matrix with features of unit variance, and what they were divided by."""
    scale = _stds(matrix)
    return matrix / scale / scale[:, None], scale


def _rounding(values: npt.NDArray[np.floating[Any]]) -> float:
    """What an eigenvalue of a symmetric matrix must exceed to be no rounding error."""
    return float(values.max(initial=0.0)) * len(values) * EPS


def _root(matrix: Float, scale: Float, floor: float | None = None) -> _Factor:
    """Return the factor of a matrix given for features divided by `scale`, less its rounding."""
    values, vectors = linalg.eigh(matrix)
    floor = _rounding(values) if floor is None else floor
    keep = values > floor
    left_out = np.square(vectors[:, ~keep] * scale[:, None]).sum(axis=0)
    rows = (vectors[:, keep] * np.sqrt(values[keep])).T * scale
    return _Factor(rows, hidden=floor * float(left_out.max(initial=0.0)))


def _triangle(rows: Float) -> tuple[Float, Float, npt.NDArray[np.integer[Any]]]:
    """QR with pivots: with large features first, an SVD keeps the digits of the small ones."""
    left, triangle, order = linalg.qr(rows, mode="economic", pivoting=True)
    return np.asarray(left, np.float64), np.asarray(triangle, np.float64), order


def _divided(rows: Float, stds: Float) -> Float:
    """Each row over its std, or 0 where that is 0."""
    inverse = np.divide(1.0, stds, out=np.zeros_like(stds), where=stds > 0)
    found: Float = rows * inverse[:, None]
    return found
