"""The noise that a likelihood tolerates in its scores, which a signal is measured in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.diagnosis.results import LEFT_OUT

__all__ = ["Kind", "Noise"]

Float = NDArray[np.float64]
Floats = NDArray[np.floating]

MOST_CLASSES = 128
"""Classes of a position up to which they share one matrix: beyond, its diagonal is taken."""
SINGULAR = 1e-6
"""Share of a matrix's largest eigenvalue that is rounding."""
ROWS_TO_COUNT = 10
"""Rows that must make a feature vary before it counts in full."""

Kind = Literal["counts", "shares"]
"""Of targets: counts, or shares from 0 to 1."""


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

    Args:
        h: Curvature, (rows, positions, classes).
        added: To the diagonal of F, (positions, classes).
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
