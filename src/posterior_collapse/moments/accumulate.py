"""Streaming mean and central second moments of the joint features (x, y), in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import blas

from posterior_collapse.arrays import (
    Array,
    Float,
    chunks,
    refuse_non_finite,
    refuse_overflow,
)


@dataclass
class Accumulator:
    """Sample count, mean and scatter (sum of central outer products) of what it has seen.

    Groups of samples are combined by the pairwise update of Chan, Golub and LeVeque (1983),
    whose error does not grow with the mean of the data. Only the upper triangle of the scatter
    is kept up to date, in Fortran order, which is how BLAS adds to a symmetric matrix in place.
    """

    n: int
    mean: Float
    upper: Float

    @classmethod
    def empty(cls, width: int) -> Accumulator:
        """Return an accumulator that has seen no sample of `width` joint features."""
        return cls(0, np.zeros(width), np.zeros((width, width), order="F"))

    @classmethod
    def of(cls, n: int, mean: Float, cov: Float) -> Accumulator:
        """Return an accumulator that has seen `n` samples of that mean and covariance."""
        return cls(n, mean, np.multiply(cov, n, order="F"))

    @property
    def cov(self) -> Float:
        """Covariance normalised by n, both triangles."""
        cov = np.triu(self.upper)
        cov /= self.n
        cov += np.triu(cov, 1).T
        return cov

    def update(self, names: tuple[str, ...], arrays: list[Array], row: int = 0) -> None:
        """Add the rows of all `arrays` side by side, a chunk at a time.

        Args:
            names: What to call each array in an error.
            arrays: Arrays with the same number of rows.
            row: Number of the first row, for errors.

        Raises:
            DataError: A value is not finite, or too large to be squared.
        """
        buffer = np.empty((0, len(self.mean)))
        for start, parts in chunks(*arrays):
            rows = len(parts[0])
            if len(buffer) < rows:
                buffer = np.empty((rows, len(self.mean)))
            joint = buffer[:rows]
            column = 0
            for part in parts:
                joint[:, column : column + part.shape[1]] = part
                column += part.shape[1]
            with np.errstate(invalid="ignore", over="ignore"):
                shift = self._add(joint)
            if not np.isfinite(shift).all():
                for name, part in zip(names, parts, strict=True):
                    refuse_non_finite(name, part, row + start)
            if not np.isfinite(self.upper.trace()):
                for name, part in zip(names, parts, strict=True):
                    refuse_overflow(name, part)

    def merge(self, other: Accumulator) -> None:
        """Add all that `other` has seen."""
        if other.n == 0:
            return
        n = self.n + other.n
        shift = other.mean - self.mean
        self.upper += other.upper
        if self.n:
            blas.dsyr(self.n * other.n / n, shift, a=self.upper, overwrite_a=1)
        self.mean = self.mean + shift * (other.n / n)
        self.n = n

    def _add(self, joint: Float) -> Float:
        """Add rows, overwriting them; return their mean relative to the mean so far."""
        rows = len(joint)
        n = self.n + rows
        if joint.size == 0:  # BLAS takes no empty matrices
            self.n = n
            return self.mean
        if self.n == 0:
            # Relative to a row, constant features come out as exactly 0.
            self.mean = joint[0].copy()
        joint -= self.mean
        # All products from one BLAS: two of them, each with its own threads, slow each other.
        shift: Float = blas.dgemv(1.0 / rows, joint.T, np.ones(rows))
        # Rows less this multiple of their mean hold the scatter within them, and, by
        # rows (1 - factor)^2 = n_before rows / n, also that between them and those before.
        joint -= shift * (1.0 - np.sqrt(self.n / n))
        blas.dsyrk(1.0, joint.T, beta=1.0, c=self.upper, overwrite_c=1)
        self.mean = self.mean + shift * (rows / n)
        self.n = n
        return shift
