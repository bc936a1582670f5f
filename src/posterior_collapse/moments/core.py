"""`Moments`: sample count, means and second moments of inputs and targets, in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from scipy import linalg

from posterior_collapse import checks
from posterior_collapse.arrays import Array, Float, as_samples, is_lazy, refuse_non_finite
from posterior_collapse.data.samples import Samples, Stream, as_pair, read
from posterior_collapse.errors import DataError, InvalidArgumentError, NotSolvedError, count_of
from posterior_collapse.moments import wide
from posterior_collapse.moments.accumulate import Accumulator, Precision, of_blocks

LEAST_VARIANCE = 1e-300
"""Smaller ones are squares that a float64 holds with few digits, or none."""


@dataclass(frozen=True, eq=False, repr=False)
class Moments:
    """What the theory needs of the data: means and second moments of (x, y).

    Make one with `from_arrays`, `from_batches` or `from_matrices`; add two with ``+``.

    Attributes:
        n: Number of samples; None where it is not known.
        mean: Joint mean of (x, y), in the coordinates of the matrices.
        cov: Joint central second moment of (x, y), normalised by n.
        split: Number of x coordinates in `mean` and `cov`.
        paired: Whether a target y was given; if not, y is x.
        center: True for a model with biases (central moments), False for one without (raw).
        features: Numbers of features (d_x, d_y) of the data themselves.
        unresolved: Variance of y, summed over features, that lies outside the matrices.
        bases: For wide data, the orthonormal bases of x's and y's coordinates, else None.
        rounding: Error of an entry of the matrices, as a share of the largest variance; 0: that of
            float64.
        measured: Whether samples were; of matrices the means are not known, and shown as 0.
    """

    n: int | None
    mean: Float
    cov: Float
    split: int
    paired: bool
    center: bool
    features: tuple[int, int]
    unresolved: float = 0.0
    bases: tuple[wide.Basis | None, wide.Basis | None] = (None, None)
    rounding: float = 0.0
    measured: bool = True

    @classmethod
    def from_arrays(
        cls,
        x: Any,
        y: Any = None,
        *,
        center: bool = True,
        scale: float = 1.0,
        precision: Precision = "float64",
    ) -> Moments:
        """Measure arrays of any real dtype, memory maps or dask arrays, chunk by chunk.

        Beyond 8,192 features the matrices are taken in the row space of the data (exact), and
        where samples are as many, in a randomised top-256 subspace whose tail is known from
        the trace.

        Args:
            x: Inputs, shape (samples, d_x) or (samples, ...) for images; the condition of a
                conditional model. Without y, of any kind that `forecast` takes.
            y: Targets, shape (samples, d_y); None means y = x, an autoencoder.
            center: Central moments, for models with biases; False for raw ones.
            scale: Factor applied to all values, e.g. ``1 / 255`` for 8-bit images.
            precision: Of the products; "float32" halves the time of float32 data, and `rounding`
                says what that costs. 8-bit integers are summed exactly either way, and pairs in
                float64, since a regression divides by the smallest variances of x.

        Raises:
            DataError: No real numbers, NaN or infinite, a single sample, all values constant,
                or different numbers of samples.

        Example:
            >>> m = Moments.from_arrays([[0, 1], [2, 1], [4, 4]])
            >>> m
            Moments(n=3, x: 2 features, y = x, centred, total variance 4.667)
        """
        found = read(x) if y is None else as_pair(x, y, None)
        return cls.of(found, center=center, scale=scale, precision=precision)

    @classmethod
    def from_batches(
        cls,
        batches: Iterable[Any],
        *,
        center: bool = True,
        scale: float = 1.0,
        precision: Precision = "float64",
    ) -> Moments:
        """Measure an iterable of batches, each an array x or a pair (x, y), in one pass.

        Args:
            batches: Arrays of shape (samples, d_x) or pairs of them; a data loader will do.
            center: As in `from_arrays`.
            scale: As in `from_arrays`.
            precision: As in `from_arrays`.

        Raises:
            DataError: As in `from_arrays`; no batch; batches that do not fit together.

        Example:
            >>> x = np.arange(12.0).reshape(6, 2) ** 2
            >>> whole, parts = Moments.from_arrays(x), Moments.from_batches([x[:2], x[2:]])
            >>> bool(np.allclose(whole.xx, parts.xx))
            True
        """
        passing = Stream(batches, lambda size, seed: iter(batches), None)
        return cls.of(passing, center=center, scale=scale, precision=precision)

    @classmethod
    def of(
        cls,
        data: Samples | Stream,
        *,
        center: bool = True,
        scale: float = 1.0,
        precision: Precision = "float64",
        compact: bool = False,
    ) -> Moments:
        """Measure what `data.samples.read` made of data; see `from_arrays` and `from_batches`.

        Compact moments are in the row space of the data wherever these have few rows, not only
        beyond the features that fit: nobody then sees the matrices, or adds to them.
        """
        center = checks.flag("center", center)
        real = isinstance(scale, (int, float, np.number)) and not np.iscomplexobj(scale)
        if not (real and np.isfinite(scale) and scale != 0):
            wanted = "a finite factor that is not 0"
            raise InvalidArgumentError("scale", repr(scale), wanted, "Pass e.g. scale=1/255.")
        checks.one_of("precision", precision, get_args(Precision), "Leave it out.")
        if not isinstance(data, (Samples, Stream)):
            got, wanted = f"a {type(data).__name__}", "what data.samples.read returns"
            raise DataError("data", got, wanted, "Call Moments.from_arrays or .from_batches.")
        if isinstance(data, Stream):
            found = cls._of_stream(data, center, precision)
        else:
            found = cls._of_rows(_named(data.x, data.y), center, precision, compact)
        return found._rescaled(float(scale))

    @classmethod
    def _of_rows(
        cls, rows: dict[str, Array], center: bool, precision: Precision, compact: bool = False
    ) -> Moments:
        names, arrays = tuple(rows), list(rows.values())
        widths = [array.shape[1] for array in arrays]
        paired, lazy = len(arrays) == 2, any(map(is_lazy, arrays))
        if paired:
            precision = "float64"
        most = wide.most_features(len(arrays[0])) if compact and not lazy else wide.MAX_FEATURES
        if max(widths) <= most:
            if lazy:
                joint = of_blocks(names, arrays, precision)
            else:
                joint = Accumulator.empty(sum(widths))
                joint.update(names, arrays, precision=precision)
            return cls.of_joint(joint, widths, center)
        if lazy:
            raise DataError(
                " and ".join(names), f"dask arrays of {widths} features",
                f"at most {wide.MAX_FEATURES} features", "Pass x.compute(), or a memory map.",
            )  # fmt: skip
        return cls(
            n=len(arrays[0]),
            paired=paired,
            center=center,
            features=(widths[0], widths[-1]),
            **wide.reduce(names, arrays, precision, most)._asdict(),
        )

    @classmethod
    def of_joint(cls, joint: Accumulator, widths: list[int], center: bool) -> Moments:
        """Return what was accumulated of x, or of x and y side by side, of these widths."""
        return cls(
            joint.n,
            joint.mean,
            joint.cov,
            split=widths[0],
            paired=len(widths) == 2,
            center=center,
            features=(widths[0], widths[-1]),
            rounding=joint.rounding,
        )

    @classmethod
    def _of_stream(cls, data: Stream, center: bool, precision: Precision) -> Moments:
        joint: Accumulator | None = None
        wide_parts: list[list[Array]] = []
        names: tuple[str, ...] = ()
        row, widths = 0, [0]
        for pair in data.batches():
            rows = _named(*pair)
            names, arrays = tuple(rows), list(rows.values())
            widths = [array.shape[1] for array in arrays]
            if max(widths) > wide.MAX_FEATURES:
                wide.refuse_many(row + len(arrays[0]))
                wide_parts.append([np.array(a) for a in arrays])  # loaders may reuse their buffers
            else:
                joint = joint or Accumulator.empty(sum(widths))
                alone = precision if len(arrays) == 1 else "float64"
                joint.update(names, arrays, row=row, precision=alone)
            row += len(arrays[0])
        if wide_parts:
            whole = [np.concatenate(side) for side in zip(*wide_parts, strict=True)]
            return cls._of_rows(dict(zip(names, whole, strict=True)), center, precision)
        if joint is None:
            raise DataError("batches", "no batch", "at least one batch", "Check the loader.")
        return cls.of_joint(joint, widths, center)

    @classmethod
    def from_matrices(
        cls, xx: Any, yx: Any = None, yy: Any = None, *, n: int | None = None
    ) -> Moments:
        """Take second moments as they are (central or raw: they decide which model is meant).

        Args:
            xx: E[x x'], shape (d_x, d_x).
            yx: E[y x'], shape (d_y, d_x); None means y = x.
            yy: E[y y'], shape (d_y, d_y); needed with `yx`.
            n: Number of samples behind them, if known.

        Raises:
            DataError: Shapes that do not fit, or not a joint second-moment matrix.

        Example:
            >>> Moments.from_matrices(np.diag([4.0, 1.0])).total_variance
            5.0
        """
        n = None if n is None else checks.whole("n", n, least=1)
        xx = _as_second_moment("xx", xx)
        if (yx is None) != (yy is None):
            raise DataError("yx and yy", "only one of them", "both or none", "Pass both.")
        joint, features = xx, (len(xx), len(xx))
        if yx is not None:
            yx, yy = _as_second_moment("yx", yx), _as_second_moment("yy", yy)
            features = (len(xx), len(yy))
            if yx.shape != (len(yy), len(xx)):
                raise DataError(
                    "yx", f"shape {yx.shape}", f"{(len(yy), len(xx))}", "Pass E[y x'], d_y x d_x."
                )
            joint = np.block([[xx, yx.T], [yx, yy]])
        _check_second_moments(joint)
        means, paired = np.zeros(len(joint)), yx is not None
        return cls(n, means, joint, len(xx), paired, True, features, measured=False)

    def __add__(self, other: Moments) -> Moments:
        """Moments of both groups of samples together.

        Raises:
            DataError: Different features or centring, made from matrices, or of wide data.
            InvalidArgumentError: No moments.
        """
        if not isinstance(other, Moments):
            raise InvalidArgumentError(
                "moments", f"a sum with a {type(other).__name__}", "Moments on both sides",
                "Measure the rows first, with Moments.from_arrays.",
            )  # fmt: skip
        narrow = self.bases == other.bases == (None, None)
        if not (narrow and self.measured and other.measured and self.n and other.n):
            raise DataError(
                "moments", "a sum with moments of matrices or of wide data",
                "moments of samples with at most 8,192 features",
                "Measure all rows in one call of Moments.from_arrays or from_batches.",
            )  # fmt: skip
        mine, theirs = ((m.features, m.paired, m.center) for m in (self, other))
        if mine != theirs:
            raise DataError(
                "moments", f"{other!r}", f"the same features as {self!r}", "Measure them alike."
            )
        total = Accumulator.of(self.n, self.mean, self.cov, self.rounding)
        total.merge(Accumulator.of(other.n, other.mean, other.cov, other.rounding))
        return dataclasses.replace(
            self, n=total.n, mean=total.mean, cov=total.cov, rounding=total.rounding
        )

    def __radd__(self, other: Any) -> Moments:
        """Moments alone where `sum` starts from 0."""
        return self if isinstance(other, int) and other == 0 else self + other

    def __repr__(self) -> str:
        d_x, d_y = self.features
        target = f"y: {count_of(d_y, 'feature')}" if self.paired else "y = x"
        of = f"{target}, {'centred' if self.center else 'raw'}"
        total = f"total variance {self.total_variance:.4g}"
        return f"Moments(n={self.n}, x: {count_of(d_x, 'feature')}, {of}, {total})"

    @property
    def xx(self) -> Float:
        """E[x x'] (central if `center`), shape (d_x, d_x); in coordinates for wide data."""
        return self._second(slice(None, self.split), slice(None, self.split))

    @property
    def yx(self) -> Float:
        """E[y x'], shape (d_y, d_x); equal to `xx` for an autoencoder."""
        return self._second(self._y, slice(None, self.split))

    @property
    def yy(self) -> Float:
        """E[y y'], shape (d_y, d_y); equal to `xx` for an autoencoder."""
        return self._second(self._y, self._y)

    @property
    def mean_x(self) -> Float:
        """Mean of x, in the coordinates of `xx`."""
        return self.mean[: self.split]

    @property
    def mean_y(self) -> Float:
        """Mean of y, in the coordinates of `yy`."""
        return self.mean[self._y]

    @property
    def total_variance(self) -> float:
        """Second moment of y summed over features, unresolved tail included."""
        return float(np.trace(self.yy)) + self.unresolved

    def with_center(self, center: bool) -> Moments:
        """Return the same samples' central (True) or raw (False) moments."""
        return dataclasses.replace(self, center=center)

    @property
    def feature_means(self) -> Float:
        """Mean of each feature of y, shape (d_y,), whatever the coordinates."""
        basis = self.bases[1]
        return self.mean_y if basis is None else basis.lift(self.mean_y[None])[0]

    @property
    def feature_variances(self) -> Float:
        """Central variance of each feature of y, shape (d_y,); without the unresolved tail."""
        basis, central = self.bases[1], self.cov[self._y, self._y]
        return central.diagonal() if basis is None else basis.variances(central)

    def divided(self, by: Float) -> Moments:
        """Return the moments with each feature of y divided by its own number.

        Args:
            by: Shape (d_y,); infinity for features that are to drop out.

        Raises:
            NotSolvedError: Wide data of many samples, of whose tail only the trace is known.
        """
        if self.unresolved > 0:
            raise NotSolvedError(
                "data",
                f"{self.features[1]} features of {self.n} samples, of which a subspace was kept",
                "the whole covariance, to divide each feature by its own noise",
                f"Pass at most {wide.MAX_FEATURES} features or {wide.MAX_SAMPLES} samples.",
            )
        basis = self.bases[1]
        if basis is None:
            scale = np.ones(len(self.mean))
            scale[self._y] = 1 / by
            cov = self.cov * scale * scale[:, None]
            return dataclasses.replace(self, mean=self.mean * scale, cov=cov)
        change, divided = basis.divided(by)
        if self.paired:
            split, basis_x = self.split, self.bases[0]
            change = linalg.block_diag(np.eye(split), change)
        else:
            split, basis_x = change.shape[1], divided
        return dataclasses.replace(
            self,
            mean=self.mean @ change,
            cov=change.T @ self.cov @ change,
            split=split,
            bases=(basis_x, divided),
        )

    def with_constant_input(self) -> Moments:
        """Return raw moments with a constant 1 added to x: an encoder bias as one more input."""
        at = self.split
        basis_x, basis_y = self.bases
        return dataclasses.replace(
            self,
            mean=np.insert(self.mean, at, 1.0),
            cov=np.insert(np.insert(self.cov, at, 0.0, axis=0), at, 0.0, axis=1),
            split=at + 1,
            features=(self.features[0] + 1, self.features[1]),
            center=False,
            bases=(basis_x and dataclasses.replace(basis_x, constant=True), basis_y),
        )

    @property
    def _y(self) -> slice:
        return slice(self.split, None) if self.paired else slice(None)

    def _second(self, rows: slice, columns: slice) -> Float:
        block = self.cov[rows, columns]
        return block if self.center else block + np.outer(self.mean[rows], self.mean[columns])

    def _rescaled(self, scale: float) -> Moments:
        """These moments of data that are multiplied by a factor; refuse what has no variance."""
        if self.n is not None and self.n < 2:
            raise DataError("x", "a single sample", "at least two samples", "Pass more rows.")
        with np.errstate(over="ignore"):
            mean, square = self.mean * scale, float(np.square(scale))
            cov = self.cov if scale == 1.0 else self.cov * square
            fits = np.isfinite(np.square(mean).sum() + np.trace(cov))
        if not fits:
            wanted = "a factor whose products with the data have squares within floats"
            raise InvalidArgumentError("scale", scale, wanted, "Pass a smaller one.")
        if np.trace(cov[self._y, self._y]) < LEAST_VARIANCE:
            raise DataError(
                "y" if self.paired else "x",
                "data that are all constant, or vary by less than 1e-150",
                "some variance",
                "Check what was loaded, or rescale it.",
            )
        tail = self.unresolved * square
        return dataclasses.replace(self, mean=mean, cov=cov, unresolved=tail)


def _named(x: Any, y: Any) -> dict[str, Array]:
    """Return the rows of x, or of x and y."""
    parts = {"x": x} if y is None else {"x": x, "y": y}
    return {n: as_samples(n, p, empty_ok=y is not None)[0] for n, p in parts.items()}


def _as_second_moment(name: str, value: Any) -> Float:
    matrix, _ = as_samples(name, value)
    refuse_non_finite(name, matrix)
    if name != "yx" and matrix.shape[0] != matrix.shape[1]:
        raise DataError(
            name, f"shape {matrix.shape}", "a square matrix", "Pass second moments, not samples."
        )
    return np.array(matrix, np.float64)


def _check_second_moments(joint: Float) -> None:
    size = np.abs(joint).max(initial=0.0)
    if np.abs(joint - joint.T).max(initial=0.0) > 1e-8 * size:
        raise DataError("xx, yx, yy", "an asymmetric matrix", "symmetric ones", "Symmetrise them.")
    if size == 0 or np.linalg.eigvalsh(joint)[0] < -1e-8 * size * len(joint):
        raise DataError(
            "xx, yx, yy", "a matrix with a negative eigenvalue" if size else "zeros",
            "a joint second-moment matrix", "Compute all three from the same samples.",
        )  # fmt: skip
