"""Points: measures against a setting with their spread, and one quantity against another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from posterior_collapse.experiments.figures.chart import (
    AXIS,
    LETTER,
    MARKERS,
    Chart,
    Line,
    arranged,
    array,
    grid,
    legends_below,
    looks,
    style,
)
from posterior_collapse.experiments.tables import Table
from posterior_collapse.report.figures import BLUE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Settings: TypeAlias = Sequence[str] | ArrayLike
"""Numbers, or words in order."""
Points: TypeAlias = tuple[Settings, ArrayLike, ArrayLike]
"""Settings, means, and stds over seeds (NaN where unknown)."""


def spread(panels: Mapping[str, Mapping[str, Points]], *, variable: str) -> Chart:
    """Draw measures (NLL, KL, active units, ...) against a setting, with error bars over seeds.

    Args:
        panels: Measure with its unit -> label -> points. Settings stand at equal steps, named by
            their value: grids of beta are geometric, and some settings are words. Numbers are
            sorted and joined by lines.
        variable: Name of the setting.

    Example:
        >>> chart = spread({"NLL (nats)": {"relu": ([0.5, 1], [90, 95], [1, 2])}}, variable="beta")
        >>> chart.table.rows[0]
        ['NLL (nats)', 'relu', '0.5', 90.0, 1.0]
    """
    with style():
        most = 2 if len(panels) <= 4 else 3
        figure, axes = grid(list(panels), height=2.1, most=most)
        room = figure.get_figwidth() / arranged(len(panels), most)[1] - AXIS
        for box, lines in zip(axes, panels.values(), strict=True):
            settings = _in_order([points[0] for points in lines.values()])
            _means(box, lines, settings)
            _name_settings(box, settings, room)
            box.set_xlabel(variable)
            _keep_whole(box, np.concatenate([array(points[1]) for points in lines.values()]))
        legends_below(figure, axes)
    rows = [
        [measure, label, *point]
        for measure, lines in panels.items()
        for label, (settings, mean, std) in lines.items()
        for point in zip(_names(settings), array(mean).tolist(), array(std).tolist(), strict=True)
    ]
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
        y: Name of the y axis, with its unit; each panel has its own scale.
        names: What each point is, e.g. its digit, in the order of the points: written in its place.
        diagonal: Whether to draw the line on which both are equal.

    Example:
        >>> chart = scatter({"mlp": ([1, 2], [3, 4])}, x="theory", y="measured", names="01")
        >>> chart.table.rows
        [['mlp', '0', 1.0, 3.0], ['mlp', '1', 2.0, 4.0]]
    """
    rows = []
    with style():
        figure, axes = grid(list(points), height=2.2, sharex=True)
        for box, (label, line) in zip(axes, points.items(), strict=True):
            across, up = map(array, line)
            box.plot(across, up, ls="", marker="" if names else "o", color=BLUE, ms=3)
            written = list(names) or [""] * across.size
            for name, a, u in zip(written, across.tolist(), up.tolist(), strict=True):
                box.annotate(name, (a, u), size=8, ha="center", va="center", c=BLUE, weight="bold")
                rows.append([label, name, a, u])
            if diagonal:
                box.axline((across[0], across[0]), slope=1, color="black", lw=0.8, ls=":", zorder=0)
            box.margins(0.12)
        axes[0].set_ylabel(y)
        figure.supxlabel(x, size=8)
    return Chart(figure, Table(["panel", "name", x, y], rows))


def _means(box: Axes, lines: Mapping[str, Points], settings: Sequence[str]) -> None:
    shifts = 0.1 * (np.arange(len(lines)) - (len(lines) - 1) / 2)
    shapes = zip(lines.items(), looks(len(lines)), cycle(MARKERS), shifts, strict=False)
    for (label, points), look, marker, shift in shapes:
        at = [settings.index(name) + shift for name in _names(points[0])]
        shape = {**look, "marker": marker, "ms": 4, "mfc": "white", "capsize": 2, "lw": 1}
        if _words(points[0]):
            shape["linestyle"] = ""  # nothing lies between words
        if len(lines) > 1:
            shape["label"] = label
        box.errorbar(at, array(points[1]), array(points[2]), **shape)


def _name_settings(box: Axes, settings: Sequence[str], room: float) -> None:
    """Name the settings on the x axis, slanted where their names need more than `room` inches."""
    box.margins(x=0.08)
    slanted: dict[str, Any] = {}
    if sum(LETTER * len(name) + 0.1 for name in settings) > room:
        slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    box.set_xticks(range(len(settings)), settings, **slanted)


def _keep_whole(box: Axes, means: Any) -> None:
    """Give counts a scale of whole numbers."""
    from matplotlib.ticker import MaxNLocator

    if np.all(means == np.rint(means)):
        box.yaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        if np.ptp(means) == 0:
            box.set_ylim(means[0] - 1, means[0] + 1)


def _in_order(each: Sequence[Settings]) -> list[str]:
    """Return the names of all settings: numbers sorted, words as they come."""
    if any(_words(settings) for settings in each):
        return list(dict.fromkeys(name for settings in each for name in _names(settings)))
    return _names(np.unique(np.concatenate([array(settings) for settings in each])))


def _words(settings: Settings) -> bool:
    return np.asarray(settings).dtype.kind == "U"


def _names(settings: Settings) -> list[str]:
    return [s if isinstance(s, str) else f"{s:g}" for s in np.asarray(settings).ravel().tolist()]
