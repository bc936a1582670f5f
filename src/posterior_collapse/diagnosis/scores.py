"""What a decoder's distribution says of its target: log density, score and curvature.

One more unit can but move the decoder's output. How much the loss falls by that is decided by the
score, the slope of log p(y|z) along the output, and by the curvature, how soon it turns. The output
is that for which the theory is stated: a mean or location, logits, or the log of a rate.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Distribution,
    Independent,
    NegativeBinomial,
    Normal,
    OneHotCategorical,
    Poisson,
)
from torch.nn import functional

from posterior_collapse.arrays import Float
from posterior_collapse.diagnosis.results import LEFT_OUT
from posterior_collapse.errors import DataError
from posterior_collapse.models import OneHots
from posterior_collapse.models.global_state import recording
from posterior_collapse.models.likelihoods import log_prob

Floats = NDArray[np.floating]
MOST_CLASSES = 128
"""Classes of a position up to which they share one matrix: beyond, its diagonal is taken."""
SINGULAR = 1e-6
"""Share of a matrix's largest eigenvalue that is rounding."""
ROWS_TO_COUNT = 10
"""Rows that must make a feature vary before it counts in full."""
Kind = Literal["counts", "shares"]
"""Of targets: counts, or shares from 0 to 1."""
ONE_HOT = 1e-4
"""By which the classes of a position may miss a sum of 1."""
TINY = 1e-12
"""Keeps a quotient of two numbers that rounding may make 0."""


class Scored(NamedTuple):
    """What a distribution says of targets, per sample and row.

    Attributes:
        log_density: log p(y|z) of all features, (...).
        score: Slope of log p(y|z) along the output, (..., features); None where it has no output
            that could be moved, or a kink instead of a curvature.
        curvature: Minus the second derivative along the output, where it does not hang on the
            target, else its value for this one; of the same shape. That of the classes of a
            position is the matrix `diag(h) - h h' / sum(h)`, h given here.
        data: What the data alone decide of the log density, (...), such as -log y! of counts; None:
            nothing.
    """

    log_density: Tensor
    score: Tensor | None = None
    curvature: Tensor | None = None
    data: Tensor | None = None


class Meant(Normal):
    """What a decoder whose likelihood has no name here returned itself, and no stand-in for it."""


def elementwise(output: Any, lead: int) -> Any:
    """Return a distribution of single features; what is no distribution, as it is.

    Args:
        output: Perhaps an `Independent`, a Binomial of one trial, which is a Bernoulli, or one of
            classes, which come last.
        lead: Number of dimensions before those of a row.

    Example:
        >>> elementwise(Categorical(logits=torch.zeros(2, 5, 4)), 1).mean.shape
        torch.Size([2, 20])
    """
    while isinstance(output, Independent):
        output = output.base_dist
    output = binary(output)
    if isinstance(output, (Categorical, OneHotCategorical)):
        classes = output.logits.shape[-1]
        logits = output.logits.flatten(lead)
        return OneHots(logits, (classes,) * (logits.shape[-1] // classes))
    return output


def binary(output: Any) -> Any:
    """Return a Binomial of one trial as the Bernoulli that it is; all else, as it is."""
    if isinstance(output, Binomial) and bool((output.total_count == 1).all()):
        return Bernoulli(logits=output.logits, validate_args=False)
    return output


def linked(output: Distribution) -> Tensor:
    """Return what one more unit could move, (..., numbers): location, logits or log rates.

    With a location goes the std, which may hang on the latents as well; of other distributions,
    NaN.

    Example:
        >>> linked(Poisson(torch.ones(3)))
        tensor([0., 0., 0.])
    """
    if isinstance(output, Normal):
        return torch.cat([output.loc, output.scale], dim=-1)
    if isinstance(output, Poisson):
        return output.rate.log()
    if isinstance(output, OneHots):
        logits = output.logits  # of which a constant at a position says nothing
        return logits - _summed(output, logits) / _summed(output, torch.ones_like(logits))
    name = _movable(output)
    found: Tensor = torch.full_like(output.mean, math.nan)
    return found if name is None else getattr(output, name).expand(output.batch_shape)


def unexpanded(value: Tensor) -> Tensor:
    """Undo `expand`, which `Normal` does to a std that is the same everywhere."""
    for dim, stride in enumerate(value.stride()):
        if stride == 0:
            value = value.narrow(dim, 0, 1)
    return value


def scored(output: Distribution, target: Tensor) -> Scored:
    """Return what a distribution says of its targets.

    Args:
        output: Elementwise, (samples, rows, features).
        target: Flat rows, (rows, features); of classes one-hot, positions side by side.

    Raises:
        DataError: Targets of classes that are not one-hot.

    Example:
        >>> found = scored(Bernoulli(logits=torch.zeros(1, 1, 2)), torch.tensor([[0.0, 1.0]]))
        >>> found.score, found.curvature
        (tensor([[[-0.5000,  0.5000]]]), tensor([[[0.2500, 0.2500]]]))
    """
    if isinstance(output, Normal):
        error, precision = target - output.loc, output.scale.square().reciprocal()
        logs = output.scale.log() + 0.5 * math.log(2 * math.pi)
        density = -0.5 * error.square() * precision - logs
        return Scored(density.sum(-1), error * precision, precision.expand_as(error))
    if isinstance(output, Bernoulli):
        logits, mean = output.logits, output.probs
        density = target * logits - functional.softplus(logits)
        return Scored(density.sum(-1), target - mean, mean * (1 - mean))
    if isinstance(output, Poisson):
        rate = output.rate
        data = -(target + 1).lgamma().sum(-1).expand(rate.shape[:-1])
        density = (torch.xlogy(target, rate) - rate).sum(-1) + data
        return Scored(density, target - rate, rate, data)
    if isinstance(output, NegativeBinomial):
        return _negative_binomial(output, target)
    if isinstance(output, OneHots):
        _check_one_hot(output, target)
        probs = output.mean
        return Scored(output.log_prob(target).sum(-1), target - probs, probs)
    return _by_autograd(output, target)


def _negative_binomial(output: NegativeBinomial, target: Tensor) -> Scored:
    """With the log of the mean as output; nothing here overflows, whatever the logits are."""
    count, logits = output.total_count, output.logits  # mean = count * exp(logits)
    curvature = count * logits.sigmoid()
    log_mean = torch.where(target > 0, count.log() + logits, 0.0)
    density = log_prob(output, target)
    # Less what the mean decides.
    data = density - target * log_mean + (target + count) * functional.softplus(logits)
    score = target * (-logits).sigmoid() - curvature
    return Scored(density.sum(-1), score, curvature, data.sum(-1))


def mean_curvature(output: Distribution, curvature: Tensor) -> Tensor:
    """Return the curvature of scores, (samples, rows, features), averaged over samples.

    Of classes such that `diag(h) - h h' / sum(h)` has the trace that the matrices have on average.
    """
    average = curvature.mean(0)
    if not isinstance(output, OneHots):
        return average
    total = 1 - _summed(output, curvature.square()).mean(0)
    of_average = 1 - _summed(output, average.square())
    return average * (total / of_average.clamp_min(TINY))


def _summed(output: OneHots, values: Tensor) -> Tensor:
    """The sum over the classes of a position, at each of its classes."""
    widths = torch.tensor(output.classes, device=values.device)
    position = torch.repeat_interleave(torch.arange(len(widths), device=values.device), widths)
    sums = values.new_zeros(*values.shape[:-1], len(widths))
    return sums.index_add(-1, position, values)[..., position]


def _check_one_hot(output: OneHots, target: Tensor) -> None:
    sums = _summed(output, target)
    if float((sums - 1).abs().max()) > ONE_HOT:
        raise DataError(
            "data",
            f"a position whose classes sum to {float(sums[(sums - 1).abs() > ONE_HOT][0]):.4g}",
            "one class of 1 in each position, in the order that the decoder gives",
            "Check that targets and the decoder's logits both end in (positions, classes).",
        )


def _by_autograd(output: Distribution, target: Tensor) -> Scored:
    """By the slopes of log p along a location or logits, if there is one to move."""
    known = copy.copy(output)
    known._validate_args = False  # soft targets are outside of what many call their support
    density = known.log_prob(target).sum(-1)
    name, constraints = _movable(output), output.arg_constraints
    if name is None:
        return Scored(density)
    with recording():
        given = {
            key: getattr(output, key).detach().clone() for key in constraints if key != "probs"
        }
        target = target.clone()
        place = given[name].expand(output.batch_shape).clone().requires_grad_()
        moved = type(output)(**{**given, name: place}, validate_args=False)
        log = moved.log_prob(target).sum()
        (slope,) = torch.autograd.grad(log, place, create_graph=True)
        bend = None
        if slope.requires_grad:
            (bend,) = torch.autograd.grad(slope.sum(), place, allow_unused=True)
    # A slope of steps, such as a Laplace's, bends only at its kink, which no target shows.
    if bend is None or not bool((bend != 0).any()):
        return Scored(density)
    return Scored(density, slope.detach(), -bend)


def _movable(output: Distribution) -> str | None:
    """The name of the parameter along which one more unit could move a distribution."""
    constraints: dict[str, Any] = getattr(output, "arg_constraints", {})
    if output.event_shape:
        return None
    return next((name for name in ("loc", "logits") if name in constraints), None)


def no_score_because(output: Distribution) -> str:
    """Return why a distribution that `scored` gave no score has none, as a clause.

    Example:
        >>> no_score_because(torch.distributions.Laplace(0.0, 1.0))
        'the density of a Laplace has a kink: no curvature to measure signal in'
    """
    kind = type(output).__name__
    if _movable(output):
        return f"the density of a {kind} has a kink: no curvature to measure signal in"
    return f"a {kind} has no location or logits that one more unit could move"


class Noise:
    """F, the noise that a likelihood tolerates in its scores, and scores in units of it.

    F is the mean curvature of the rows. Where a feature hardly varies, F is near 0 and the quotient
    of two numbers near 0 tells how sure of itself the decoder is, not what a unit could gain. So
    F is at least what it would be were the decoder right about that feature's mean and variance,
    and a feature that only few rows make vary counts for less.

    Args:
        scores: Averages, (rows, features).
        curvature: As of `scores.Scored`, (rows, features).
        classes: Of each position; none: features are numbers of their own.
        kind: Of the targets, if their scores are those of logits or log rates.

    Attributes:
        notes: Which features are left out, as F is not positive there.
    """

    def __init__(
        self,
        scores: Floats,
        curvature: Floats,
        classes: Sequence[int] = (),
        kind: Kind | None = None,
    ) -> None:
        mean = scores.mean(0, dtype=np.float64)
        squares = np.square(scores, dtype=np.float64)
        variance = squares.mean(0)
        self._classes = np.array(classes, dtype=np.intp)
        own = self._diagonal(curvature)
        if kind == "counts":
            # Of a Poisson F is the rate, and rate and score add up to the count.
            least = own + np.maximum(mean, 0.0)
        elif kind == "shares":
            # What lies between 0 and 1 varies by no more than F, if its mean is right.
            least = np.maximum(own, variance)
        else:
            least = own
        rows = np.divide(
            variance**2 * len(scores),
            np.square(squares).mean(0),
            out=np.full_like(own, np.inf),
            where=variance > 0,
        )
        few = np.maximum(1.0, ROWS_TO_COUNT / rows)
        self._factor: Float = few * np.divide(least, own, out=np.ones_like(own), where=own > 0)
        self._least: Float = np.where(own > 0, 0.0, least * few)
        lost = int(np.count_nonzero((own * self._factor + self._least <= 0) & (variance > 0)))
        self.notes = (_left_out(lost),) if lost else ()
        self.root = self.inverse_root(curvature)

    def inverse_root(self, curvature: Floats) -> list[tuple[slice, Float]]:
        """Return F^{-1/2} of some rows: where, and its diagonal or a matrix per position."""
        own = self._diagonal(curvature)
        noise = own * self._factor + self._least
        found = []
        for where, width in self._groups(len(own)):
            if 1 < width <= MOST_CLASSES:
                h = curvature[:, where].reshape(len(curvature), -1, width).astype(np.float64)
                added = (noise - own)[where].reshape(-1, width)
                found.append((where, _inverse_roots(h, added)))
            else:
                std = np.sqrt(np.maximum(noise[where], 0.0))
                root = np.divide(1.0, std, out=np.zeros_like(std), where=std > 0)
                found.append((where, root))
        return found

    def _groups(self, features: int) -> Iterator[tuple[slice, int]]:
        """Features of neighbouring positions of as many classes, and how many."""
        if not len(self._classes):
            yield slice(0, features), 1
            return
        start = 0
        for width, positions in groupby(self._classes.tolist()):
            end = start + width * len(list(positions))
            yield slice(start, end), width
            start = end

    def _diagonal(self, curvature: Floats) -> Float:
        """Of F."""
        h = curvature.astype(np.float64)
        if len(self._classes):
            starts = np.cumsum(self._classes) - self._classes
            total = np.repeat(np.add.reduceat(h, starts, axis=1), self._classes, axis=1)
            h = h - np.divide(h * h, total, out=np.zeros_like(h), where=total > 0)
        found: Float = h.mean(0)
        return found

    @staticmethod
    def applied(root: list[tuple[slice, Float]], scores: Floats) -> Floats:
        """Return scores (..., features) in units of the noise."""
        found = np.empty_like(scores)
        for where, part in root:
            part = part.astype(scores.dtype)
            if part.ndim == 1:
                found[..., where] = scores[..., where] * part
                continue
            split = scores[..., where].reshape(-1, *part.shape[:2])
            white = np.einsum("npk,pkl->npl", split, part, optimize=True)
            found[..., where] = white.reshape(scores[..., where].shape)
        return found


def _left_out(features: int) -> str:
    some = "1 feature is" if features == 1 else f"{features:,} features are"
    return (
        f"{LEFT_OUT}what {some} worth, whose log density has no negative second derivative on "
        "average: these outputs are far from their best"
    )


def _inverse_roots(h: Float, added: Float) -> Float:
    """F^{-1/2} of positions of as many classes, (positions, classes, classes).

    From curvatures, (rows, positions, classes), and what is added to F's diagonal.
    """
    root = h / np.sqrt(np.maximum(h.sum(-1, keepdims=True), np.finfo(float).tiny))
    matrices: Float = -np.einsum("npk,npl->pkl", root, root, optimize=True) / len(h)
    index = np.arange(h.shape[-1])
    matrices[:, index, index] += h.mean(0) + added
    values, vectors = np.linalg.eigh(matrices)
    # Along constants a softmax does not move: there F is 0, and so are the scores.
    least = SINGULAR * np.maximum(values[:, -1:], np.finfo(float).tiny)
    inverse = np.where(values > least, 1 / np.sqrt(np.maximum(values, least)), 0.0)
    found: Float = (vectors * inverse[:, None, :]) @ vectors.transpose(0, 2, 1)
    return found
