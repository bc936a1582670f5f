"""What a sweep's runs are laid out along, for figures and pages alike."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from posterior_collapse.errors import DataError
from posterior_collapse.report.names import named, symbol

if TYPE_CHECKING:
    from posterior_collapse.data.about import About

__all__ = ["Layout", "Swept", "lay_out", "names_of", "optimum_of", "side", "varying"]

WIDE = 7.0
"""Ratio of the ends of an axis from which on it is logarithmic."""


class Swept(Protocol):
    """What is looked at: a `Sweep`, which a room above makes."""

    @property
    def labels(self) -> Sequence[Mapping[str, Any]]:
        """Per run the values of what varies."""

    @property
    def runs(self) -> Sequence[Any]:
        """The runs, each with `measured`, `forecast`, `stopped` and `history`."""

    @property
    def _about(self) -> About:
        """What the data are called."""


@dataclass(frozen=True)
class Layout:
    """Where runs stand.

    Attributes:
        axis: What varies along the axis; "run" where no number does.
        places: Of each run on it.
        series: The runs that one line serves, in the order of the axis, by what they share. Seeds
            are several dots of one series.
        across: The second number of a grid, which makes a map of it; else None.
    """

    axis: str
    places: tuple[float, ...]
    series: dict[str, tuple[int, ...]]
    across: str | None

    @property
    def wide(self) -> bool:
        """Whether the axis is logarithmic."""
        return is_wide(self.places)


def is_wide(places: Any) -> bool:
    """Return whether numbers are of several orders of magnitude."""
    return bool(min(places) > 0 and max(places) > WIDE * min(places))


def lay_out(labels: Sequence[Mapping[str, Any]]) -> Layout:
    """Return where runs stand that are told apart by these values.

    Example:
        >>> found = lay_out([{"beta": b, "seed": s} for b in (2.0, 1.0) for s in (0, 1)])
        >>> found.axis, found.series, found.across
        ('beta', {'': (2, 3, 0, 1)}, None)
    """
    numeric = [
        name for name in labels[0]
        if all(isinstance(v[name], (int, float)) and not isinstance(v[name], bool) for v in labels)
    ]  # fmt: skip
    numeric.sort(key=lambda name: name == "seed")  # an axis only if nothing else varies
    axis = numeric[0] if numeric else "run"
    places = [float(label[axis]) if numeric else i for i, label in enumerate(labels, 1)]
    split = [name for name in labels[0] if name not in (axis, "seed")]
    across = split[0] if len(split) == 1 and split[0] in numeric else None
    if across and len({label[across] for label in labels}) * len(set(places)) > len(labels):
        across = None  # no grid: some of its cells would be empty
    series: dict[str, list[int]] = {}
    for i in sorted(range(len(labels)), key=places.__getitem__):
        name = named({n: labels[i][n] for n in split}) if numeric else ""
        series.setdefault(name, []).append(i)
    return Layout(axis, tuple(places), {n: tuple(m) for n, m in series.items()}, across)


def names_of(found: Swept) -> list[str]:
    """Return what to call each run: by what varies, or else by its number."""
    return [named(label) or f"run {number}" for number, label in enumerate(found.labels, 1)]


def varying(found: Swept) -> str:
    """Return what is not the same for all runs, e.g. "β and seed vary"."""
    names = [symbol(name) for name in found.labels[0]]
    if len(names) < 2:
        return f"{names[0]} varies" if names else "nothing varies"
    return f"{', '.join(names[:-1])} and {names[-1]} vary"


def optimum_of(fitted: Any) -> Any:
    """Return the forecast of a run; None where there is none, or its data cannot be read again.

    Args:
        fitted: What `fit` returned.
    """
    with contextlib.suppress(DataError):
        return fitted.forecast
    return None


def side(run: Any, which: str, level: int) -> float | None:
    """Return the loss (level 0) or the active units of a level, as measured or as forecast.

    Args:
        run: Of a sweep.
        which: "measured" or "forecast".
        level: From 1; 0: the loss.
    """
    found = getattr(run, which)
    if found is None or level > len(found["levels"]):
        return None
    number = found["levels"][level - 1]["n_active"] if level else found["loss"]
    return None if number is None or number != number else float(number)
