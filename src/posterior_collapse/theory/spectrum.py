"""From second moments to data modes: what a linear encoder can read and a decoder can write.

With A = E[xx'], B = E[yx'], the modes are the singular triplets of Z = B A^{+1/2} (theory section
0). For an autoencoder theta_i^2 are the eigenvalues of A; for a conditional model those of the
residual covariance E = E[yy'] - B A^+ B' (section 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg

from posterior_collapse.errors import DataError, InvalidArgumentError
from posterior_collapse.moments import Moments
from posterior_collapse.moments.arrays import Float
from posterior_collapse.specs import Spec, require_gaussian

__all__ = ["Modes", "Vectors", "as_moments"]


def as_moments(data: Moments | Any, spec: Spec) -> Moments:
    """Return the moments of `data`, checked to be what the model of `spec` needs.

    Raises:
        InvalidArgumentError: `spec` is not a spec.
        NotSolvedError: Its likelihood is not Gaussian.
        DataError: The data cannot be used, or a conditional model has no condition.
    """
    if not isinstance(spec, Spec):
        raise InvalidArgumentError(
            "spec", type(spec).__name__, "a VAESpec, CVAESpec, HVAESpec or ChainSpec", "Pass one."
        )
    require_gaussian(spec)
    moments = data if isinstance(data, Moments) else Moments.from_arrays(data)
    if spec.model == "cvae" and not moments.paired:
        raise DataError(
            "data",
            "no target y",
            "a condition x and a target y for a conditional model",
            "Pass Moments.from_arrays(x, y).",
        )
    return moments


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
class Modes:
    """Spectrum of the data as a linear VAE sees it.

    Attributes:
        moments: Where the modes come from.
        conditional: Whether x is a condition that the decoder sees too.
    """

    moments: Moments
    conditional: bool = False

    @cached_property
    def theta(self) -> Float:
        """Standard deviations of the modes, descending, in data units."""
        if self.conditional or not self.moments.paired:
            matrix = self._residual[0] if self.conditional else self.moments.xx
            return np.sqrt(_significant(linalg.eigvalsh(matrix)[::-1]))
        values = linalg.svdvals(self._whitened[0])
        return _pad(values * (values > values.max(initial=0) * 1e-14), min(self.moments.features))

    @property
    def total(self) -> float:
        """Variance of the target (for a conditional model: of its residual), over features."""
        return self.outside + float(np.sum(self.theta**2))

    @property
    def outside(self) -> float:
        """Variance of the target in no mode: what a linear read-out of x cannot tell of y."""
        moments = self.moments
        if self.conditional or not moments.paired:
            return moments.unresolved
        left = moments.total_variance - float(np.sum(self.theta**2))
        rounding = moments.total_variance * np.finfo(float).eps * 8 * max(moments.yx.shape)
        return left if left > rounding else 0.0

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
        basis_x, basis_y = moments.bases
        theta, regression = self.theta, None
        if self.conditional or not moments.paired:
            matrix = self._residual[0] if self.conditional else moments.xx
            write = linalg.eigh(matrix)[1].T[::-1]
            inverse = np.divide(1.0, theta, out=np.zeros_like(theta), where=theta > 0)
            read = write * inverse[:, None]
        else:
            half, directions, root = self._whitened
            left, _, right = linalg.svd(half, full_matrices=False)
            read = (right / root) @ directions.T
            write = left.T
        mean_in, mean_out = moments.mean_x, moments.mean_y
        if self.conditional:
            regression = self._residual[1]
        if basis_x is not None:
            mean_in = basis_x.lift(mean_in[None])[0]
            if regression is not None:
                regression = basis_x.lift(regression)
            elif moments.paired:
                read = basis_x.lift(read)
        if basis_y is not None:
            mean_out = basis_y.lift(mean_out[None])[0]
            write = basis_y.lift(write)
            if self.conditional or not moments.paired:
                read = basis_y.lift(read)
            if regression is not None:
                regression = basis_y.lift(regression.T).T
        return Vectors(read, write, regression, mean_in, mean_out)

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

    @cached_property
    def _whitener(self) -> tuple[Float, Float]:
        """Eigenvectors of A with nonzero eigenvalue, and the roots of these eigenvalues."""
        a = self.moments.xx
        if len(a) == 0:
            return np.zeros((0, 0)), np.zeros(0)
        values, vectors = linalg.eigh(a)
        keep = values > values[-1] * len(values) * np.finfo(float).eps
        return vectors[:, keep], np.sqrt(values[keep])

    @cached_property
    def _whitened(self) -> tuple[Float, Float, Float]:
        directions, root = self._whitener
        return self.moments.yx @ directions / root, directions, root

    @cached_property
    def _residual(self) -> tuple[Float, Float]:
        """Residual covariance E and regression K = B A^+."""
        half, directions, root = self._whitened
        moments = self.moments
        regression = (half / root) @ directions.T
        residual = moments.yy - half @ half.T
        values, vectors = linalg.eigh((residual + residual.T) / 2)
        # Rounding of the moments, carried to first order through C - K B' - B K' + K A K'.
        size = linalg.norm(regression) if regression.size else 0.0
        scale = np.trace(moments.yy) + 2 * size * linalg.norm(moments.yx)
        scale += size**2 * linalg.norm(moments.xx)
        floor = scale * np.finfo(float).eps * 4 * max(half.shape[0], self.rank)
        values = np.where(values > floor, values, 0.0)
        return (vectors * values) @ vectors.T, regression


def _significant(values: npt.NDArray[np.floating[Any]]) -> Float:
    """Set to zero what is below the rounding error of a symmetric eigenproblem."""
    floor = values.max(initial=0.0) * len(values) * np.finfo(float).eps
    return np.where(values > floor, values, 0.0)


def _pad(values: Float, length: int) -> Float:
    """Cut or extend by zeros to `length`."""
    return np.concatenate([values, np.zeros(max(0, length - len(values)))])[:length]
