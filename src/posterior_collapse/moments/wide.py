"""Moments of data with more features than fit a d x d matrix.

Few samples: all the data lie in the span of n rows, so coordinates in an orthonormal basis of
that span (from the n x n Gram matrix) carry every second moment exactly. Many samples: a
randomised subspace (Halko, Martinsson and Tropp 2011) found in one pass and measured in a second.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg
from scipy.linalg import blas

from posterior_collapse.arrays import (
    CHUNK_BYTES,
    Array,
    Float,
    chunks,
    refuse_non_finite,
    refuse_overflow,
)
from posterior_collapse.errors import DataError
from posterior_collapse.moments.accumulate import Accumulator, Precision
from posterior_collapse.moments.single import LEAST_SQUARES, ROUNDING, is_single

MAX_FEATURES = 8192
"""Most features for which a d x d matrix is made."""
MAX_SAMPLES = 8192
"""Most samples for which an n x n matrix is made."""
FEW_FEATURES = 512
"""Up to which a d x d matrix costs next to nothing, however few the samples are."""
RANK = 256
"""Modes resolved when both are exceeded."""
OVERSAMPLING = 32
NOISE = 1e-7
"""Share of the largest eigenvalue that a product in float32 makes of nothing."""


@dataclass(frozen=True, eq=False)
class Basis:
    """Orthonormal rows spanning the coordinates: ``weights @ (rows - center)``, or dense rows.

    With `constant` a 1 is one more coordinate and feature. `shares` are the features' parts of the
    total variance, where they were measured.
    """

    rows: Array
    weights: Float | None = None
    center: Float | None = None
    extra: Float | None = None
    constant: bool = False
    divisor: Float | None = None
    shares: Float | None = None

    def lift(self, coordinates: Float) -> Float:
        """Return vectors of the data space, shape (k, d), from coordinates, shape (k, r)."""
        if self.constant:
            plain = dataclasses.replace(self, constant=False)
            return np.hstack([plain.lift(coordinates[:, :-1]), coordinates[:, -1:]])
        lifted = np.empty((len(coordinates), self.rows.shape[1]))
        for columns, part in self._lifted(coordinates):
            lifted[:, columns] = part
        return lifted

    def variances(self, cov: Float) -> Float:
        """Return the variance of each feature, (d,), of a covariance in coordinates, (r, r)."""
        if self.shares is not None:  # lifting takes longer than all else
            return self.shares * float(np.trace(cov))
        values, vectors = linalg.eigh(cov)
        found = np.empty(self.rows.shape[1])
        for columns, part in self._lifted(vectors.T):
            found[columns] = np.maximum(values, 0) @ np.square(part)
        return found

    def divided(self, by: Float) -> tuple[Float, Basis]:
        """Return the basis of the features divided by `by`, (d,), and what turns coordinates.

        Returns:
            A matrix, (r, r'), that turns the old coordinates (in rows) into the new ones; and the
            new basis.
        """
        size = len(self.rows) if self.weights is None else len(self.weights)
        shares = None if self.shares is None else self.shares / by**2
        scaled = dataclasses.replace(
            self,
            divisor=by if self.divisor is None else self.divisor * by,
            shares=None if shares is None else shares / shares.sum(),
        )
        gram = np.zeros((size, size))
        for _, part in scaled._lifted(np.eye(size)):
            gram += part @ part.T
        values, vectors = linalg.eigh(gram)
        keep = values > values[-1] * size * np.finfo(float).eps
        root, vectors = np.sqrt(values[keep]), vectors[:, keep]
        back = (vectors / root).T
        if self.weights is None:
            return vectors * root, dataclasses.replace(scaled, rows=back @ self.rows)
        return vectors * root, dataclasses.replace(scaled, weights=back @ self.weights)

    def _lifted(self, coordinates: Float) -> Iterator[tuple[slice, Float]]:
        """Yield vectors of the data space, a few features at a time."""
        n = len(self.rows)
        weights = coordinates if self.weights is None else coordinates @ self.weights
        for columns in _column_chunks(self.rows):
            part = self.rows[:, columns].astype(np.float64)
            if self.center is not None:
                part -= self.center[columns]
            part = weights[:, :n] @ part
            if self.extra is not None:
                part += np.outer(weights[:, n], self.extra[columns])
            yield columns, part if self.divisor is None else part / self.divisor[columns]


class Reduced(NamedTuple):
    """Joint mean and covariance in coordinates, and the bases these refer to; see `Moments`."""

    mean: Float
    cov: Float
    split: int
    unresolved: float
    bases: tuple[Basis | None, Basis | None]
    rounding: float = 0.0


def most_features(samples: int) -> int:
    """Return the features up to which their matrix is handier than the row space of few samples.

    Example:
        >>> most_features(150), most_features(2000), most_features(100_000)
        (512, 4000, 8192)
    """
    return min(MAX_FEATURES, max(FEW_FEATURES, 2 * samples))


def reduce(names: tuple[str, ...], arrays: list[Array], precision: Precision, most: int) -> Reduced:
    """Return the moments of `arrays` ((x,) or (x, y)), one of more than `most` features."""
    if len(arrays[0]) > MAX_SAMPLES:
        if len(arrays) == 2:
            raise DataError(
                "x and y",
                f"{len(arrays[0])} samples of {[a.shape[1] for a in arrays]} features",
                f"at most {MAX_FEATURES} features each, or at most {MAX_SAMPLES} samples",
                "Select features or subsample.",
            )
        return _sketch(names[0], arrays[0])
    single = precision == "float32" and all(is_single(array.dtype) for array in arrays)
    coordinates: list[Float] = []
    means: list[Float] = []
    bases: list[Basis | None] = []
    for name, array in zip(names, arrays, strict=True):
        if array.shape[1] > most:
            central, mean, basis = _row_space(name, array, np.float32 if single else np.float64)
            bases.append(basis)
        else:
            part = Accumulator.empty(array.shape[1])
            part.update((name,), [array])
            central, mean = np.asarray(array) - part.mean, part.mean
            bases.append(None)
        coordinates.append(central)
        means.append(mean)
    joint = np.hstack(coordinates)
    first, last = bases[0], bases[-1]
    cov = joint.T @ joint / len(joint)
    split, rounding = coordinates[0].shape[1], ROUNDING if single else 0.0
    return Reduced(np.concatenate(means), cov, split, 0.0, (first, last), rounding)


def refuse_many(samples: int) -> None:
    """Refuse wide batches of more samples than the Gram route takes, before they pile up."""
    if samples > MAX_SAMPLES:
        raise DataError(
            "batches",
            f"more than {MAX_SAMPLES} samples of more than {MAX_FEATURES} features",
            "an array that can be read twice",
            "Pass a memory map to Moments.from_arrays.",
        )


def _column_chunks(array: Array, itemsize: int = 8) -> Iterable[slice]:
    width = max(64, CHUNK_BYTES // (itemsize * len(array)))
    return (slice(i, i + width) for i in range(0, array.shape[1], width))


def _row_space(
    name: str, array: Array, dtype: type[np.floating[Any]]
) -> tuple[Float, Float, Basis]:
    """Coordinates of central rows, shape (n, r), and of the mean, in the span of both."""
    n, single = len(array), dtype is np.float32
    gram = np.zeros((n + 1, n + 1), order="F")
    center, shares = np.empty(array.shape[1]), np.empty(array.shape[1])
    for columns in _column_chunks(array, np.dtype(dtype).itemsize):
        center[columns], shares[columns] = _add_columns(
            gram, name, array[:, columns], columns.start, dtype
        )
    if single and not LEAST_SQUARES < gram.trace() < np.inf:
        return _row_space(name, array, np.float64)
    if not np.isfinite(gram.trace()):
        refuse_overflow(name, array)
    length = np.sqrt(gram[n, n])
    # The mean joins the span as a row about as long as the others, whatever its own length.
    weight = np.sqrt(gram.diagonal()[:n].mean()) / length if length > 0 else 0.0
    gram[:, n] *= weight
    gram[n, n] *= weight
    values, vectors = linalg.eigh(gram, lower=False, overwrite_a=True)
    keep = values > values[-1] * (NOISE if single else (n + 1) * np.finfo(float).eps)
    root = np.sqrt(values[keep])
    points = vectors[:, keep] * root
    shares /= shares.sum() or 1.0
    weights = (vectors[:, keep] / root).T
    basis = Basis(array, weights, center, center * weight, shares=shares)
    return points[:n], points[n] / weight if weight else np.zeros(len(root)), basis


def _add_columns(
    gram: Float, name: str, part: Array, column: int, dtype: type[np.floating[Any]]
) -> tuple[Float, Float]:
    """Add the inner products of central rows, and of the mean below them.

    The mean of each column is returned, and the sum of squares about it.
    """
    rows = np.empty((len(gram), part.shape[1]), dtype)
    mean = _centre(name, part, rows[:-1], 0, column)
    rows[-1] = mean
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if dtype is np.float32:
            gram += np.matmul(rows, rows.T).T  # in the same order in memory
        else:
            blas.dsyrk(1.0, rows.T, trans=1, beta=1.0, c=gram, overwrite_c=1)
        return mean, np.einsum("ij,ij->j", rows[:-1], rows[:-1])


def _centre(name: str, part: Array, out: Array, row: int, column: int) -> Float:
    """Put `part` of an array less its mean over rows into `out`; return that mean.

    `row` and `column` are those of the part's first one, for errors.
    """
    out[:] = part
    first = out[0].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        # Relative to a row, constant features come out as exactly 0.
        out -= first
        mean = out.mean(axis=0, dtype=np.float64)
        out -= mean
    if not np.isfinite(mean).all():
        refuse_non_finite(name, part, row, column)
    return np.asarray(first + mean)


def _sketch(name: str, array: Array) -> Reduced:
    d = array.shape[1]
    probe = np.random.default_rng(0).standard_normal((d, RANK + OVERSAMPLING)) / np.sqrt(d)
    image, mean, n, variance = np.zeros_like(probe), np.zeros(d), 0, 0.0
    for start, (rows,) in chunks(array):
        block = np.empty(rows.shape)
        local = _centre(name, rows, block, start, 0)
        shift = local - mean
        weight = n * len(block) / (n + len(block))
        with np.errstate(invalid="ignore", over="ignore"):
            image += block.T @ (block @ probe) + np.outer(shift * weight, shift @ probe)
            variance += float(np.vdot(block, block) + weight * (shift @ shift))
        n += len(block)
        mean += shift * (len(block) / n)
    if not np.isfinite(variance):
        refuse_overflow(name, array)
    lengths = np.linalg.norm(image, axis=0)
    span = np.column_stack([image / np.where(lengths > 0, lengths, 1.0), mean])
    q = linalg.qr(span, mode="economic", overwrite_a=True)[0]
    part = Accumulator.empty(q.shape[1])
    for _, (rows,) in chunks(array):
        part.update((name,), [(rows - mean) @ q])
    basis = Basis(np.ascontiguousarray(q.T))
    unresolved = variance / n - float(part.cov.trace())
    if unresolved < 1e-12 * variance / n:  # rounding: all the data lie in the subspace
        unresolved = 0.0
    return Reduced(mean @ q, part.cov, q.shape[1], unresolved, (basis, basis))
