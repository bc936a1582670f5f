"""Whatever holds samples -> batches of flat rows, in an order that (seed, epoch) decides."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from posterior_collapse.arrays import (
    CONSTANT,
    Array,
    ImageShape,
    as_samples,
    chunks,
    refuse_non_finite,
)
from posterior_collapse.data.about import UNKNOWN, About, Columns, about, columns_of
from posterior_collapse.data.samples import Samples, Stream, read
from posterior_collapse.diagnosis.reading import derived_seed
from posterior_collapse.errors import DataError
from posterior_collapse.files import fingerprint
from posterior_collapse.likelihoods import check_targets, one_hot_widths
from posterior_collapse.models.batches import as_rows, refuse_no_target
from posterior_collapse.moments import Moments
from posterior_collapse.specs import Likelihood, Spec
from posterior_collapse.theory.dispersion import is_learned
from posterior_collapse.training import seeds

SINGLE = np.finfo(np.float32)
ROUNDED = 0.1
"""Share of a column's std that rounding may take."""
TO_TELL = 1_000
"""Rows of a loader by which it is told how much a column varies."""


class Batch(NamedTuple):
    """Rows x (n, dim x) and their targets y (n, dim y); no target: an autoencoder."""

    x: Tensor
    y: Tensor | None


class Batches(ABC):
    """Batches for training, and the facts on the data that a model and a forecast need.

    Attributes:
        dims: Numbers per row of x, and of y (None: an autoencoder).
        image_shape: Of the rows that are decoded, where they are images.
        condition_shape: Of x where it is a condition.
        batch_size: Rows of the largest batch.
        sized: Whether all rows are at hand.
        about: What the data are called, and the like.
        columns: What their features are called, of a pair of both parts.
    """

    given: Samples | Stream
    batch_size: int
    sized = True
    dims: tuple[int, int | None]
    image_shape: ImageShape | None = None
    condition_shape: ImageShape | None = None
    about: About = UNKNOWN
    columns: Columns = ()

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int | None:
        """Batches per epoch; None: unknown."""

    @abstractmethod
    def epoch(self, order_seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch but the first `skip`, as (order_seed, epoch) decide."""

    @abstractmethod
    def rows(self, limit: int) -> Batch:
        """Return up to `limit` rows to measure on, always the same ones."""

    @abstractmethod
    def moments(self, center: bool) -> Moments:
        """Measure the data's moments in float64."""

    def evidence(self, spec: Spec, center: bool) -> Moments | Samples | Stream:
        """Return what `forecast` has to know of the data: moments, or where they do not do, rows.

        A condition is regressed on, and a learned dispersion counts all values: these take rows.
        """
        regressed = spec.likelihood != "gaussian" and spec.model == "cvae"
        return self.source() if regressed or is_learned(spec) else self.moments(center)

    def source(self) -> Samples | Stream:
        """Return the data to be measured."""
        return self.given

    @abstractmethod
    def check_spread(self) -> None:
        """Refuse what has nothing to encode, or not as it was trained on.

        Raises:
            DataError: float32 rounds a column until it hardly varies; of rows at hand, also where
                there is a single one, or all are the same.
        """

    @abstractmethod
    def check_targets(self, likelihood: Likelihood) -> None:
        """Refuse targets that a likelihood gives no probability, now or as they come.

        Raises:
            DataError: There are some.
        """

    def classes(self) -> tuple[int, ...]:
        """Return the number of classes of each one-hot position of the targets.

        Raises:
            DataError: The targets are no such positions.
        """
        return one_hot_widths((_targets(*batch) for batch in self.epoch(0, 0)), self.image_shape)

    @abstractmethod
    def release(self) -> None:
        """Give back a device's memory: from now on rows are on the CPU."""

    @abstractmethod
    def fingerprint(self) -> str | None:
        """Return the SHA-256 of the rows as trained on; None where it would take a pass."""


class ArrayBatches(Batches):
    """Rows in memory, shuffled each epoch; the last batch of an epoch may be smaller."""

    def __init__(self, rows: Batch, batch_size: int, given: Samples) -> None:
        self.x, self.y = rows
        # A batch of more rows than there are is a batch of all: noise is drawn for no others.
        self.batch_size = min(batch_size, len(self.x))
        self.dims = (self.x.shape[1], None if self.y is None else self.y.shape[1])
        self.image_shape = _image(given.image_shape)
        self.condition_shape = _image(given.condition_shape)
        self.given: Samples = given
        self._moments: dict[bool, Moments] = {}

    def source(self) -> Samples:
        """Return the data as they were read, more precise than the rows that are kept.

        Where they were changed since, those rows: what was trained on is what is forecast.
        """
        if not all(_holds(*pair) for pair in ((self.given.x, self.x), (self.given.y, self.y))):
            y = None if self.y is None else self.y.cpu().numpy()
            self.given = replace(self.given, x=self.x.cpu().numpy(), y=y)
        return self.given

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.x) / self.batch_size)

    def epoch(self, order_seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        shuffle = seeds.generator(order_seed, seeds.ORDER, epoch)
        order = torch.randperm(len(self.x), generator=shuffle, device="cpu").to(self.x.device)
        for index in torch.split(order, self.batch_size)[skip:]:
            y = None if self.y is None else self.y.index_select(0, index)
            yield Batch(self.x.index_select(0, index), y)

    def rows(self, limit: int) -> Batch:
        step = max(1, math.ceil(len(self.x) / limit))  # at even distances
        return Batch(self.x[::step], None if self.y is None else self.y[::step])

    def check_targets(self, likelihood: Likelihood) -> None:
        check_targets(likelihood, _targets(self.x, self.y))

    def moments(self, center: bool) -> Moments:
        if center not in self._moments:
            self._moments[center] = Moments.of(self.source(), center=center)
        return self._moments[center]

    def release(self) -> None:
        self.x, self.y = self.x.cpu(), None if self.y is None else self.y.cpu()

    def check_spread(self) -> None:
        if len(self.x) < 2:
            raise DataError("x", "a single sample", "at least two samples", "Pass more rows.")
        if all(bool((rows == rows[0]).all()) for rows in (self.x, self.y) if rows is not None):
            raise DataError(
                "x", "data that are all constant", "some variance", "Check what was loaded."
            )
        if self.x.dtype == torch.float32:
            for pair in (("x", self.given.x), ("y", self.given.y)):
                _refuse_rounded(*pair)

    def fingerprint(self) -> str:
        return fingerprint([None if v is None else v.cpu().numpy() for v in (self.x, self.y)])


class LoaderBatches(Batches):
    """A DataLoader as it is: its batches, its sampler, its workers."""

    sized = False

    def __init__(self, stream: Stream, dtype: torch.dtype, device: torch.device) -> None:
        self.given: Stream = stream
        self.dtype, self.device = dtype, device
        self._likelihood: Likelihood = "gaussian"
        x, y = next(self._seeded(0, 0))
        self._precise = any(v is not None and _is_precise(v) for v in _flat(x, y))
        self.batch_size = len(x)
        self.dims = (math.prod(x.shape[1:]), None if y is None else math.prod(y.shape[1:]))
        self.image_shape = _image(tuple((x if y is None else y).shape[1:]))
        self.condition_shape = None if y is None else _image(tuple(x.shape[1:]))

    @property
    def steps_per_epoch(self) -> int | None:
        try:
            return len(self.given.data)
        except TypeError:
            return None

    def epoch(self, order_seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        for x, y in itertools.islice(self._seeded(order_seed, epoch), skip, None):
            if len(x) > self.batch_size:  # noise is drawn for as many rows as the first has
                raise DataError(
                    "data", f"a batch of {len(x)} rows after a first of {self.batch_size}",
                    "no batch larger than the first",
                    "Pass the rows as an array or Dataset with batch_size, or the largest first.",
                )  # fmt: skip
            target = None if y is None else as_rows(y, self.dtype, self.device, name="y")
            batch = Batch(as_rows(x, self.dtype, self.device), target)
            if self._likelihood != "gaussian":
                check_targets(self._likelihood, _targets(*batch))
            yield batch

    def rows(self, limit: int) -> Batch:
        x, y = self._first(limit)
        batch = Batch(*(_rows(*v, self.dtype, self.device) for v in (("x", x), ("y", y))))
        if self._likelihood != "gaussian":
            check_targets(self._likelihood, _targets(*batch))
        return batch

    def check_spread(self) -> None:
        if self.dtype == torch.float32 and self._precise:
            try:
                self._refuse_rounded(TO_TELL)
            except DataError:  # in order of time the first rows vary less than all do
                self._refuse_rounded(100 * TO_TELL)

    def _refuse_rounded(self, limit: int) -> None:
        for pair in zip("xy", self._first(limit), strict=True):
            _refuse_rounded(*pair)

    def _first(self, limit: int) -> list[Array | None]:
        """Return the first rows x and y (None: an autoencoder), as they come from the loader."""
        kept: list[list[Any]] = []
        for pair in self._seeded(0, 0):
            kept.append(_flat(*pair))
            if sum(len(x) for x, _ in kept) >= limit:
                break
        columns = zip(*kept, strict=True)
        return [None if parts[0] is None else np.concatenate(parts)[:limit] for parts in columns]

    def check_targets(self, likelihood: Likelihood) -> None:
        self._likelihood = likelihood  # each batch from now on

    def moments(self, center: bool) -> Moments:
        batches = (x if y is None else (x, y) for x, y in self.epoch(0, 0))
        return Moments.from_batches(batches, center=center)

    def release(self) -> None:
        self.device = torch.device("cpu")

    def fingerprint(self) -> None:
        return None

    def _seeded(self, order_seed: int, epoch: int) -> Iterator[Any]:
        given = self.given.batches(seed=derived_seed(order_seed, seeds.ORDER, epoch))
        first = next(given, None)
        if first is None:
            raise DataError(
                "data", f"a DataLoader without batches in epoch {epoch + 1}", "batches each time",
                "Let it have a batch of rows (drop_last) and its dataset's __iter__ begin anew, or "
                "pass the rows as an array.",
            )  # fmt: skip
        yield first
        yield from given


def feed(
    data: Any,
    spec: Spec,
    batch_size: int,
    dtype: torch.dtype,
    device: str | torch.device,
    classes: int | None = None,
) -> Batches:
    """Return the feed of data of any kind that `forecast` takes.

    All but a DataLoader are read into memory, in the training precision. The spec says whether a
    condition is needed; of labels there may be more `classes` than occur.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> x = [[1.0, 2.0, 3.0]] * 10
        >>> found = feed(x, VAESpec(latent_dim=2), 4, torch.float32, "cpu")
        >>> [len(batch.x) for batch in found.epoch(0, 0)]
        [4, 4, 2]
    """
    device = torch.device(device)
    conditional = spec.model == "cvae"
    given = read(data, conditional, classes)
    found: Batches
    if isinstance(given, Stream) and given.is_loader:
        found = LoaderBatches(given, dtype, device)
    else:
        given = given.collected()
        rows = Batch(_rows("x", given.x, dtype, device), _rows("y", given.y, dtype, device))
        found = ArrayBatches(rows, batch_size, given)
    if conditional and found.dims[1] is None:
        refuse_no_target()
    found.about, found.columns = about(data, conditional=conditional), columns_of(data)
    return found


def _rows(name: str, values: Any, dtype: torch.dtype, device: torch.device) -> Any:
    if values is None:
        return None
    rows = as_rows(values, dtype, name=name)
    refuse_non_finite(name, rows.numpy())
    return rows.to(device)


def _flat(x: Any, y: Any) -> list[Array | None]:
    """Return x and y (None: an autoencoder) as arrays of flat rows, as precise as they are."""
    pairs = (("x", x), ("y", y))
    return [None if v is None else as_samples(name, v, empty_ok=True)[0] for name, v in pairs]


def _is_precise(values: Array) -> bool:
    """Whether float32 may round numbers of this kind."""
    return values.dtype.itemsize > 2 and values.dtype != np.float32


def _refuse_rounded(name: str, values: Array | None) -> None:
    """Refuse numbers that float32 rounds until they hardly vary.

    Raises:
        DataError: A column is rounded by more than a tenth of its std, as the seconds since 1970
            of half an hour are: what is trained on is then not what a forecast measures.
    """
    if values is None or not _is_precise(values):
        return
    least = np.full(values.shape[1], np.inf)
    most = -least
    for _, (piece,) in chunks(values):
        piece = np.asarray(piece)
        least, most = np.minimum(least, piece.min(0)), np.maximum(most, piece.max(0))
    size, span = np.maximum(np.abs(least), np.abs(most)), most - least
    # Rounding is at most eps / 2 of the largest: beside most ranges that is seen to be nothing.
    for column in np.flatnonzero((size * SINGLE.eps > ROUNDED * span) & (span > CONSTANT * size)):
        exact = np.asarray(values[:, column : column + 1], np.float64)
        std, lost = exact.std(), np.abs(exact - exact.astype(np.float32)).max()
        if lost > ROUNDED * std:
            raise DataError(
                name,
                f"column {column} near {size[column]:.4g} with std {std:.3g}, "
                f"which float32 rounds by up to {lost:.2g}",
                "columns that vary by more than they are rounded",
                "Take off their means (pc.load(x, standardize=True) does), or pass "
                "precision='float64'.",
            )


def _holds(values: Array | None, kept: Tensor | None) -> bool:
    """Say whether rows were made of these values."""
    if values is None or kept is None:
        return True
    return all(
        torch.equal(as_rows(piece, kept.dtype), kept[row : row + len(piece)].cpu())
        for row, (piece,) in chunks(values)
    )


def _targets(x: Tensor, y: Tensor | None) -> Array:
    found: Array = (x if y is None else y).cpu().numpy()
    return found


def _image(shape: ImageShape | None) -> ImageShape | None:
    """Channels first; a shape that is no image gives None."""
    if shape is None or len(shape) not in (2, 3):
        return None
    return shape
