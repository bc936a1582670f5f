"""Which way a measure goes along the values of a grid, and where it is least."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata, sem
from scipy.stats import t as student

from posterior_collapse.experiments.checks import Check, rounded
from posterior_collapse.report.names import value

Way: TypeAlias = Literal["rises", "falls", "hardly changes", "rises and falls", "falls and rises"]
SLACK = 0.02
"""Of a measure's range over the settings: less is not seen in a figure (see the document)."""
CONSISTENT = 0.5
"""Mean rank correlation over the lines of a grid from which values count as moving together: for
five lines of five, as in E4, twice the 0.22 by which it varies where there is no order."""


def direction(values: Sequence[float], slack: float) -> Way:
    """Return which way values go, in order.

    Args:
        values: One per setting.
        slack: What values may go the other way, and what start and end have to differ by.

    Example:
        >>> [direction(v, 0.1) for v in ([1, 2, 1.95, 3], [3, 2, 2, 1], [1, 1.02], [1, 3, 2])]
        ['rises', 'falls', 'hardly changes', 'rises and falls']
        >>> direction([3, 1, 2], 0.1), direction([0, 0.09, 0.18, 0.09, 0], 0.1)
        ('falls and rises', 'rises and falls')
    """
    found = np.asarray(values, dtype=float)
    # Above the least, and below the greatest, of those before: small steps add up.
    above = found - np.minimum.accumulate(found) > slack
    below = np.maximum.accumulate(found) - found > slack
    if above.any() and below.any():
        rises_first = np.argmax(above) < np.argmax(below)
        return "rises and falls" if rises_first else "falls and rises"
    change = values[-1] - values[0]
    if abs(change) <= slack:
        return "hardly changes"
    return "rises" if change > 0 else "falls"


def monotone(
    what: str, name: str, points: Iterable[tuple[float, float]], expected: Way, slack: float
) -> Check:
    """Return whether a measure goes the expected way; the sentence says which way it goes.

    Example:
        >>> monotone("KL", "beta", [(2, 1.5), (1, 3.0)], "falls", 0.1).text
        'KL falls with beta (1: 3, 2: 1.5).'
    """
    ordered = sorted(points)
    numbers = ", ".join(f"{at:g}: {found:.4g}" for at, found in ordered)
    if len(ordered) < 2:
        return Check(
            None, f"{what} was not measured at two values of {name} ({numbers or 'none'})."
        )
    way = direction([found for _, found in ordered], slack)
    return _held(way, expected, f"{what} {way} with {name} ({numbers})")


At = TypeVar("At", float, str)
SURE = 0.95
"""Confidence (Student's t, paired by seed) from which seeds tell two settings apart."""


def least(
    what: str,
    name: str,
    values: Mapping[At, Sequence[float]],
    expected: At,
    too_high: Mapping[At, float] | None = None,
) -> Check:
    """Return whether a measure is least at the expected setting, as far as the seeds can tell.

    Args:
        what: The measure.
        name: The setting.
        values: Setting -> the measure of each seed, the same seeds in the same order.
        expected: Where it is least by theory.
        too_high: Setting -> by how much its values may be too high; None: they are not.

    Returns:
        The check: it agrees if every other setting is surely above, differs if one of them is
        surely below (surer the more there are, by Bonferroni), and did not measure it where the
        seeds do not tell.

    Example:
        >>> print(least("NLL", "beta", {1: [2.0, 2.1], 2: [3.0, 3.2], 4: [2.2, 2.0]}, 1).text)
        NLL is by theory least at beta = 1. From there: 2: +1.05 ± 0.05; 4: +0.05 ± 0.15 (not sure).
    """
    sure_above, sure_below, told = [], [], []
    bias, others = too_high or {}, len(values) - 1
    where = f"{name} = {value(expected)}"
    beside = {at: of for at, of in sorted(values.items()) if at != expected and len(of)}
    if not beside or not len(values[expected]):
        return Check(None, f"{what}: of no other setting are there runs of the seeds of {where}.")
    for setting, of in beside.items():
        off = np.subtract(of, values[expected])
        free = len(off) - 1
        error = float(sem(off)) if free else np.inf
        one, all_of_them = (student.ppf(1 - (1 - SURE) / 2 / n, free or 1) for n in (1, others))
        mean = float(np.mean(off))
        sure_above.append(bool(mean - bias.get(setting, 0.0) > error * one))
        sure_below.append(bool(mean + bias.get(expected, 0.0) < -error * all_of_them))
        spread, unsure = f" ± {error:.2g}" if len(off) > 1 else "", ""
        if not (sure_above[-1] or sure_below[-1]):
            why = ": the values may be too high by more" if abs(mean) > error * all_of_them else ""
            unsure = f" (not sure{why})"
        told.append(f"{value(setting)}: {rounded(mean):+.3g}{spread}{unsure}")
    agrees = True if all(sure_above) else False if any(sure_below) else None
    text = f"{what} is by theory least at {where}. From there: {'; '.join(told)}."
    return Check(agrees, text)


def along_lines(grid: ArrayLike) -> float:
    """Return the rank correlation along the last axis, averaged over lines; 0 for constant ones.

    NaN of lines of one value.

    Within a line nothing else varies, so that a weaker influence is not hidden by a stronger one.

    Example:
        >>> along_lines([[1, 2, 3], [10, 20, 30]]), along_lines([[1, 1], [2, 1]])
        (1.0, -0.5)
    """
    ranks = np.apply_along_axis(rankdata, -1, np.asarray(grid, dtype=float))
    if ranks.shape[-1] < 2:
        return np.nan
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
    if np.isnan(correlation):
        return Check(None, f"{what} was not measured at two values of {name}.")
    found = "neither rises nor falls"
    if abs(correlation) >= CONSISTENT:
        found = "rises" if correlation > 0 else "falls"
    said = f"{what} {found} with {name} (mean rank correlation {correlation:.2f})"
    return _held(found, expected, said)


def _held(found: str, expected: Way, said: str) -> Check:
    agrees = found == expected
    return Check(agrees, f"{said}." if agrees else f"{said}; expected: {expected}.")
