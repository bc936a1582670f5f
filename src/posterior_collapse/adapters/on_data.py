"""What a loss is on given data: which of its terms are others there than on made-up tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posterior_collapse.adapters.kl import KLReading, rise
from posterior_collapse.adapters.precision import LINK, beside
from posterior_collapse.adapters.probing import Probe, Target, along
from posterior_collapse.adapters.reconstruction import (
    TOLERANCE,
    ReconstructionReading,
    holds_on,
    plain,
    weight_on,
)
from posterior_collapse.adapters.terms import Terms
from posterior_collapse.arrays import Array
from posterior_collapse.data.dataset import Dataset
from posterior_collapse.data.samples import Samples, one_hot, read
from posterior_collapse.diagnosis.onsets import onset
from posterior_collapse.errors import (
    DataError,
    InvalidArgumentError,
    NotSolvedError,
    UnboundedObjectiveError,
)
from posterior_collapse.likelihoods import ROUNDING
from posterior_collapse.moments import Moments

ROWS = 64
"""Rows of the data that a loss is tried on."""
TRIED = 8
"""Batches after which a weight that has not varied with the targets counts as constant."""
FULL = 4
"""Least number of full batches to try: where rows are too few for them, rows are repeated."""


def with_shape(data: Any) -> tuple[Samples, Sequence[int]]:
    """Return the data, which may be readable once only, and the shape of a row."""
    got = "nothing"
    if data is not None and not isinstance(data, Moments):
        rows = read(data).collected()
        y = rows.x if rows.y is None else rows.y
        shape = (None if isinstance(data, Dataset) else rows.image_shape) or y.shape[1:]
        if len(shape) > 1 or y.dtype.kind not in "iu":
            return rows, shape
        got += ", of whole numbers: counts or class numbers"
    action = "Pass features=784, say; of class numbers (positions, classes)."
    raise InvalidArgumentError("features", got, "those of a sample, or data that tell", action)


def with_masks(terms: Terms, data: Any) -> Terms:
    """Return the terms with an error of no known kind, if it is another on some targets.

    A mask of zeros, of missing values or of values above a limit shows on no made-up target, which
    lie between. Data say it of themselves; without any, zeros and NaN are tried. A cross-entropy of
    rows that are not one-hot counts classes, as a multinomial does, which has no closed form here.
    Where terms are means over what a mask leaves, their weights become those on the data.
    """
    reconstruction, probe = terms.reconstruction, terms.probe
    if probe is None or reconstruction.kind == "none":
        return terms
    try:
        rows = None if data is None else rows_of(data)
        if rows is not None and _are_numbers(rows, terms):
            probe = replace(probe, target=Target("classes", reconstruction.axis))
            terms = terms._replace(probe=probe)
        rows = None if rows is None else targets_of(rows, terms)
    except DataError:  # which the forecast refuses
        return terms
    if rows is not None:
        terms = terms._replace(kl=_kl_on(rows, terms, probe))
    if reconstruction.kind == "other":
        return terms
    if rows is not None and has_padding(rows, terms):
        return terms._replace(reconstruction=_error_on(rows, reconstruction, probe))
    tried = _special(probe) if rows is None else _batches(rows, probe)
    for what, y in tried:
        if not holds_on(probe, reconstruction, y):
            return terms._replace(reconstruction=reconstruction.as_other(what))
    if rows is not None and not (_within(rows, tried[0][1], terms) and _one_hot(rows, terms)):
        return terms._replace(reconstruction=reconstruction.as_other())
    return terms


def _are_numbers(rows: Array, terms: Terms) -> bool:
    """Whether rows are class numbers of a loss that was tried on one-hot rows, as it takes both."""
    probe, axis, features = terms.probe, terms.reconstruction.axis, terms.sizes.features
    if probe is None or probe.target.axis is not None or axis is None:
        return False
    return int(rows.shape[1]) * features[axis] == math.prod(features)


def has_padding(rows: Array, terms: Terms) -> bool:
    """Whether some positions of the data are of a class that counts nothing."""
    probe = terms.probe
    if probe is None or probe.target.values != "classes":
        return False
    counts = probe.counts(torch.from_numpy(shaped(rows, probe)))
    if not counts.any():
        raise InvalidArgumentError(
            "data",
            "only class numbers that count nothing in this loss",
            "some that count",
            "Check which class the loss leaves out (ignore_index, a mask).",
        )
    return not bool(counts.all())


def _error_on(rows: Array, found: ReconstructionReading, probe: Probe) -> ReconstructionReading:
    """Return an error of classes with its weight on data of which some positions count nothing."""

    def factor(y: Tensor) -> float:
        there = weight_on(probe, found, y)
        return math.nan if there is None else there / found.weight

    times = _mean_factor(_every(rows, probe), factor)
    if math.isnan(times):
        return found._replace(kind="other", masked="in these data")
    return found._replace(weight=plain(found.weight * times))


def _kl_on(rows: Array, terms: Terms, probe: Probe) -> KLReading:
    """Return the KL with its weight on the data: over their number of tokens, it goes by that.

    And where it goes by the error, the weight by that of the best constant output.
    """
    kl = terms.kl
    if kl.weighed_by == "error":
        try:
            return _at_collapse(rows, terms, probe)
        except (InvalidArgumentError, NotSolvedError, UnboundedObjectiveError):
            return kl  # of an error that no constant output makes least
    if not kl.has_beta or probe.target.values != "classes":
        return kl
    y_hat, usual = probe.made_up()
    before = rise(kl, probe, y_hat, usual)
    times = _mean_factor(_every(rows, probe), lambda y: rise(kl, probe, y_hat, y) / before)
    return kl if math.isnan(times) else kl.times(times)


def _at_collapse(rows: Array, terms: Terms, probe: Probe) -> KLReading:
    """Return the KL with its mean weight over the data's batches, beside the error at collapse."""
    kl, sign = terms.kl, math.copysign(1.0, terms.reconstruction.weight)  # as of an ELBO
    target = _as_target(rows, probe)

    def error(y_hat: Tensor, y: Tensor) -> Any:
        return sign * probe.total(y_hat, y)

    best = torch.from_numpy(onset(error, target, output_shape=probe.sizes.features).output)
    hot = probe.one_hot(target) if probe.target.values == "classes" else target
    # Of targets that are all 0, or all 1, the best logit or log rate is infinite.
    best = torch.where(best.isnan(), LINK * (2.0 * (hot.mean(dim=0) > 0) - 1), best)
    usual = rise(kl, probe, *beside(probe))
    risen = [rise(kl, probe, best.expand(len(y), *best.shape), y) for y in _every(rows, probe)]
    times = float(np.mean(risen)) / usual
    if math.isnan(times):
        return kl
    return kl.times(times)._replace(weighed_by="error at collapse")


def _mean_factor(batches: Iterable[Tensor], factor: Callable[[Tensor], float]) -> float:
    """Return by what a weight is multiplied on average over batches; NaN: on one by no number.

    A mean over the tokens of a batch weighs like one over their number, which adds up.
    """
    numbers = []
    for tried, batch in enumerate(batches, start=1):
        numbers.append(1 / (factor(batch) or math.nan))
        if tried == TRIED and np.abs(np.subtract(numbers, 1)).max() <= TOLERANCE:
            return 1.0
    return float(1 / np.mean(numbers)) if numbers else math.nan


def _within(rows: Array, y: Tensor, terms: Terms) -> bool:
    """Whether the mean, by the best constant output, is none of the outputs that are cut off."""
    if not terms.reconstruction.clipped or terms.probe is None:
        return True
    mean = torch.as_tensor(rows.mean(axis=0, dtype=np.float64)).reshape(y.shape[1:])
    return holds_on(terms.probe, terms.reconstruction, y, mean.expand(y.shape))


def _one_hot(rows: Array, terms: Terms) -> bool:
    """Whether targets of a cross-entropy are one class for each position, or parts that make one.

    Class numbers that a loss takes are: of others, the forecast says so.
    """
    reconstruction, features, probe = terms.reconstruction, terms.sizes.features, terms.probe
    axis = reconstruction.axis
    if axis is None or (probe is not None and probe.target.values == "classes"):
        return True
    whole = rows.reshape(len(rows), *features)
    sums = whole.sum(axis=along(axis), dtype=np.float64)
    least = float(whole.min(initial=0))
    return least >= -ROUNDING and float(np.abs(sums - 1).max()) <= ROUNDING * features[axis]


def _special(probe: Probe) -> list[tuple[str, Tensor]]:
    """Return targets of which every third is 0 or NaN, where made-up ones are neither."""
    if probe.target.values != "soft":
        return []
    tried = []
    for what, value in (("of 0", 0.0), ("that are NaN", math.nan)):
        y = probe.made_up()[1]
        y.flatten()[::3] = value
        tried.append((what, y))
    return tried


def _every(rows: Array, probe: Probe) -> Iterator[Tensor]:
    """Yield rows as targets, in full batches in which some count, of class numbers.

    In random order, as in training: a batch of short rows alone would weigh as much as others.
    """
    size, rng = probe.sizes.batch, np.random.default_rng(0)
    rounds = -(-FULL * size // len(rows))
    order = np.concatenate([rng.permutation(len(rows)) for _ in range(rounds)])
    for chosen in order[: len(order) // size * size].reshape(-1, size):
        y = _as_target(rows[chosen], probe)
        if probe.target.values != "classes" or probe.counts(y).any():
            yield y


def _batches(rows: Array, probe: Probe) -> list[tuple[str, Tensor]]:
    """Return rows of the data as targets: those of its extremes (or a NaN), and some throughout."""
    size = probe.sizes.batch
    extremes = [int(at) // rows.shape[1] for at in (rows.argmin(), rows.argmax())]
    some = [*extremes, *np.linspace(0, len(rows) - 1, ROWS - 2).astype(int)]
    chosen = np.resize(some, -(-ROWS // size) * size)
    y = _as_target(rows[chosen], probe)
    return [("in these data", batch) for batch in torch.split(y, size)]


def _as_target(rows: Array, probe: Probe) -> Tensor:
    """Return rows as targets: class numbers as they are, others as double."""
    y = torch.as_tensor(shaped(rows, probe))
    return y if probe.target.values == "classes" else y.double()


def rows_of(data: Any) -> Array:
    """Return the rows that are reconstructed."""
    if isinstance(data, Moments):
        raise DataError("data", "moments", "the rows of the data", "Pass the data themselves.")
    samples = read(data).collected()
    return np.asarray(samples.x if samples.y is None else samples.y)


def targets_of(rows: Array, terms: Terms) -> Array:
    """Return rows as targets; class numbers become one-hot for a likelihood that is forecast."""
    features, axis = terms.sizes.features, terms.reconstruction.axis
    width, axis = math.prod(features), _class_axis(rows.shape[1], features, axis)
    if rows.shape[1] == width:
        return rows
    if axis is None:
        raise DataError(
            "data",
            f"{rows.shape[1]:,} features",
            f"{width:,}, as features={features}",
            "Pass the features of your data.",
        )
    if terms.reconstruction.likelihood != "categorical":
        return rows
    classes = features[axis]
    probe, outside = terms.probe, rows[(rows < 0) | (rows >= classes)]
    if probe is not None and probe.target.values == "classes" and _takes(probe, outside):
        return rows  # as ignore_index is by default, and 255 in segmentation
    positions = np.delete(features, axis).tolist()
    hot = one_hot(rows.reshape(-1), classes).reshape(len(rows), *positions, classes)
    return np.moveaxis(hot, -1, along(axis)).reshape(len(rows), width)


def _takes(probe: Probe, outside: Array) -> bool:
    """Whether there are numbers of no class, and the loss takes each of them."""
    y_hat, usual = probe.made_up()
    for number in np.unique(outside)[:TRIED]:
        y = usual.clone()
        y.flatten()[0] = int(number)
        try:
            probe.value(y_hat, y)
        except InvalidArgumentError:
            return False
    return bool(outside.size)


def by_position(rows: Array, terms: Terms) -> Array:
    """Return rows with the classes of each position side by side, as a forecast takes them."""
    axis = terms.reconstruction.axis
    if axis is None:
        return rows
    whole = rows.reshape(len(rows), *terms.sizes.features)
    return np.moveaxis(whole, along(axis), -1).reshape(rows.shape)


def _class_axis(columns: int, features: tuple[int, ...], known: int | None) -> int | None:
    """Return the axis whose classes the data number, of those that would make them fit."""
    axes = reversed(range(len(features))) if known is None else (known,)
    return next((a for a in axes if columns * features[a] == math.prod(features)), None)


def shaped(rows: Array, probe: Probe) -> Array:
    """Return rows in the shape of the loss's targets."""
    values, axis = probe.target
    shape = list(probe.sizes.features)
    if rows.shape[1] != math.prod(shape):  # class numbers
        del shape[_class_axis(rows.shape[1], probe.sizes.features, axis) or 0]
        return np.asarray(rows.reshape(len(rows), *shape), dtype=np.int64)
    whole = rows.reshape(len(rows), *shape)
    if values == "classes" and axis is not None:
        return np.asarray(whole.argmax(axis=along(axis)))
    return whole
