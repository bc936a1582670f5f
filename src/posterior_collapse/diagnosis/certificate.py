"""The strongest variance that a decoder leaves unexplained, and in which parts of the data."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, eigsh

from posterior_collapse.arrays import Float
from posterior_collapse.diagnosis.results import LINEARLY
from posterior_collapse.diagnosis.scores import Floats, Kind, Noise
from posterior_collapse.diagnosis.statistics import Reservoir, Which
from posterior_collapse.errors import count_of
from posterior_collapse.theory import ACTIVE_INFORMATION
from posterior_collapse.theory.thresholds import SURE, variance_error

NUMBERS = 2**24
"""Numbers of residuals that are kept: 64 MiB in float32, and up to twice that while they come."""
LEAST_KEPT = 100
DENSE = 2048
"""Features up to which all eigenvalues are found, else the `FEW` largest."""
FEW = 8
LEAST_INFORMED = -math.expm1(-2 * ACTIVE_INFORMATION)
"""Share of a direction's variance that varies with x where it carries that information."""
NARROW = 128
"""Features up to which a dense routine is the fastest for one eigenvector too."""
LEAST_PART = 40
"""Rows that a part must have."""
KRYLOV, ROUGH = 6, 0.1
"""Vectors and tolerance by which a part's strongest direction is found: its variance is right to
the tolerance's square, which is less than its error, in a third of the products of an exact one."""
ROWS_PER_FEATURE = 2
"""Rows per feature of x from which x is regressed out."""
NUMBERS_OF_PARTS = (2, 4, 8, 16, 32)
"""That are tried."""
ROWS_OF_PARTS = 2500
"""Rows that tell where parts are, about; each row then belongs to the nearest."""
Input = Literal["all", "removed", "only"]


class Residual(NamedTuple):
    """What a decoder leaves of its targets, averaged over samples of the posterior.

    The covariance of `average` holds the noise of these samples; that of `difference` is just it.

    Attributes:
        average: Target less the decoder's mean, or the score of its distribution, (rows, paths,
            features).
        difference: Half the difference between the averages of two halves of the samples.
        curvature: With scores, that of `scores.Scored`, (rows, features).
    """

    average: Floats
    difference: Floats
    curvature: Floats | None = None


class Parts(NamedTuple):
    """The strongest variance in each part, arrays of one entry per part.

    Attributes:
        share: Of the rows.
        variance: Of the strongest direction, found on one half of the rows, measured on the other.
    """

    share: Float
    variance: Float
    error: Float


class Signal(NamedTuple):
    """Variances left unexplained, in squared units of what the level decodes.

    Attributes:
        variances: Of the strongest directions, descending; of scores in the noise that their
            likelihood tolerates, without unit.
        error: Standard error of the first.
        informed: Whether each direction varies with x, and not only with the noise injected
            below: there is none below level 1.
        parts: The strongest variance in each part of latent space, or of the inputs, for several
            numbers of parts.
    """

    variances: Float
    error: float
    informed: NDArray[np.bool_]
    notes: tuple[str, ...] = ()
    parts: tuple[Parts, ...] = ()


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
        classes: Of each position; none: features are numbers of their own.
        kind: Of the targets, if their scores are those of logits or log rates.
        expected: How many rows will come, if that is known.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        inputs: Input = "all",
        center: bool = True,
        *,
        classes: Sequence[int] = (),
        kind: Kind | None = None,
        expected: int | None = None,
    ) -> None:
        self._kept = Reservoir(rng, NUMBERS, least=LEAST_KEPT, expected=expected)
        self._inputs = inputs
        self._center = center
        self._classes, self._kind = classes, kind

    def choose(self, rows: int) -> Which:
        """Return which rows of the next batch are looked at: all, or those to call `add` with."""
        return self._kept.choose(rows)

    def add(self, residual: Residual, x: Float, places: Floats | None = None) -> None:
        """Take in a batch, or those of its rows that `choose` named.

        With inputs x, (rows, dim x), and perhaps places in latent space, (rows, units).
        """
        arrays = {"average": residual.average, "difference": residual.difference}
        if residual.curvature is not None:
            arrays["curvature"] = residual.curvature
        if self._inputs != "all":
            arrays["x"] = x
        if places is not None:
            arrays["places"] = places
        self._names = tuple(arrays)
        self._kept.keep(*(array.astype(np.float32, copy=False) for array in arrays.values()))

    def signal(
        self, scale: Float | None = None, least: float = 0.0, *, mixed: bool = False
    ) -> Signal:
        """Return what was found; NaN from fewer than 4 rows.

        Args:
            scale: Std of each unit by which places are as far apart as they differ, infinite for
                units that do not count; None, or none that counts: latent space is one part.
            least: Variance that counts: of weaker directions few are found, or none.
            mixed: Whether a decoder that sees x may use a unit differently for each.
        """
        kept = dict(zip(self._names, self._kept.rows(), strict=True))
        average, difference = kept["average"], kept["difference"]
        n = len(average)
        if n < 4:
            return Signal(np.full(1, math.nan), math.nan, np.ones(1, bool))
        noise = None
        if "curvature" in kept:
            noise = Noise(average[:, 0], kept["curvature"], self._classes, self._kind)
        if self._center:
            average = _centred(average, np.empty_like(average))
        notes: tuple[str, ...] = ()
        if "x" in kept:
            average, notes = self._regressed(average, kept["x"])
        if noise is not None:
            notes = (*notes, *noise.notes)
        rows = Rows(average, difference, kept.get("curvature"))
        whole = rows if noise is None else rows.white(noise)
        first, second = whole.halves(DENSE, least)
        found = [_across(first, second), _across(second, first)]
        count = min(len(values) for values, _, _ in found)
        variances = np.mean([values[:count] for values, _, _ in found], axis=0)
        order = np.argsort(-variances)
        informed = np.any([half.informed(len(order)) for half in (first, second)], axis=0)
        strongest = float(variances[order[0]])
        error = math.hypot(*(error for _, error, _ in found)) / 2
        # Where many directions are as strong as the first, all that is sure is that the truth
        # lies between the two halves: of a uniform law, 1/sqrt(12) is the standard deviation.
        gap = float(np.mean([gap for _, _, gap in found])) / math.sqrt(12)
        error = math.hypot(variance_error(strongest, error, n), gap)
        spaces = []
        if scale is not None and "places" in kept:
            spaces.append((kept["places"] / scale)[:, np.isfinite(scale)])
        if mixed and self._inputs == "removed":
            spread = kept["x"].std(0)
            spaces.append((kept["x"] / np.where(spread > 0, spread, np.inf))[:, spread > 0])
        parts: list[Parts] = []
        for places in spaces:
            # Every part in its turn lies here: memory that is new costs more than a copy.
            room = np.empty_like(average), np.empty_like(difference)
            for labels in partitions(places, LEAST_PART):
                parts.append(_of_parts(rows, noise, labels, room))
        return Signal(variances[order], error, informed[order], notes, tuple(parts))

    def _regressed(self, average: Floats, x: Floats) -> tuple[Floats, tuple[str, ...]]:
        n, dim = x.shape
        if self._inputs == "removed" and n < ROWS_PER_FEATURE * dim:
            return average, (
                f"{count_of(n, 'row')} {'is' if n == 1 else 'are'} too few to tell what the "
                f"{count_of(dim, 'feature')} of x predict{'s' * (dim == 1)} of the residual: the "
                "signal counts it all",
            )
        x = x - x.mean(0) if self._center else x
        flat = average.reshape(n, -1)
        predicted = x @ linalg.lstsq(x, flat, cond=1e-6)[0]
        if self._inputs == "only":
            return predicted.reshape(average.shape), (LINEARLY,)
        # A fit of as many features takes their share of what it cannot predict.
        scale = math.sqrt(n / (n - dim))
        return scale * (flat - predicted).reshape(average.shape), ()


class Rows(NamedTuple):
    """Residuals of rows, ready to be compared."""

    average: Floats
    difference: Floats
    curvature: Floats | None

    def white(self, noise: Noise, root: list[tuple[slice, Float]] | None = None) -> Rows:
        """In units of the noise that the likelihood tolerates, on all rows or by its `root`."""
        root = noise.root if root is None else root
        return Rows(
            noise.applied(root, self.average), noise.applied(root, self.difference), self.curvature
        )

    def taken(self, which: NDArray[np.intp], space: tuple[Floats, Floats]) -> Rows:
        """Some of the rows, copied to where there is space for them."""
        pairs = zip((self.average, self.difference), space, strict=True)
        # Clipped, as they are not first copied elsewhere lest one be out of range.
        average, difference = (
            part.take(which, 0, to[: len(which)], mode="clip") for part, to in pairs
        )
        curvature = None if self.curvature is None else self.curvature[which]
        return Rows(average, difference, curvature)

    def halves(self, dense: int, least: float = 0.0) -> list[_Covariance]:
        """Covariances of every second row and of the others; for the rest see `_Covariance`."""
        return [
            _Covariance(self.average[half::2], self.difference[half::2], dense, least)
            for half in (0, 1)
        ]


def _centred(average: Floats, out: Floats) -> Floats:
    """Rows about their mean, from which they vary less than from the true one."""
    np.subtract(average, average.mean((0, 1)), out=out)
    out *= math.sqrt(len(out) / (len(out) - 1))
    return out


def _of_parts(
    rows: Rows, noise: Noise | None, labels: NDArray[np.intp], space: tuple[Floats, Floats]
) -> Parts:
    """The strongest variance of each part; rows labelled -1 are of none that counts."""
    found = []
    for part in range(labels.max(initial=-1) + 1):
        of_part = rows.taken(np.flatnonzero(labels == part), space)
        n = len(of_part.average)
        if noise is not None and of_part.curvature is not None:
            of_part = of_part.white(noise, noise.inverse_root(of_part.curvature))
        _centred(of_part.average, of_part.average)  # which is a copy
        halves = of_part.halves(NARROW)
        # Each half of the rows along the other's strongest direction.
        along = [on.along(of.first) for of, on in (halves, halves[::-1])]
        values, errors = zip(*along, strict=True)
        variance = max(float(np.mean(values)), 0.0)
        # Unbiased rather than sure: over the parts errors average out, and so must their bias.
        error = max(math.hypot(*errors) / 2, variance * math.sqrt(2 / (n - 1)))
        found.append((n / len(labels), variance, error))
    return Parts(*np.array(found, dtype=np.float64).reshape(-1, 3).T)


def partitions(places: NDArray[Any], least: int) -> Iterator[NDArray[np.intp]]:
    """Yield labels of the rows for ever more parts, -1 for rows of parts that are too small.

    Places are (rows, units), with distances as they count. As many parts are tried as could have
    twice the least number of rows.
    """
    if places.shape[1] == 0:
        return
    # A second to import, which a diagnosis without parts is spared.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    step = max(1, len(places) // ROWS_OF_PARTS)
    for count in NUMBERS_OF_PARTS:
        if count * 2 * least > len(places):
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = KMeans(count, n_init=1, random_state=0).fit(places[::step])
            labels = found.predict(places)
        sizes = np.bincount(labels, minlength=count)
        if (sizes == 0).any():  # no more places than that
            return
        names = np.where(sizes >= least, np.cumsum(sizes >= least) - 1, -1)
        yield names[labels]


class _Covariance:
    """Cov(average) - Cov(difference) of some rows, (rows, paths, features) each, of mean 0.

    Up to `dense` features the matrix is computed; variances below `least` do not count.
    """

    def __init__(self, average: Floats, difference: Floats, dense: int, least: float) -> None:
        self._least = least
        self.rows, self.paths, self.features = average.shape
        self._parts = [part.reshape(-1, self.features) for part in (average, difference)]
        self._matrix: Float | None = None
        if self.features <= dense:
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
        """Eigenvalues, descending, and eigenvectors: all that may count, or the `FEW` largest."""
        if self._matrix is not None:
            # On both halves together a direction is hardly twice as strong as on one.
            above = (self._least / 2, np.inf) if self._least > 0 else None
            values, vectors = linalg.eigh(self._matrix, subset_by_value=above)
            if len(values) == 0:
                last = self.features - 1
                values, vectors = linalg.eigh(self._matrix, subset_by_index=(last, last))
        else:
            values, vectors = self._largest(FEW, tol=1e-4)
        return values[::-1], vectors[:, ::-1]

    @cached_property
    def first(self) -> Floats:
        """Eigenvector of the largest eigenvalue, found without the matrix where rows are few."""
        if self._matrix is not None:
            return np.asarray(self.strongest[1][:, 0])
        return np.asarray(self._largest(1, tol=ROUGH, ncv=KRYLOV)[1][:, 0])

    def _largest(self, count: int, **options: Any) -> tuple[Any, Any]:
        shape = (self.features, self.features)
        operator = LinearOperator(shape, matvec=self.times, dtype=np.float64)
        # A start of its own: the library's is random.
        start = np.ones(self.features)
        found: tuple[Any, Any] = eigsh(operator, k=count, which="LA", v0=start, **options)
        return found

    def along(self, direction: Floats) -> tuple[float, float]:
        """The variance along a direction, and its standard error."""
        a, d = (np.square(part @ direction.astype(part.dtype)) for part in self._parts)
        per_row = (a - d).reshape(self.rows, self.paths).mean(1, dtype=np.float64)
        return float(per_row.mean()), float(per_row.std()) / math.sqrt(self.rows)

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
        return np.asarray(products.mean(0) - SURE * error > LEAST_INFORMED * values)[:count]


def _across(of: _Covariance, on: _Covariance) -> tuple[Float, float, float]:
    """Variances along the directions of one half, the first's error, and how far halves differ."""
    own, directions = of.strongest
    other = (directions * on.times(directions)).sum(0)
    return (own + other) / 2, on.along(directions[:, 0])[1], float(abs(own[0] - other[0]))
