"""Streaming mean and central second moments of the joint features (x, y), in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from posterior_collapse.moments.arrays import Array, Float, chunks, refuse_non_finite


@dataclass
class Accumulator:
    """Sample count, mean and scatter (sum of central outer products) of what it has seen.

    Groups of samples are combined by the pairwise update of Chan, Golub and LeVeque (1983),
    whose error does not grow with the mean of the data.
    """

    n: int
    mean: Float
    scatter: Float

    @classmethod
    def empty(cls, width: int) -> Accumulator:
        """Return an accumulator that has seen no sample of `width` joint features."""
        return cls(0, np.zeros(width), np.zeros((width, width)))

    def update(self, names: tuple[str, ...], arrays: list[Array], row: int = 0) -> None:
        """Add the rows of all `arrays` side by side, a chunk at a time.

        Args:
            names: What to call each array in an error.
            arrays: Arrays with the same number of rows.
            row: Number of the first row, for errors.

        Raises:
            DataError: A value is not finite.
        """
        buffer = np.empty((0, len(self.mean)))
        for start, parts in chunks(*arrays):
            rows = parts[0].shape[0]
            if len(buffer) < rows:
                buffer = np.empty((rows, len(self.mean)))
            joint = buffer[:rows]
            column = 0
            for part in parts:
                joint[:, column : column + part.shape[1]] = part
                column += part.shape[1]
            with np.errstate(invalid="ignore", over="ignore"):
                mean = joint.mean(axis=0)
                if not np.isfinite(mean).all():
                    for name, part in zip(names, parts, strict=True):
                        refuse_non_finite(name, part, row + start)
                joint -= mean
                self.merge(Accumulator(rows, mean, joint.T @ joint))
            if not np.isfinite(self.scatter.trace()):
                for name, part in zip(names, parts, strict=True):
                    refuse_non_finite(name, part, row + start)

    def merge(self, other: Accumulator) -> None:
        """Add all that `other` has seen."""
        n = self.n + other.n
        if other.n == 0:
            return
        shift = other.mean - self.mean
        self.scatter += other.scatter
        if self.n:
            self.scatter += np.outer(shift, shift * (self.n * other.n / n))
        self.mean = self.mean + shift * (other.n / n)
        self.n = n
