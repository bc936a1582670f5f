"""A sweep over a hyperparameter: what was measured beside what theory says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

KINDS: tuple[dict[str, Any], ...] = (
    {"marker": "o", "ms": 3},
    {"marker": "x", "ms": 5},
    {"marker": "s", "ms": 4},
)
"""Markers of measurements by kind of run; theory has the lines."""


def sweep(theory: Panels, measured: Mapping[str, Panels], *, variable: str = "beta") -> Chart:
    """Draw theory as lines and measurements as markers, a panel per quantity.

    Args:
        theory: Quantity with its unit, e.g. "KL (nats)" -> label, e.g. "z1", or "" where there is
            only one -> (values, theory).
        measured: Kind of run, e.g. "exact training", at most three -> quantity -> label ->
            (values, measured). Quantities and labels are some of theory's.
        variable: Name of the values.

    Example:
        >>> theory = {"KL (nats)": {"": ([0.5, 1], [1.0, 0.2])}}
        >>> chart = sweep(theory, {"minibatches": {"KL (nats)": {"": ([0.5], [0.9])}}})
        >>> chart.table.rows[-1]
        ['minibatches', 'KL (nats)', '', 0.5, 0.9]
    """
    labels = sorted({label for lines in theory.values() for label in lines} - {""})
    colors = dict(zip(labels, (BLUE, ORANGE, GREEN), strict=False))
    looks: dict[str, dict[str, Any]] = {
        label: {"color": colors.get(label, "black"), "ls": dashes}
        for label, dashes in zip(["", *labels], DASHES[:1] + DASHES, strict=False)
    }
    with style():
        figure, axes = grid(list(theory), height=1.9, most=2)
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
        box.plot(values, expected, lw=0.9, **looks[label])
        for kind, found in zip(KINDS, measured, strict=False):
            if label in found:
                values, height = map(array, found[label])
                shape: dict[str, Any] = {**kind, "color": looks[label]["color"], "mfc": "none"}
                box.plot(values, height, ls="", **shape)
    if counts:
        box.yaxis.set_major_locator(MaxNLocator(integer=True))


def _legend(kinds: Sequence[str], looks: Mapping[str, dict[str, Any]]) -> list[Line2D]:
    """Return what markers mean in black, then what colours and dashes mean."""
    from matplotlib.lines import Line2D

    black: dict[str, Any] = {"color": "black", "mfc": "none"}
    return [
        Line2D([], [], label="theory", **black),
        *(
            Line2D([], [], ls="", label=kind, **black, **marker)
            for kind, marker in zip(kinds, KINDS, strict=False)
        ),
        *(Line2D([], [], label=label, **look) for label, look in looks.items()),
    ]
