"""Points: measures against a setting with their spread, and one quantity against another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from posterior_collapse.experiments.figures.chart import (
    MARKERS,
    Chart,
    Line,
    array,
    grid,
    legends_below,
    looks,
    style,
)
from posterior_collapse.experiments.tables import Table
from posterior_collapse.report.figures import BLUE

Points: TypeAlias = tuple[Sequence[str] | ArrayLike, ArrayLike, ArrayLike]
"""Settings (numbers, or words in order), means, and stds over seeds (NaN where unknown)."""


def spread(panels: Mapping[str, Mapping[str, Points]], *, variable: str) -> Chart:
    """Draw measures (NLL, KL, active units, ...) against a setting, with error bars over seeds.

    Args:
        panels: Measure with its unit -> label -> points. Settings stand at equal steps, in order,
            named by their value: grids of beta are geometric, and some settings are words.
        variable: Name of the setting.

    Example:
        >>> chart = spread({"NLL (nats)": {"relu": ([0.5, 1], [90, 95], [1, 2])}}, variable="beta")
        >>> chart.table.rows[0]
        ['NLL (nats)', 'relu', '0.5', 90.0, 1.0]
    """
    rows = []
    with style():
        figure, axes = grid(list(panels), height=2.1, most=2)
        for box, (measure, lines) in zip(axes, panels.items(), strict=True):
            settings = list(dict.fromkeys(name for p in lines.values() for name in _names(p[0])))
            shifts = 0.1 * (np.arange(len(lines)) - (len(lines) - 1) / 2)
            shapes = zip(lines.items(), looks(len(lines)), cycle(MARKERS), shifts, strict=False)
            for (label, points), look, marker, shift in shapes:
                names, mean, std = _names(points[0]), array(points[1]), array(points[2])
                at = [settings.index(name) + shift for name in names]
                shape = {**look, "marker": marker, "ms": 4, "mfc": "white", "capsize": 2, "lw": 1}
                if np.asarray(points[0]).dtype.kind == "U":
                    shape["linestyle"] = ""  # nothing lies between words
                box.errorbar(at, mean, std, label=label, **shape)
                points_there = zip(names, mean.tolist(), std.tolist(), strict=True)
                rows += [[measure, label, *point] for point in points_there]
            box.set_xticks(range(len(settings)), settings)
            if sum(map(len, settings)) > 24:
                box.tick_params(axis="x", rotation=30)
            box.margins(x=0.08)
            box.set_xlabel(variable)
        legends_below(figure, axes)
    return Chart(figure, Table(["measure", "curve", variable, "mean", "std"], rows))


def scatter(
    points: Mapping[str, Line],
    *,
    x: str,
    y: str,
    names: Sequence[str] = (),
    diagonal: bool = False,
) -> Chart:
    """Draw one quantity against another, e.g. predicted against measured, a panel per label.

    Args:
        points: Label (e.g. of an architecture) -> (x, y).
        x: Name of the x axis, with its unit.
        y: Name of the y axis, with its unit.
        names: What each point is, e.g. its digit, in the order of the points: written beside it.
        diagonal: Whether to draw the line on which both are equal.

    Example:
        >>> chart = scatter({"mlp": ([1, 2], [3, 4])}, x="theory", y="measured", names="01")
        >>> chart.table.rows
        [['mlp', '0', 1.0, 3.0], ['mlp', '1', 2.0, 4.0]]
    """
    rows = []
    with style():
        figure, axes = grid(list(points), height=2.2, sharex=True, sharey=True)
        for box, (label, line) in zip(axes, points.items(), strict=True):
            across, up = map(array, line)
            box.plot(across, up, "o", color=BLUE, ms=3)
            written = list(names) or [""] * across.size
            for name, a, u in zip(written, across.tolist(), up.tolist(), strict=True):
                box.annotate(name, (a, u), (2.5, 2), textcoords="offset points", size=7)
                rows.append([label, name, a, u])
            if diagonal:
                box.axline((across[0], across[0]), slope=1, color="black", lw=0.8, ls=":", zorder=0)
            box.margins(0.12)
            box.set_xlabel(x)
        axes[0].set_ylabel(y)
    return Chart(figure, Table(["panel", "name", x, y], rows))


def _names(settings: Sequence[str] | ArrayLike) -> list[str]:
    return [s if isinstance(s, str) else f"{s:g}" for s in np.asarray(settings).ravel().tolist()]
