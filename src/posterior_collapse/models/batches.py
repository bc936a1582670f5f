"""Data of any kind as batches of flat rows, where the model is and as precise as it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Sampler
from torch.utils.data import Dataset as TorchDataset

from posterior_collapse.arrays import as_array, refuse_non_finite
from posterior_collapse.data.dataset import Dataset
from posterior_collapse.data.samples import read
from posterior_collapse.errors import DataError
from posterior_collapse.models.latent import LatentModel
from posterior_collapse.models.modules import tensor_behind, unwatched

BATCH_SIZE = 1000
Pair = tuple[Tensor, Tensor | None]


def batches(
    model: LatentModel, data: Any, *, batch_size: int = BATCH_SIZE, seed: int = 0
) -> Iterator[Pair]:
    """Yield flat rows x and targets y (None: an autoencoder) on the model's device, in its dtype.

    A model without a tensor of its own takes them where they are, in torch's default dtype. Memory
    maps and loaders are read a batch at a time; the small batches of a loader are joined.

    Args:
        model: Says where to, and whether a target is needed.
        data: Of any kind that `forecast` takes.
        batch_size: Rows per batch.
        seed: Of a loader that shuffles.

    Raises:
        DataError: The data cannot be used, are empty, or lack the target.
        InvalidArgumentError: Their rows are not as wide as the model's.

    Example:
        >>> from posterior_collapse import VAESpec
        >>> from posterior_collapse.models import build
        >>> model = build(VAESpec(2), "linear", x_dim=3)
        >>> [len(x) for x, y in batches(model, np.ones((5, 3)), batch_size=2)]
        [2, 2, 1]
    """
    like = tensor_behind(model)
    dtype = torch.get_default_dtype() if like is None else like.dtype
    # Rows at hand are read by NumPy, on the CPU: they go back to where they were.
    given = data if isinstance(data, (tuple, list)) else (data,)
    device = next((one.device for one in (like, *given) if isinstance(one, Tensor)), None)
    conditional = model.spec.model == "cvae"
    shapes = getattr(model, "shapes", None)
    classes = getattr(shapes, "x_dim", None)
    row = 0

    def pairs() -> Iterator[Pair]:
        found = read(data, conditional, classes).batches(batch_size, seed)
        return _regrouped(found, batch_size, dtype, device)

    for x, y in _aside(pairs):
        if conditional and y is None:
            refuse_no_target()
        if row == 0 and shapes is not None:
            shapes.check(x, y)
        for name, values in (("x", x), ("y", y)):
            # A sum tells at once; where a finite one overflows, all are looked at.
            if values is not None and not bool(values.sum().isfinite()):
                refuse_non_finite(name, as_array(name, values), row)
        yield x, y
        row += len(x)
    if row == 0:
        raise DataError("data", "no rows", "at least one batch", "Check the loader.")


def rows_at_hand(data: Any) -> int | None:
    """Return how many rows there are of data that can say so beforehand; None: they cannot.

    Example:
        >>> rows_at_hand((np.ones((5, 3)), np.ones((5, 2)))), rows_at_hand(iter([np.ones((5, 3))]))
        (5, None)
    """
    if isinstance(data, DataLoader):
        # Whoever groups rows in a way of their own may leave some out.
        groups: Any = data.batch_sampler
        if type(groups) is not BatchSampler:
            return None
        rows, size = rows_at_hand(groups.sampler), groups.batch_size
        return rows // size * size if rows is not None and groups.drop_last else rows
    first = data[0] if isinstance(data, tuple) and len(data) == 2 else data
    rows = hasattr(first, "shape") or isinstance(first, (Dataset, TorchDataset, Sampler))
    if not rows or isinstance(first, IterableDataset):  # whose length may be a guess
        return None
    try:
        return len(first)
    except Exception:  # of dask, or of people's own, which may fail in any way
        return None


def as_rows(
    values: Any, dtype: torch.dtype, device: torch.device | None = None, *, name: str = "x"
) -> Tensor:
    """Return a tensor or whatever holds numbers as flat rows.

    An array is copied, since it may change while a run goes on: by NumPy, since torch takes no
    negative strides, foreign byte orders or long doubles.

    Args:
        values: Shape (rows, ...).
        dtype: Of the rows.
        device: Where to; None: where they are.
        name: What to call them in an error.

    Raises:
        DataError: A number is too large for the dtype.

    Example:
        >>> as_rows(np.zeros((2, 3, 4), np.uint16), torch.float32).shape
        torch.Size([2, 12])
    """
    values = values if isinstance(values, Tensor) else np.asarray(values)
    _refuse_beyond(name, values, dtype)
    if not isinstance(values, Tensor):
        precision = np.float64 if dtype == torch.float64 else np.float32
        with np.errstate(over="ignore"):  # beside a NaN or inf, which is refused later
            values = torch.from_numpy(np.array(values, precision, order="C"))
    rows: Tensor = values
    # Of a loader that pins its memory, the device fetches a batch while the host goes on.
    device = device or rows.device
    pinned = device.type == "cuda" and rows.device.type == "cpu" and rows.is_pinned()
    return rows.detach().flatten(1).to(device, dtype, non_blocking=pinned)


def _refuse_beyond(name: str, values: Any, dtype: torch.dtype) -> None:
    """Refuse finite numbers that would become infinite in a dtype."""
    kinds: Any = torch if isinstance(values, Tensor) else np
    most = float(torch.finfo(dtype).max)
    real = values.is_floating_point() if kinds is torch else values.dtype.kind == "f"
    if not real or float(kinds.finfo(values.dtype).max) <= most or 0 in values.shape:
        return
    largest = float(max(values.max(), -values.min()))
    if most < largest < math.inf:  # what is infinite itself is refused as such
        raise DataError(
            name,
            f"values up to {largest:.3g}",
            f"at most {most:.3g}, as {str(dtype).removeprefix('torch.')} holds",
            "Rescale the data, or compute in float64 (precision='float64', model.double()).",
        )


def refuse_no_target() -> None:
    """Refuse data of an autoencoder for a conditional model.

    Raises:
        DataError: Always.
    """
    raise DataError(
        "data", "no target y", "a condition x and a target y", "Pass a pair, data=(x, y)."
    )


def _aside(read: Callable[[], Iterator[Pair]]) -> Iterator[Pair]:
    """Read without being watched: data may be made by networks that are not the model's."""
    with unwatched():
        pairs = read()
    while True:
        with unwatched():
            pair = next(pairs, None)
        if pair is None:
            return
        yield pair


def _regrouped(
    found: Iterator[tuple[Any, Any]],
    batch_size: int,
    dtype: torch.dtype,
    device: torch.device | None,
) -> Iterator[Pair]:
    """Join small batches, so that a loader of single rows is as fast as an array."""
    waiting: list[Pair] = []

    def joined() -> Pair:
        xs, ys = zip(*waiting, strict=True)
        waiting.clear()
        x, y = (None if p[0] is None else torch.cat(p).to(device or p[0].device) for p in (xs, ys))
        assert x is not None
        return x, y

    for x, y in found:
        # They move to the device joined.
        target = None if y is None else as_rows(y, dtype, name="y")
        waiting.append((as_rows(x, dtype), target))
        if sum(len(rows) for rows, _ in waiting) >= batch_size:
            yield joined()
    if waiting:
        yield joined()
