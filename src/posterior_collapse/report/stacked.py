"""The KL of single units over the epochs, as figures and pages stack it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Band", "bands", "column", "levels_of", "thinned"]

Float = NDArray[np.float64]
History = Mapping[str, Sequence[float]]
MOST_BANDS = 10
"""Units that have a colour of their own."""


class Band(NamedTuple):
    """One layer of a stack, from the bottom.

    Attributes:
        name: "unit 3", "18 others", or "all units" where those of single units are not kept.
        unit: Its index; None: it is several.
        low: Where it begins, (epochs,), in nats.
        high: Where it ends.
    """

    name: str
    unit: int | None
    low: Float
    high: Float


def levels_of(history: History) -> list[int]:
    """Return the levels that a history tells of.

    Example:
        >>> levels_of({"epoch": [1], "kl_1": [0.5], "kl_1_1": [0.5], "kl_2": [0.1]})
        [1, 2]
    """
    numbers = (name.removeprefix("kl_") for name in history if name.startswith("kl_"))
    return sorted(int(number) for number in numbers if number.isdigit())


def column(history: History, name: str) -> Float:
    """Return a column, (epochs,); NaN where there is none."""
    epochs = len(history.get("epoch", ()))
    return np.asarray(history.get(name, [np.nan] * epochs), dtype=np.float64)


def thinned(count: int, most: int) -> NDArray[np.intp]:
    """Return at most so many of a number of places, the first and the last among them.

    Example:
        >>> thinned(7, 4).tolist()
        [0, 2, 4, 6]
    """
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.intp))


def bands(history: History, level: int, most: int = MOST_BANDS) -> list[Band]:
    """Return the KL of a level's units, one upon the other, what is largest in the end below.

    Args:
        history: Of `Fitted`.
        level: From 1.
        most: Units with a band of their own; the others share one.

    Example:
        >>> history = {"epoch": [1, 2], "kl_1": [3.0, 3.0], "kl_1_1": [1, 1], "kl_1_2": [2, 2]}
        >>> [(band.name, band.high.tolist()) for band in bands(history, 1)]
        [('unit 2', [2.0, 2.0]), ('unit 1', [3.0, 3.0])]
    """
    of_units = list(_of_units(history, level))
    if not of_units:
        total = column(history, f"kl_{level}")
        return [Band("all units", None, np.zeros_like(total), total)]
    # Below the top level a KL may be negative, which has no place in a stack.
    kl = np.maximum(np.nan_to_num(np.array(of_units)), 0.0)
    order = np.argsort(-kl[:, -1], kind="stable")
    parts: list[tuple[str, int | None, Float]] = []
    parts += [(f"unit {unit + 1}", int(unit), kl[unit]) for unit in order[:most]]
    if len(order) > most:
        rest = order[most:]
        name = f"{len(rest)} other{'s' * (len(rest) > 1)}"
        parts.append((name, None, kl[rest].sum(axis=0)))
    edges = np.cumsum([np.zeros(kl.shape[1]), *(part for _, _, part in parts)], axis=0)
    return [
        Band(name, unit, low, high)
        for (name, unit, _), low, high in zip(parts, edges[:-1], edges[1:], strict=True)
    ]


def _of_units(history: History, level: int) -> Iterator[Float]:
    unit = 1
    while f"kl_{level}_{unit}" in history:
        yield column(history, f"kl_{level}_{unit}")
        unit += 1
