"""Data of any kind as batches of flat rows, where the model is and as precise as it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from posterior_collapse.data import Dataset
from posterior_collapse.data.arrays import as_samples, same_length
from posterior_collapse.diagnosis.streams import PURPOSE
from posterior_collapse.errors import DataError, InvalidArgumentError
from posterior_collapse.models import LatentModel
from posterior_collapse.models.loaders import seeded
from posterior_collapse.models.modules import tensor_behind, unwatched

__all__ = ["BATCH_SIZE", "as_array", "batches", "model_of", "noise_generator"]

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
        data: Array (rows, ...), pair (x, y) of arrays, `Dataset`, torch Dataset or DataLoader, or
            an iterable of batches, each x or a pair (x, y). A list of two arrays of one width is
            two batches of an autoencoder, a tuple of them a pair. One number per row beside x is
            a label and ignored.
        batch_size: Rows per batch.
        seed: Of a loader that shuffles.

    Raises:
        DataError: The data cannot be used, are empty, or lack the target.

    Example:
        >>> from posterior_collapse import VAESpec
        >>> from posterior_collapse.models import build
        >>> model = build(VAESpec(2), "linear", x_dim=3)
        >>> [len(x) for x, y in batches(model, np.ones((5, 3)), batch_size=2)]
        [2, 2, 1]
    """
    like = tensor_behind(model)
    conditional = model.spec.model == "cvae"
    row = 0
    for x, y in _aside(lambda: _regrouped(_read(data, conditional, batch_size, seed), batch_size)):
        if conditional and y is None:
            raise DataError(
                "data", "no target y", "a condition x and a target y", "Pass a pair, data=(x, y)."
            )
        pair = [None if v is None else _moved(v, like) for v in (x, y)]
        for name, values in zip("xy", pair, strict=True):
            if values is not None:
                _check_finite(name, values, row)
        assert pair[0] is not None
        yield pair[0], pair[1]
        row += len(x)
    if row == 0:
        raise DataError("data", "no rows", "at least one batch", "Check the loader.")


def model_of(model: Any) -> LatentModel:
    """Return a `LatentModel`, or that of a run that `fit` returned.

    Raises:
        InvalidArgumentError: It is neither.
    """
    for found in (model, getattr(model, "model", None)):
        if isinstance(found, LatentModel):
            return found
    raise InvalidArgumentError(
        "model",
        f"a {type(model).__name__}",
        "a LatentModel, or what fit returned",
        "Wrap its encoder and decoder with from_callable.",
    )


def noise_generator(device: torch.device, seed: int) -> torch.Generator:
    """Return a generator of noise on the device of the batches.

    Its numbers are not those of `torch.manual_seed(seed)`, with which the data may have been drawn:
    noise that equals the data would pass for information.

    Example:
        >>> generator = noise_generator(torch.device("cpu"), seed=0)
        >>> generator.initial_seed() == 0
        False
    """
    words = np.random.SeedSequence([seed, PURPOSE]).generate_state(2, np.uint32)
    derived = (int(words[0]) << 31) ^ int(words[1])
    return torch.Generator(device).manual_seed(derived)


def as_array(value: Tensor) -> NDArray[Any]:
    """Return a tensor's numbers as NumPy knows them: float64 as it is, all else as float32."""
    kept = value if value.dtype == torch.float64 else value.float()
    array: NDArray[Any] = kept.detach().cpu().numpy()
    return array


def _moved(values: Tensor, like: Tensor | None) -> Tensor:
    if like is None:
        return values.to(torch.get_default_dtype())
    return values.to(like.device, like.dtype)


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


def _read(data: Any, conditional: bool, batch_size: int, seed: int) -> Iterator[Pair]:
    if isinstance(data, Dataset):
        return _sliced(data.x, data.y, batch_size)
    if isinstance(data, TorchDataset):
        data = DataLoader(data, batch_size=batch_size)
    if isinstance(data, DataLoader):
        return (_pair(item) for item in seeded(data, seed))
    if _is_pair(data) and not (isinstance(data, list) and not conditional and _alike(*data)):
        return _sliced(data[0], data[1], batch_size)
    if _is_batches(data):
        return (_pair(item) for item in data)
    return _sliced(data, None, batch_size)


def _is_pair(data: Any) -> bool:
    return isinstance(data, (tuple, list)) and len(data) == 2 and _dims(data[0]) >= 2


def _alike(first: Any, second: Any) -> bool:
    return bool(first.shape[1:] == getattr(second, "shape", ())[1:])


def _is_batches(data: Any) -> bool:
    if isinstance(data, (str, bytes, Mapping)) or hasattr(data, "__array__"):
        return False
    if isinstance(data, (tuple, list)):
        batch = (_is_pair(item) or _dims(item) >= 2 or isinstance(item, Mapping) for item in data)
        return bool(data) and all(batch)
    return isinstance(data, Iterable)


def _dims(value: Any) -> int:
    return value.ndim if hasattr(value, "ndim") else 0


def _sliced(x: Any, y: Any, batch_size: int) -> Iterator[Pair]:
    x, y = _rows("x", x), None if y is None else _rows("y", y)
    if y is not None:
        same_length("x", len(x), "y", len(y))
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        yield _tensor(x[part]), None if y is None else _tensor(y[part])


def _rows(name: str, values: Any) -> Any:
    if isinstance(values, Tensor):
        if values.dim() < 2 or values.numel() == 0:
            raise DataError(
                name, f"shape {tuple(values.shape)}", "(rows, features)", "Pass some rows."
            )
        return values.detach().flatten(1)
    return as_samples(name, values)[0]


def _tensor(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values
    # torch knows fewer dtypes than NumPy, and shares memory that may be read-only.
    wide = values.dtype.itemsize > 4 or (values.dtype.kind in "iu" and values.dtype.itemsize > 2)
    return torch.from_numpy(values.astype(np.float64 if wide else np.float32))


def _pair(item: Any) -> Pair:
    if isinstance(item, Mapping):
        raise DataError(
            "data", f"a batch that is a dict of {sorted(map(str, item))}",
            "tensors, arrays or pairs of them",
            "Yield e.g. batch['x'], or (batch['x'], batch['y']).",
        )  # fmt: skip
    parts = list(item) if isinstance(item, (tuple, list)) else [item]
    parts = [
        torch.as_tensor(p, device="cpu") if isinstance(p, np.ndarray) else p for p in parts[:2]
    ]
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        got = f"a batch of {type(parts[0]).__name__}" if parts else "an empty batch"
        raise DataError("data", got, "tensors, arrays or pairs of them", "Yield x or (x, y).")
    x, *rest = parts
    if x.dim() < 2:
        raise DataError(
            "data",
            f"a batch of shape {tuple(x.shape)}",
            "(rows, features)",
            "Yield batches of rows, or pass an array.",
        )
    y = rest[0] if rest and rest[0].dim() > 1 and rest[0].is_floating_point() else None
    if y is not None:
        same_length("x", len(x), "y", len(y))
    return x.detach().flatten(1), None if y is None else y.detach().flatten(1)


def _regrouped(pairs: Iterator[Pair], batch_size: int) -> Iterator[Pair]:
    """Join small batches, so that a loader of single rows is as fast as an array."""
    waiting: list[Pair] = []
    widths: list[int | None] = []
    for pair in pairs:
        found = [None if part is None else part.shape[1] for part in pair]
        widths = widths or found
        if found != widths:
            raise DataError(
                "data", f"a batch of widths {found}", f"{widths}, as before", "Check the loader."
            )
        waiting.append(pair)
        if sum(len(x) for x, _ in waiting) >= batch_size:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(pairs: list[Pair]) -> Pair:
    if len(pairs) == 1:
        return pairs[0]
    ys = [y for _, y in pairs if y is not None]
    return torch.cat([x for x, _ in pairs]), torch.cat(ys) if ys else None


def _check_finite(name: str, values: Tensor, row: int) -> None:
    if bool(values.isfinite().all()):
        return
    at = (~values.isfinite()).nonzero()[0].tolist()
    raise DataError(
        name,
        f"{values[tuple(at)].item()} at row {row + at[0]}, column {at[1]}",
        "finite numbers",
        "Remove or impute it.",
    )
