"""Streaming mean and central second moments of the joint features (x, y), kept in float64.

Products are taken in float64; for 8-bit integers exactly (`Integers`), and for float32 data, where
that was asked for, in float32: both take half the time.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from scipy.linalg import blas

from posterior_collapse.arrays import Array, Float, chunks, is_lazy, refuse_non_finite
from posterior_collapse.moments.integers import Integers
from posterior_collapse.moments.single import (
    FAR,
    ROUNDING,
    Group,
    coarse,
    is_single,
    rows_at_once,
)

Precision = Literal["float64", "float32"]

CLEAR = 50
"""How many times the rounding of a product in float32 a threshold has to be, so that a variance is
surely on one side of it or the other."""
MOST_PENDING = 64
"""Groups whose means wait for the one product that adds what lies between them."""


class Accumulator:
    """Sample count, mean and scatter (sum of central outer products) of what it has seen.

    Groups of samples are combined by the pairwise update of Chan, Golub and LeVeque (1983),
    whose error does not grow with the mean of the data. Only the upper triangle of the scatter
    is kept up to date, in Fortran order, which is how BLAS adds to a symmetric matrix in place.
    Rows of float32 products are gathered, over batches of any size, until a product pays.

    Attributes:
        rounding: Error of an entry of `cov`, as a share of the largest; 0: that of float64.
        limit: Variance along one direction up to which float32 products are precise enough. Groups
            that may vary more are multiplied in float64, and all that follow where the first was.
    """

    def __init__(self, n: int, mean: Float, upper: Float, rounding: float = 0.0) -> None:
        self.rounding = rounding
        self.limit = np.inf
        self._raw: list[tuple[tuple[str, ...], list[Array], int]] = []  # of a group with a limit
        self._n, self._mean, self._upper = n, mean, upper
        self._integers: Integers | None = None
        self._group: Group | None = None
        # Per group: its sum and mean about its shift, and its mean's way from those before.
        self._pending: list[tuple[Float, Float, Float]] = []

    @classmethod
    def empty(cls, width: int) -> Accumulator:
        """Return an accumulator that has seen no sample of `width` joint features."""
        return cls(0, np.zeros(width), np.zeros((width, width), order="F"))

    @classmethod
    def of(cls, n: int, mean: Float, cov: Float, rounding: float = 0.0) -> Accumulator:
        """Return an accumulator that has seen `n` samples of that mean and covariance."""
        return cls(n, mean, np.multiply(cov, n, order="F"), rounding)

    @property
    def n(self) -> int:
        """Number of samples."""
        waiting = self._integers.n if self._integers else 0
        return self._n + waiting + (self._group.filled if self._group else 0)

    @property
    def mean(self) -> Float:
        """Mean of each feature."""
        self._settle()
        return self._mean

    @property
    def upper(self) -> Float:
        """Scatter, in its upper triangle."""
        self._settle()
        return self._upper

    @property
    def cov(self) -> Float:
        """Covariance normalised by n, both triangles."""
        cov = np.triu(self.upper)
        cov /= self._n
        for i in range(1, len(cov)):  # no further matrix
            cov[i, :i] = cov[:i, i]
        return cov

    def update(
        self,
        names: tuple[str, ...],
        arrays: list[Array],
        row: int = 0,
        precision: Precision = "float64",
    ) -> None:
        """Add the rows of all arrays side by side, a chunk at a time; errors count from `row`.

        Products are "float32" for data that are float32 themselves.
        """
        dtypes = [array.dtype for array in arrays]
        exact = all(dtype in (np.uint8, np.int8) for dtype in dtypes)
        single = precision == "float32" and all(map(is_single, dtypes)) and self.limit > 0
        if not (exact or single) or 0 in (len(self._mean), len(arrays[0])):
            self._settle()
            self._add_in_double(names, arrays, row)
        elif exact:
            if self._integers is None or self._integers.dtypes != dtypes:
                self._settle()
                products = np.zeros_like(self._upper) if self._n else self._upper
                self._integers = Integers(dtypes, [a.shape[1] for a in arrays], products)
            for _, parts in chunks(*arrays):
                self._integers.add(parts)
        else:
            rows = rows_at_once(len(self._mean))
            if self.n == 0:  # perhaps all that will come
                rows = min(rows, len(arrays[0]))
            if self._group is None:
                self._settle()
                self._group = Group(len(self._mean))
            if self._group.capacity < rows:
                self._flush(self._group)
                self._group.enlarge(rows)
            if self.limit == np.inf:  # else each product is asked
                self.rounding = ROUNDING
            for start, parts in chunks(*arrays):
                self._gather(self._group, names, parts, row + start)

    def merge(self, other: Accumulator) -> None:
        """Add all that `other` has seen."""
        upper = other.upper  # settles it
        if other.n == 0:
            return
        self._settle()
        n = self._n + other.n
        shift = other.mean - self._mean
        self._upper += upper
        if self._n:
            blas.dsyr(self._n * other.n / n, shift, a=self._upper, overwrite_a=1)
        self._mean = self._mean + shift * (other.n / n)
        self._n = n
        self.rounding = max(self.rounding, other.rounding)

    def copy(self) -> Accumulator:
        """Return one that has seen the same, with nothing left to add."""
        return Accumulator(self.n, self.mean, self.upper.copy(order="F"), self.rounding)

    def _add_in_double(self, names: tuple[str, ...], arrays: list[Array], row: int) -> None:
        buffer = np.empty((0, len(self._mean)))
        for start, parts in chunks(*arrays):
            rows = len(parts[0])
            if len(buffer) < rows:
                buffer = np.empty((rows, len(self._mean)))
            joint = buffer[:rows]
            column = 0
            for part in parts:
                joint[:, column : column + part.shape[1]] = part
                column += part.shape[1]
            with np.errstate(invalid="ignore", over="ignore"):
                shift = self._add(joint)
            if not (np.isfinite(shift).all() and np.isfinite(self._upper.trace())):
                for name, part in zip(names, parts, strict=True):
                    refuse_non_finite(name, part, row + start)

    def _add(self, joint: Float) -> Float:
        """Add rows, overwriting them; return their mean relative to the mean so far."""
        rows = len(joint)
        n = self._n + rows
        if joint.size == 0:  # BLAS takes no empty matrices
            self._n = n
            return self._mean
        if self._n == 0:
            # Relative to a row, constant features come out as exactly 0.
            self._mean = joint[0].copy()
        joint -= self._mean
        # All products from one BLAS: two of them, each with its own threads, slow each other.
        shift: Float = blas.dgemv(1.0 / rows, joint.T, np.ones(rows))
        # Rows less this multiple of their mean hold the scatter within them, and, by
        # rows (1 - factor)^2 = n_before rows / n, also that between them and those before.
        joint -= shift * (1.0 - np.sqrt(self._n / n))
        blas.dsyrk(1.0, joint.T, beta=1.0, c=self._upper, overwrite_c=1)
        self._mean = self._mean + shift * (rows / n)
        self._n = n
        return shift

    def _gather(self, group: Group, names: tuple[str, ...], parts: list[Array], row: int) -> None:
        done, rows = 0, len(parts[0])
        while done < rows:
            if group.filled == group.capacity:
                self._flush(group)
            if group.filled == 0:
                group.begin(self._near(group, np.concatenate([part[done] for part in parts])))
            some = [part[done : done + group.room] for part in parts]
            if not group.add(some):
                for name, part in zip(names, some, strict=True):
                    refuse_non_finite(name, part, row + done)
                # Finite numbers whose difference a float32 does not hold.
                self._flush(group)
                self._add_in_double(names, some, row + done)
            elif self.limit < np.inf:
                self._raw.append((names, some, row + done))
            done += len(some[0])

    def _near(self, group: Group, row: Array) -> Array:
        """Return what is near the rows to come: a row of them, or where it is far off the mean.

        Relative to a row, or to the mean of such, constants come out as exactly 0; relative to a
        row also what is constant for a while, as the margins of images are.
        """
        if self._n == 0:
            return row
        variance = self._upper.diagonal() / self._n
        # Nor further than all vary on average, which would have the whole group shifted anew.
        far = np.square(row - self._mean) > FAR * np.minimum(variance, variance.mean())
        return np.where(far & ~group.two, coarse(self._mean, variance), row)

    def _flush(self, group: Group) -> None:
        """Add the gathered rows, and begin anew."""
        rows = group.filled
        if rows == 0:
            return
        if group.is_far():
            group.recentre()
        offset = group.sums / rows
        vary, product = group.product()
        raw, self._raw = self._raw, []
        if raw and not _most(product / rows, offset[vary]) <= self.limit:
            group.filled = 0
            self.limit = self.limit if self._n else 0.0
            for part in raw:
                self._add_in_double(*part)
            return
        self.rounding = ROUNDING
        self._upper[vary, vary] += product.T  # in the same order in memory
        mean = group.shift + offset
        n = self._n + rows
        way = mean - self._mean if self._n else np.zeros_like(mean)
        self._mean = self._mean + way * (rows / n) if self._n else mean
        self._pending.append((group.sums.copy(), offset, way * np.sqrt(self._n * rows / n)))
        self._n = n
        group.filled = 0
        if len(self._pending) == MOST_PENDING:
            self._fold()

    def _fold(self) -> None:
        """Add what lies between the groups, and take off what their shifts left."""
        sums, offsets, ways = (np.array(part) for part in zip(*self._pending, strict=True))
        self._pending = []
        self._upper -= (offsets.T @ sums).T
        self._upper += (ways.T @ ways).T

    def _settle(self) -> None:
        if self._integers is not None:
            found, self._integers = Accumulator(*self._integers.total()), None
            if self._n:
                self.merge(found)
            else:
                self._n, self._mean, self._upper = found._n, found._mean, found._upper
        if self._group is not None:
            self._flush(self._group)
            self._group = None
        if self._pending:
            self._fold()


def _most(second: Array, offset: Float) -> float:
    """Root of the sum of all squared covariances, which no variance exceeds.

    The second moments are about some point; the mean lies off it by `offset`.
    """
    squares = np.vdot(second, second) - 2 * offset @ (second @ offset) + (offset @ offset) ** 2
    return math.sqrt(max(float(squares), 0.0))


def of_blocks(names: tuple[str, ...], arrays: list[Array], precision: Precision) -> Accumulator:
    """Return what an `Accumulator` saw of dask arrays: each block where it lies, merged pairwise.

    One may be of NumPy; see `Accumulator.update`.
    """
    from dask import array as da
    from dask.delayed import delayed

    lazy: list[Any] = [a if is_lazy(a) else da.asarray(np.asarray(a)) for a in arrays]  # type: ignore[no-untyped-call]
    heights = lazy[0].chunks[0]
    starts = np.concatenate([[0], np.cumsum(heights)[:-1]]).astype(int)
    columns = [a.rechunk({0: heights, 1: -1}).to_delayed().ravel() for a in lazy]
    parts = [
        delayed(_of_block)(names, int(start), precision, *blocks)
        for start, *blocks in zip(starts, *columns, strict=True)
    ]
    while len(parts) > 1:
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [delayed(_sum)(*p) if len(p) == 2 else p[0] for p in pairs]
    found: Accumulator = parts[0].compute()
    return found


def _of_block(
    names: tuple[str, ...], start: int, precision: Precision, *blocks: Any
) -> Accumulator:
    part = Accumulator.empty(sum(block.shape[1] for block in blocks))
    part.update(names, [np.asarray(block) for block in blocks], row=start, precision=precision)
    return part.copy()


def _sum(one: Accumulator, two: Accumulator) -> Accumulator:
    total = one.copy()
    total.merge(two)
    return total
