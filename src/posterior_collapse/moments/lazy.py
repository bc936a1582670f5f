"""Moments of dask arrays: each block of rows where it lies, merged pairwise."""

from __future__ import annotations

from typing import Any

import numpy as np

from posterior_collapse.arrays import Array, is_lazy
from posterior_collapse.errors import DataError
from posterior_collapse.moments import wide
from posterior_collapse.moments.accumulate import Accumulator, Precision


def measure(
    names: tuple[str, ...], arrays: list[Array], precision: Precision = "float64"
) -> tuple[Accumulator, int]:
    """Return what an `Accumulator` saw of x, or x and y, and the number of features of x.

    Args:
        names: What to call each array in an error.
        arrays: Of dask, chunked in any way, or one of NumPy, with the same number of rows.
        precision: Of the products, "float32" for data that are no more precise.

    Raises:
        DataError: As for arrays, and when a d x d matrix would not fit.
    """
    from dask import array as da
    from dask.delayed import delayed

    lazy: list[Any] = [a if is_lazy(a) else da.asarray(np.asarray(a)) for a in arrays]  # type: ignore[no-untyped-call]
    widths = [a.shape[1] for a in lazy]
    if max(widths) > wide.MAX_FEATURES:
        raise DataError(
            " and ".join(names),
            f"dask arrays of {widths} features",
            f"at most {wide.MAX_FEATURES} features",
            "Pass x.compute(), or a memory map.",
        )
    heights = lazy[0].chunks[0]
    starts = np.concatenate([[0], np.cumsum(heights)[:-1]]).astype(int)
    columns = [a.rechunk({0: heights, 1: -1}).to_delayed().ravel() for a in lazy]
    parts = [
        delayed(_measure_block)(names, int(start), precision, *blocks)
        for start, *blocks in zip(starts, *columns, strict=True)
    ]
    while len(parts) > 1:
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [delayed(_add)(*p) if len(p) == 2 else p[0] for p in pairs]
    return parts[0].compute(), widths[0]


def _measure_block(
    names: tuple[str, ...], start: int, precision: Precision, *blocks: Any
) -> Accumulator:
    part = Accumulator.empty(sum(b.shape[1] for b in blocks))
    part.update(names, [np.asarray(b) for b in blocks], row=start, precision=precision)
    return part.copy()


def _add(one: Accumulator, two: Accumulator) -> Accumulator:
    total = one.copy()
    total.merge(two)
    return total
