"""Points: measures against a setting with their spread, and one quantity against another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from posterior_collapse.experiments.figures.chart import (
    MARKERS,
    Chart,
    Line,
    array,
    grid,
    legend_below,
    looks,
    style,
)
from posterior_collapse.experiments.tables import Table

Points: TypeAlias = tuple[Sequence[str] | ArrayLike, ArrayLike, ArrayLike]
"""Settings (numbers, or words in order), means, and stds over seeds (NaN where unknown)."""


def spread(panels: Mapping[str, Mapping[str, Points]], *, variable: str) -> Chart:
    """Draw measures (NLL, KL, active units, ...) against a setting, with error bars over seeds.

    Args:
        panels: Measure with its unit -> label -> points. Settings stand at equal steps, in order,
            labelled by their value: grids of beta are geometric, and some settings are words.
        variable: Name of the setting.

    Example:
        >>> chart = spread({"NLL (nats)": {"relu": ([0.5, 1], [90, 95], [1, 2])}}, variable="beta")
        >>> chart.table.rows[0]
        ['NLL (nats)', 'relu', '0.5', 90.0, 1.0]
    """
    rows = []
    with style():
        figure, axes = grid(list(panels), height=1.9, most=2)
        for box, (measure, lines) in zip(axes, panels.items(), strict=True):
            labels = list(dict.fromkeys(name for p in lines.values() for name in _names(p[0])))
            shifts = 0.12 * (np.arange(len(lines)) - (len(lines) - 1) / 2)
            shapes = zip(lines.items(), looks(len(lines)), MARKERS, shifts, strict=False)
            for (curve, (settings, mean, std)), look, marker, shift in shapes:
                at = [labels.index(name) + shift for name in _names(settings)]
                box.errorbar(
                    at, array(mean), array(std), label=curve, marker=marker, ms=4, capsize=2, **look
                )
                points = zip(
                    _names(settings), array(mean).tolist(), array(std).tolist(), strict=True
                )
                rows += [[measure, curve, *point] for point in points]
            box.set_xticks(range(len(labels)), labels)
            box.margins(x=0.08)
            box.set_xlabel(variable)
        legend_below(figure, axes)
    return Chart(figure, Table(["measure", "curve", variable, "mean", "std"], rows))


def scatter(
    points: Mapping[str, Line],
    *,
    x: str,
    y: str,
    names: Sequence[str] = (),
    diagonal: bool = False,
) -> Chart:
    """Draw one quantity against another, e.g. predicted against measured.

    Args:
        points: Label (e.g. of an architecture) -> (x, y).
        x: Name of the x axis, with its unit.
        y: Name of the y axis, with its unit.
        names: What each point is, e.g. its digit, in the order of the points; written beside it.
        diagonal: Whether to draw the line on which both are equal.

    Example:
        >>> chart = scatter({"mlp": ([1, 2], [3, 4])}, x="theory", y="measured", names="01")
        >>> chart.table.rows
        [['mlp', '0', 1.0, 3.0], ['mlp', '1', 2.0, 4.0]]
    """
    rows = []
    with style():
        figure, (box,) = grid([""], height=2.8)
        shapes = zip(points.items(), looks(len(points)), MARKERS, strict=False)
        for (label, line), look, marker in shapes:
            across, up = (array(values) for values in line)
            color = look["color"]
            box.plot(across, up, marker, color=color, mfc="none", ms=4.5, label=label)
            written = list(names) or [""] * across.size
            for name, a, u in zip(written, across.tolist(), up.tolist(), strict=True):
                box.annotate(name, (a, u), (3, 2), textcoords="offset points", c=color, size=6)
                rows.append([label, name, a, u])
        if diagonal:
            box.axline((0, 0), slope=1, color="black", lw=0.8, ls=":", label="equal")
        box.set_xlabel(x)
        box.set_ylabel(y)
        legend_below(figure, [box])
    return Chart(figure, Table(["curve", "name", x, y], rows))


def _names(settings: Sequence[str] | ArrayLike) -> list[str]:
    return [s if isinstance(s, str) else f"{s:g}" for s in np.asarray(settings).ravel().tolist()]
