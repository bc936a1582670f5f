"""What figures and pages draw of trained runs: where each stands, and its KL stacked by unit.

A sweep, and what `fit` returned, are made by a room above: here they are `Any`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.arrays import Float
from posterior_collapse.diagnosis.conclusions import kept_of
from posterior_collapse.errors import DataError, count_of, enumerated
from posterior_collapse.report.names import named, symbol, theory

if TYPE_CHECKING:
    from posterior_collapse.theory import Forecast

History = Mapping[str, Sequence[float]]
WIDE = 7.0
"""Ratio of the ends of an axis from which on it is logarithmic."""
MOST_NAMED, LONGEST = 10, 60
"""Series that a figure names, and letters of a name: more would hide what is drawn."""
MOST_BANDS = 10
"""Units that have a colour of their own."""


@dataclass(frozen=True)
class Layout:
    """Where runs stand.

    Attributes:
        axis: What varies along the axis; "run" where no number does.
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

    @property
    def named(self) -> bool:
        """Whether there is room for the names of the series."""
        return len(self.series) <= MOST_NAMED


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
    split = [name for name in labels[0] if name not in (axis, "seed")]
    others = [named({name: label[name] for name in split}) for label in labels]
    if numeric and max(map(len, others)) > LONGEST:  # as of models of several kinds
        axis, numeric = "run", []
    places = [float(label[axis]) if numeric else i for i, label in enumerate(labels, 1)]
    across = split[0] if len(split) == 1 and split[0] in numeric else None
    cells = {(place, label.get(across or "")) for place, label in zip(places, labels, strict=True)}
    if across and len({cell[1] for cell in cells}) * len(set(places)) > len(cells):
        across = None  # no grid: some of its cells would be empty
    series: dict[str, list[int]] = {}
    for i in sorted(range(len(labels)), key=places.__getitem__):
        series.setdefault(others[i] if numeric else "", []).append(i)
    return Layout(axis, tuple(places), {n: tuple(m) for n, m in series.items()}, across)


def names_of(found: Any) -> list[str]:
    """Return what to call each run: by what varies, or else by its number."""
    return [named(label) or f"run {number}" for number, label in enumerate(found.labels, 1)]


def varying(found: Any) -> str:
    """Return what is not the same for all runs, e.g. "β and seed vary"."""
    names = [symbol(name) for name in found.labels[0]]
    return f"{enumerated(names) or 'nothing'} {'vary' if len(names) > 1 else 'varies'}"


def optimum_of(fitted: Any) -> Forecast | None:
    """Return the forecast of a run; None where there is none, or its data cannot be read again."""
    with contextlib.suppress(DataError):
        forecast: Forecast | None = fitted.forecast
        return forecast
    return None


def expected(forecast: Forecast | None) -> dict[str, Any] | None:
    """Return what a history is compared with; see `beside`."""
    if forecast is None:
        return None
    levels = [{"kl": level.kl, "information": level.information} for level in forecast.levels]
    return beside({"loss": forecast.loss, "levels": levels}, forecast.spec)


def beside(forecast: Mapping[str, Any] | None, spec: Any) -> dict[str, Any] | None:
    """Return loss, and KL and active units of levels, as forecast, with what to call it, `theory`.

    A unit is active if it would count as such in a trained model. The loss is NaN where the
    forecast is an approximation: a trained one may be below.
    """
    if forecast is None:
        return None
    return {
        "loss": forecast["loss"] if spec.likelihood == "gaussian" else np.nan,
        "levels": [{"kl": level["kl"], "n_active": kept_of(level)} for level in forecast["levels"]],
        "theory": theory(spec),
    }


def theories(found: Any) -> str:
    """Return what the forecasts of a sweep's runs are called; "" where none has one."""
    return " or ".join(dict.fromkeys(theory(r.run.spec) for r in found.runs if r.forecast))


def side(run: Any, which: str, level: int) -> float | None:
    """Return the loss (level 0) or the active units of a level, as measured or as forecast."""
    found = run.measured if which == "measured" else beside(run.forecast, run.run.spec)
    if found is None or level > len(found["levels"]):
        return None
    number = found["levels"][level - 1]["n_active"] if level else found["loss"]
    return None if number is None or number != number else float(number)


class Band(NamedTuple):
    """One layer of a stack, from the bottom.

    Attributes:
        name: "unit 3", "18 others", or "all units" where those of single units are not kept.
        unit: Its index; None: it is several.
        low: Where it begins, (epochs,), in nats.
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


def unit_of_time(history: History) -> str:
    """Return what the rows of a history count: epochs, or iterations over all rows at once.

    Example:
        >>> unit_of_time({"epoch": [1, 2], "step": [8, 16]}), unit_of_time({"epoch": [10, 20],
        ...     "step": [10, 20]})
        ('epoch', 'iteration')
    """
    alike = np.array_equal(column(history, "epoch"), column(history, "step"))
    return "iteration" if alike else "epoch"


def thinned(count: int, most: int) -> NDArray[np.intp]:
    """Return at most so many of a number of places, the first and the last among them.

    Example:
        >>> thinned(7, 4).tolist()
        [0, 2, 4, 6]
    """
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.intp))


def bands(history: History, level: int) -> list[Band]:
    """Return the KL of a level's units, one upon the other, what is largest in the end below.

    Beyond ten units the others share a band.

    Example:
        >>> history = {"epoch": [1, 2], "kl_1": [3.0, 3.0], "kl_1_1": [1, 1], "kl_1_2": [2, 2]}
        >>> [(band.name, band.high.tolist()) for band in bands(history, 1)]
        [('unit 2', [2.0, 2.0]), ('unit 1', [3.0, 3.0])]
    """
    of_units: list[Float] = []
    while (name := f"kl_{level}_{len(of_units) + 1}") in history:
        of_units.append(column(history, name))
    if not of_units:
        total = column(history, f"kl_{level}")
        return [Band("all units", None, np.zeros_like(total), total)]
    # Below the top level a KL may be negative, which has no place in a stack.
    kl = np.maximum(np.nan_to_num(np.array(of_units)), 0.0)
    order = np.argsort(-kl[:, -1], kind="stable")
    parts: list[tuple[str, int | None, Float]] = []
    parts += [(f"unit {unit + 1}", int(unit), kl[unit]) for unit in order[:MOST_BANDS]]
    rest = order[MOST_BANDS:]
    if len(rest):
        name = count_of(len(rest), "other")
        parts.append((name, None, kl[rest].sum(axis=0)))
    edges = np.cumsum([np.zeros(kl.shape[1]), *(part for _, _, part in parts)], axis=0)
    return [
        Band(name, unit, low, high)
        for (name, unit, _), low, high in zip(parts, edges[:-1], edges[1:], strict=True)
    ]
