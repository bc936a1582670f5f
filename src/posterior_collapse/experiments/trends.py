"""Which way measured values go as a setting grows, by one criterion for all rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from posterior_collapse.experiments.parts import Check

__all__ = ["CONSISTENT", "Way", "along_lines", "direction", "follows", "monotone"]

Way: TypeAlias = Literal["rises", "falls", "hardly changes", "rises and falls"]
CONSISTENT = 0.5
"""Mean rank correlation over the lines of a grid from which values count as moving together."""


def direction(values: Sequence[float], slack: float) -> Way:
    """Return which way values go, in order.

    Args:
        values: One per setting.
        slack: What a step may go the other way, and what start and end have to differ by.

    Example:
        >>> [direction(v, 0.1) for v in ([1, 2, 1.95, 3], [3, 2, 2, 1], [1, 1.02], [1, 3, 2])]
        ['rises', 'falls', 'hardly changes', 'rises and falls']
    """
    steps = np.diff(values)
    up, down = float(steps.max(initial=0.0)) > slack, float(steps.min(initial=0.0)) < -slack
    if up and down:
        return "rises and falls"
    change = values[-1] - values[0]
    if abs(change) <= slack:
        return "hardly changes"
    return "rises" if change > 0 else "falls"


def monotone(
    what: str, name: str, points: Sequence[tuple[float, float]], expected: Way, slack: float
) -> Check:
    """Return whether a measure goes the expected way; the sentence says which way it goes.

    Args:
        what: The measure.
        name: The setting.
        points: Pairs of setting and measure.
        expected: By claim and theory.
        slack: As in `direction`.

    Example:
        >>> monotone("KL", "beta", [(2, 1.5), (1, 3.0)], "falls", 0.1).text
        'KL falls with beta (1: 3, 2: 1.5).'
    """
    ordered = sorted(points)
    found = direction([value for _, value in ordered], slack)
    numbers = ", ".join(f"{at:g}: {value:.4g}" for at, value in ordered)
    return _check(found, expected, f"{what} {found} with {name} ({numbers})")


def along_lines(grid: ArrayLike) -> float:
    """Return the rank correlation along the last axis, averaged over lines; 0 for constant ones.

    Within a line nothing else varies, so that a weaker influence is not hidden by a stronger one.

    Example:
        >>> along_lines([[1, 2, 3], [10, 20, 30]]), along_lines([[1, 1], [2, 1]])
        (1.0, -0.5)
    """
    ranks = np.apply_along_axis(rankdata, -1, np.asarray(grid, dtype=float))
    places = np.arange(ranks.shape[-1]) - (ranks.shape[-1] - 1) / 2
    ranks -= ranks.mean(-1, keepdims=True)
    size = np.sqrt((ranks**2).sum(-1) * (places**2).sum())
    return float(np.mean(ranks @ places / np.where(size > 0, size, 1.0)))


def follows(what: str, name: str, correlation: float, expected: Way) -> Check:
    """Return whether a measure follows a setting over a grid, by `along_lines`.

    Example:
        >>> follows("Error", "beta_2", 0.11, "rises").text
        'Error neither rises nor falls with beta_2 (mean rank correlation 0.11); expected: rises.'
    """
    found: str = "neither rises nor falls"
    if abs(correlation) >= CONSISTENT:
        found = "rises" if correlation > 0 else "falls"
    text = f"{what} {found} with {name} (mean rank correlation {correlation:.2f})"
    return _check(found, expected, text)


def _check(found: str, expected: Way, text: str) -> Check:
    agrees = found == expected
    return Check(agrees, f"{text}." if agrees else f"{text}; expected: {expected}.")
