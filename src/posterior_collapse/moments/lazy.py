"""Moments of dask arrays: each block of rows where it lies, merged pairwise."""

from __future__ import annotations

from typing import Any

import numpy as np

from posterior_collapse.errors import DataError
from posterior_collapse.moments import wide
from posterior_collapse.moments.accumulate import Accumulator
from posterior_collapse.moments.arrays import as_matrix, refuse_unmatched, refuse_unreal


def is_lazy(value: Any) -> bool:
    """Return whether `value` is a dask collection (without importing dask)."""
    return type(value).__module__.startswith("dask.")


def measure(x: Any, y: Any = None) -> tuple[Accumulator, int]:
    """Return what an `Accumulator` saw of x and y, and the number of features of x.

    Args:
        x: Dask array or data frame, or an array, shape (samples, d_x); chunked in any way.
        y: The same for the target, or None.

    Raises:
        DataError: As for arrays, and when a d x d matrix would not fit.
    """
    from dask.delayed import delayed

    names = ("x",) if y is None else ("x", "y")
    arrays = [_rows("x", x, empty_ok=y is not None)] + ([] if y is None else [_rows("y", y)])
    refuse_unmatched(arrays[0].shape[0], arrays[-1].shape[0])
    widths = [a.shape[1] for a in arrays]
    if max(widths) > wide.MAX_FEATURES:
        raise DataError(
            " and ".join(names),
            f"dask arrays of {widths} features",
            f"at most {wide.MAX_FEATURES} features",
            "Pass x.compute(), or a memory map.",
        )
    heights = arrays[0].chunks[0]
    starts = np.concatenate([[0], np.cumsum(heights)[:-1]]).astype(int)
    columns = [a.rechunk({0: heights}).to_delayed().ravel() for a in arrays]
    parts = [
        delayed(_measure_block)(names, int(start), *blocks)
        for start, *blocks in zip(starts, *columns, strict=True)
    ]
    while len(parts) > 1:
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [delayed(_add)(*p) if len(p) == 2 else p[0] for p in pairs]
    return parts[0].compute(), widths[0]


def _rows(name: str, value: Any, *, empty_ok: bool = False) -> Any:
    """Return a dask array whose chunks are whole rows, with known sizes."""
    from dask import array as da

    if hasattr(value, "to_dask_array"):
        value = value.to_dask_array(lengths=True)
    array = value
    if not is_lazy(value):
        matrix = as_matrix(name, value, empty_ok=empty_ok)
        array = da.asarray(matrix)  # type: ignore[no-untyped-call]
    refuse_unreal(name, array.dtype)
    if np.isnan(array.shape).any():
        array = array.compute_chunk_sizes()
    # An array of the same shape that holds no memory goes through the checks of any other.
    as_matrix(name, np.broadcast_to(np.zeros((), array.dtype), array.shape), empty_ok=empty_ok)
    return array.rechunk({1: -1})


def _measure_block(names: tuple[str, ...], start: int, *blocks: Any) -> Accumulator:
    part = Accumulator.empty(sum(b.shape[1] for b in blocks))
    part.update(names, [np.asarray(b) for b in blocks], row=start)
    return part


def _add(one: Accumulator, two: Accumulator) -> Accumulator:
    total = Accumulator(one.n, one.mean, one.upper.copy(order="F"))
    total.merge(two)
    return total
