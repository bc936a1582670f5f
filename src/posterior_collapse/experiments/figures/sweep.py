"""A sweep over a hyperparameter: what was measured beside what theory says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from posterior_collapse.experiments.figures.chart import (
    DASHES,
    Chart,
    Line,
    Panels,
    array,
    grid,
    long,
    style,
)
from posterior_collapse.experiments.tables import Table
from posterior_collapse.report.figures import BLUE, GREEN, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

COLORS = (BLUE, ORANGE, GREEN)
MARKERS = (("o", 3, 0.6), ("x", 5, 1.0), ("s", 4, 0.6))
"""Marker, its size and its line width, by kind of run; theory has the lines."""


def sweep(theory: Panels, measured: Mapping[str, Panels], *, variable: str = "beta") -> Chart:
    """Draw theory as lines and measurements as markers, a panel per quantity.

    Args:
        theory: Quantity with its unit, e.g. "KL (nats)" -> label, e.g. "z1", or "" where there is
            only one -> (values, theory).
        measured: Kind of run, e.g. "exact training" -> quantity -> label -> (values,
            measured). Quantities and labels are some of theory's.
        variable: Name of the values.

    Example:
        >>> theory = {"KL (nats)": {"": ([0.5, 1], [1.0, 0.2])}}
        >>> chart = sweep(theory, {"minibatches": {"KL (nats)": {"": ([0.5], [0.9])}}})
        >>> chart.table.rows[-1]
        ['minibatches', 'KL (nats)', '', 0.5, 0.9]
    """
    labels = sorted({label for lines in theory.values() for label in lines} - {""})
    looks: dict[str, dict[str, Any]] = {"": {"color": "black", "ls": DASHES[0]}} | {
        label: {"color": color, "ls": dashes}
        for label, color, dashes in zip(labels, cycle(COLORS), cycle(DASHES), strict=False)
    }
    with style():
        figure, axes = grid(list(theory), height=2.1, most=2)
        for box, (quantity, lines) in zip(axes, theory.items(), strict=True):
            _beside(box, lines, [kind.get(quantity, {}) for kind in measured.values()], looks)
            box.set_xlabel(variable)
        handles = _legend(list(measured), {label: looks[label] for label in labels})
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    rows = [
        [source, *row]
        for source, panels in {"theory": theory, **measured}.items()
        for row in long(panels, variable, "value").rows
    ]
    return Chart(figure, Table(["source", "quantity", "curve", variable, "value"], rows))


def _beside(
    box: Axes,
    lines: Mapping[str, Line],
    measured: Sequence[Mapping[str, Line]],
    looks: Mapping[str, dict[str, Any]],
) -> None:
    from matplotlib.ticker import MaxNLocator

    counts = True
    for label, line in lines.items():
        values, expected = map(array, line)
        counts &= bool(np.all(expected == np.rint(expected)))
        box.plot(values, expected, lw=1, zorder=3, **looks[label])
        for number, found in enumerate(measured):
            if label in found:
                values, height = map(array, found[label])
                box.plot(values, height, **_marker(number, looks[label]["color"]))
    if counts:
        box.yaxis.set_major_locator(MaxNLocator(integer=True))
    _name_ends(box, lines)


def _name_ends(box: Axes, lines: Mapping[str, Line]) -> None:
    """Write each curve's label at its right end, for print without colour."""
    ends = sorted((float(array(y)[-1]), float(array(x)[-1]), k) for k, (x, y) in lines.items())
    near = 0.08 * float(np.ptp(box.get_ylim()))
    for (up, across, label), (above, *_) in zip(ends, [*ends[1:], (np.inf, 0.0, "")], strict=True):
        side = "top" if above - up < near else "bottom"
        box.annotate(label, (across, up), (4, 0), textcoords="offset points", size=7, va=side)


def _marker(number: int, color: str) -> dict[str, Any]:
    marker, size, width = MARKERS[number % len(MARKERS)]
    return {"ls": "", "marker": marker, "ms": size, "mew": width, "mfc": "none", "color": color}


def _legend(kinds: Sequence[str], looks: Mapping[str, dict[str, Any]]) -> list[Line2D]:
    """Return what markers mean in black, then what colours and dashes mean."""
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], label="theory", color="black"),
        *(Line2D([], [], label=kind, **_marker(i, "black")) for i, kind in enumerate(kinds)),
        *(Line2D([], [], label=label, **look) for label, look in looks.items()),
    ]
