"""Whatever holds samples -> batches of flat rows, in an order that (seed, epoch) decides."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from posterior_collapse.data import Dataset
from posterior_collapse.data.arrays import as_samples, same_length
from posterior_collapse.errors import DataError
from posterior_collapse.files import fingerprint
from posterior_collapse.models.loaders import seeded
from posterior_collapse.moments import Moments
from posterior_collapse.specs import Spec
from posterior_collapse.training import seeds

__all__ = ["ArrayFeed", "Batch", "Feed", "LoaderFeed", "feed"]

ImageShape = tuple[int, ...]


class Batch(NamedTuple):
    """Rows x (n, dim x) and their targets y (n, dim y); no target: an autoencoder."""

    x: Tensor
    y: Tensor | None


class Feed(ABC):
    """Batches for training, and the facts on the data that a model and a forecast need.

    Attributes:
        dims: Numbers per row of x, and of y (None: an autoencoder).
        image_shape: Of the rows that are decoded, where they are images.
        condition_shape: Of x where it is a condition.
        batch_size: Rows of the largest batch.
        sized: Whether all rows are at hand.
    """

    batch_size: int
    sized = True
    dims: tuple[int, int | None]
    image_shape: ImageShape | None = None
    condition_shape: ImageShape | None = None

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int | None:
        """Batches per epoch; None: unknown."""

    @abstractmethod
    def epoch(self, order_seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch but the first `skip`."""

    @abstractmethod
    def rows(self, limit: int) -> Batch:
        """Return up to `limit` rows to measure on, always the same ones."""

    @abstractmethod
    def moments(self, center: bool) -> Moments:
        """Measure the data's moments in float64."""

    def fingerprint(self) -> str | None:
        """Return what tells these data from others; None where it would take a pass over them."""
        return None


class ArrayFeed(Feed):
    """Rows in memory, shuffled each epoch; the last batch of an epoch may be smaller."""

    def __init__(self, rows: Batch, batch_size: int, arrays: tuple[Any, Any]) -> None:
        self.x, self.y = rows
        # A batch of more rows than there are is a batch of all: noise is drawn for no others.
        self.batch_size = min(batch_size, len(self.x))
        self.dims = (self.x.shape[1], None if self.y is None else self.y.shape[1])
        self._arrays = arrays
        self._moments: dict[bool, Moments] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        return math.ceil(len(self.x) / self.batch_size)

    def epoch(self, order_seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Yield one epoch in the order that (order_seed, epoch) gives."""
        shuffle = seeds.generator(order_seed, seeds.ORDER, epoch)
        order = torch.randperm(len(self.x), generator=shuffle, device="cpu").to(self.x.device)
        for index in torch.split(order, self.batch_size)[skip:]:
            y = None if self.y is None else self.y.index_select(0, index)
            yield Batch(self.x.index_select(0, index), y)

    def rows(self, limit: int) -> Batch:
        """Return rows at even distances."""
        step = max(1, math.ceil(len(self.x) / limit))
        return Batch(self.x[::step], None if self.y is None else self.y[::step])

    def moments(self, center: bool) -> Moments:
        """Measure all rows as they were given, once."""
        if center not in self._moments:
            self._moments[center] = Moments.from_arrays(*self._arrays, center=center)
        return self._moments[center]

    def check_spread(self) -> None:
        """Refuse what has nothing to encode, as the forecast does.

        Raises:
            DataError: There is a single row, or all are the same.
        """
        if len(self.x) < 2:
            raise DataError("x", "a single sample", "at least two samples", "Pass more rows.")
        if all(bool((rows == rows[0]).all()) for rows in (self.x, self.y) if rows is not None):
            raise DataError(
                "x", "data that are all constant", "some variance", "Check what was loaded."
            )

    def fingerprint(self) -> str:
        """Return the SHA-256 of the rows as they are trained on."""
        return fingerprint([None if v is None else v.cpu().numpy() for v in (self.x, self.y)])


class LoaderFeed(Feed):
    """A DataLoader as it is: its batches, its sampler, its workers."""

    sized = False

    def __init__(
        self, loader: DataLoader[Any], conditional: bool, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.loader = loader
        self.conditional = conditional
        self.dtype = dtype
        self.device = device
        first = next(self.epoch(0, 0), None)
        if first is None:
            raise DataError("data", "a DataLoader without batches", "a batch", "Check the loader.")
        self.batch_size = len(first.x)
        self.dims = (first.x.shape[1], None if first.y is None else first.y.shape[1])
        shape = _pair("data", next(self._seeded(0, 0)), conditional)[0].shape[1:]
        self.image_shape = tuple(shape) if len(shape) > 1 else None

    @property
    def steps_per_epoch(self) -> int | None:
        """Batches per epoch, where the loader knows."""
        try:
            return len(self.loader)
        except TypeError:
            return None

    def epoch(self, order_seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Yield the loader's batches; whatever it draws is decided by (order_seed, epoch)."""
        for number, item in enumerate(self._seeded(order_seed, epoch)):
            if number >= skip:
                x, y = _pair("data", item, self.conditional)
                yield Batch(self._flat(x), None if y is None else self._flat(y))

    def rows(self, limit: int) -> Batch:
        """Return the first rows of one pass."""
        xs: list[Tensor] = []
        ys: list[Tensor] = []
        for x, y in self.epoch(0, 0):
            xs.append(x)
            ys.extend(() if y is None else (y,))
            if sum(map(len, xs)) >= limit:
                break
        return Batch(torch.cat(xs)[:limit], torch.cat(ys)[:limit] if ys else None)

    def moments(self, center: bool) -> Moments:
        """Measure one pass."""
        batches = (x.cpu() if y is None else (x.cpu(), y.cpu()) for x, y in self.epoch(0, 0))
        return Moments.from_batches(batches, center=center)

    def _seeded(self, order_seed: int, epoch: int) -> Iterator[Any]:
        return seeded(self.loader, seeds.derive(order_seed, seeds.ORDER, epoch))

    def _flat(self, value: Tensor) -> Tensor:
        return value.reshape(len(value), -1).to(self.device, self.dtype)


def feed(
    data: Any, spec: Spec, batch_size: int, dtype: torch.dtype, device: str | torch.device
) -> Feed:
    """Return the feed of an array, a pair of arrays, a `Dataset`, a torch Dataset or DataLoader.

    All but a DataLoader are read into memory, in the training precision.

    Args:
        data: What to train on. Labels beside the samples of a torch Dataset are ignored.
        spec: Says whether a condition is needed.
        batch_size: Rows per batch.
        dtype: Of the batches.
        device: Of the batches.

    Raises:
        DataError: The data cannot be used, or a conditional model has no target.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> x = np.ones((10, 3))
        >>> found = feed(x, VAESpec(latent_dim=2), 4, torch.float32, "cpu")
        >>> [len(batch.x) for batch in found.epoch(0, 0)]
        [4, 4, 2]
    """
    device = torch.device(device)
    conditional = spec.model == "cvae"
    if isinstance(data, DataLoader):
        return _conditioned(LoaderFeed(data, conditional, dtype, device), conditional)
    x: Any
    y: Any
    image: ImageShape | None
    condition: ImageShape | None = None
    if isinstance(data, Dataset):
        x, y, image = data.x, data.y, None if data.task else data.image_shape
    else:
        x, y = _collected(data, conditional) if isinstance(data, TorchDataset) else _both(data)
        x, image = as_samples("x", x)
        if y is not None:
            condition = image
            y, image = as_samples("y", y)
            same_length("x", len(x), "y", len(y))
    rows = Batch(_tensor("x", x, dtype, device), _tensor("y", y, dtype, device))
    found = ArrayFeed(rows, batch_size, (x, y))
    found.image_shape, found.condition_shape = _image(image), _image(condition)
    return _conditioned(found, conditional)


def _conditioned(found: Feed, conditional: bool) -> Feed:
    if conditional and found.dims[1] is None:
        raise DataError(
            "data", "no target y", "a condition x and a target y", "Pass a pair, data=(x, y)."
        )
    return found


def _both(data: Any) -> tuple[Any, Any]:
    if isinstance(data, (tuple, list)) and len(data) == 2 and np.ndim(data[0]) >= 2:
        return data[0], data[1]
    return data, None


def _collected(data: TorchDataset[Any], conditional: bool) -> tuple[Tensor, Tensor | None]:
    pairs = [_pair("data", item, conditional) for item in DataLoader(data, batch_size=1024)]
    if not pairs:
        raise DataError("data", "an empty Dataset", "samples", "Pass some data.")
    ys = [y for _, y in pairs if y is not None]
    return torch.cat([x for x, _ in pairs]), torch.cat(ys) if ys else None


def _pair(name: str, item: Any, conditional: bool) -> tuple[Tensor, Tensor | None]:
    """Return x and y of a collated item.

    A label is no target: whole numbers, one per row, or a single column beside an autoencoder.
    """
    parts = list(item) if isinstance(item, (tuple, list)) else [item]
    if not all(isinstance(part, Tensor) for part in parts[:2]):
        raise DataError(
            name, f"items of {type(parts[0]).__name__}", "tensors or pairs of them",
            "Return x or (x, y) from the Dataset.",
        )  # fmt: skip
    x, y = parts[0], parts[1] if len(parts) > 1 else None
    if y is None or y.dim() < 2 or not y.is_floating_point():
        return x, None
    return x, y if conditional or y[0].numel() > 1 else None


def _tensor(name: str, values: Any, dtype: torch.dtype, device: torch.device) -> Any:
    if values is None:
        return None
    # A copy: the caller's array may change while the run goes on. NumPy makes it, since torch takes
    # no negative strides, foreign byte orders or long doubles.
    precision = np.float64 if dtype == torch.float64 else np.float32
    rows = np.array(values, precision, order="C")
    finite = np.isfinite(rows)
    if not finite.all():
        row, column = np.argwhere(~finite)[0].tolist()
        raise DataError(
            name, f"{rows[row, column]} at row {row}, column {column}", "finite numbers",
            "Remove or impute it.",
        )  # fmt: skip
    return torch.from_numpy(rows).to(device)


def _image(shape: ImageShape | None) -> ImageShape | None:
    """Channels first; a shape that is no image gives None."""
    if shape is None or len(shape) not in (2, 3):
        return None
    return shape
