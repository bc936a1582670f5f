"""Figures of measures (NLL, KL, active units) against a setting, with their spread over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from posterior_collapse.experiments.figures.chart import (
    COLUMN,
    LETTER,
    MARKERS,
    PAGE,
    Chart,
    array,
    looks,
    panels,
    room,
    style,
    symbols,
)
from posterior_collapse.experiments.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Points(NamedTuple):
    """A measure by setting, over seeds.

    Attributes:
        settings: Numbers, which lines join, or words in order.
        mean: Over the seeds of each.
        std: Over the seeds of each, that of a sample; NaN for one seed.
    """

    settings: Sequence[float] | Sequence[str]
    mean: ArrayLike
    std: ArrayLike

    @classmethod
    def of(
        cls, settings: Sequence[float] | Sequence[str], values: Iterable[Sequence[float]]
    ) -> Points:
        """Return the points of values, those of all seeds of each setting.

        Example:
            >>> Points.of([0.5, 1], [[2.0, 4.0], [5.0]])
            Points(settings=[0.5, 1], mean=[3.0, 5.0], std=[1.4142135623730951, nan])
        """
        each = list(values)
        std = [float(np.std(v, ddof=1)) if len(v) > 1 else float("nan") for v in each]
        return cls(settings, [float(np.mean(v)) for v in each], std)


def spread(measures: Mapping[str, Mapping[str, Points]], *, variable: str) -> Chart:
    """Draw measures (NLL, KL, active units, ...) against a setting, with error bars over seeds.

    Args:
        measures: Measure with its unit -> label -> points. Settings stand at equal steps, numbers
            sorted: grids of beta are geometric, and some settings are words.
        variable: Name of the setting.

    Example:
        >>> relu = Points([0.5, 1], [90, 95], [1, 2])
        >>> chart = spread({"NLL (nats)": {"relu": relu}}, variable="beta")
        >>> chart.table.rows[0]
        ['NLL (nats)', 'relu', '0.5', 90.0, 1.0]
    """
    most = 2 if len(measures) <= 4 else 3
    with panels(measures, x=variable, height=2.1, most=most) as (figure, drawn):
        for box, lines in drawn:
            settings = _in_order(lines.values())
            _draw_means(box, lines, settings)
            _name_settings(box, settings)
            _count_in_whole_numbers(box, [points.mean for points in lines.values()])
    rows = [
        [measure, label, *point]
        for measure, lines in measures.items()
        for label, points in lines.items()
        for point in _rows(points)
    ]
    return Chart(figure, Table(["measure", "curve", variable, "mean", "std"], rows))


def _draw_means(box: Axes, lines: Mapping[str, Points], settings: Sequence[str]) -> None:
    """Draw means with their stds, those of one setting beside each other."""
    shifts = 0.1 * (np.arange(len(lines)) - (len(lines) - 1) / 2)
    shapes = zip(lines.items(), looks(len(lines)), cycle(MARKERS), shifts, strict=False)
    for (label, points), look, marker, shift in shapes:
        at = [settings.index(name) + shift for name in _names(points.settings)]
        shape = {**look, "marker": marker, "ms": 4, "mfc": "white", "capsize": 2, "lw": 1}
        if isinstance(points.settings[0], str):
            shape["linestyle"] = ""  # nothing lies between words
        if len(lines) > 1:
            shape["label"] = label
        box.errorbar(at, array(points.mean), array(points.std), **shape)


def _name_settings(box: Axes, settings: Sequence[str]) -> None:
    """Name the settings on the x axis, slanted where their names need more than the panel has."""
    box.margins(x=0.08)
    slanted: dict[str, Any] = {}
    if sum(LETTER * len(name) + 0.1 for name in settings) > room(box):
        slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    box.set_xticks(range(len(settings)), settings, **slanted)


def _count_in_whole_numbers(box: Axes, means: Iterable[ArrayLike]) -> None:
    """Give counts a scale of whole numbers."""
    from matplotlib.ticker import MaxNLocator

    values = np.concatenate([array(of_one_curve) for of_one_curve in means])
    if np.all(values == np.rint(values)):
        box.yaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        if np.ptp(values) == 0:
            box.set_ylim(values[0] - 1, values[0] + 1)


def _in_order(each: Iterable[Points]) -> list[str]:
    """Return the names of all settings: numbers sorted, words as they come."""
    found = list(dict.fromkeys(setting for points in each for setting in points.settings))
    words = any(isinstance(setting, str) for setting in found)
    return _names(found if words else sorted(found))


def _names(settings: Iterable[float | str]) -> list[str]:
    return [s if isinstance(s, str) else f"{s:g}" for s in settings]


THEORY = "by theory"
"""Label of what the linear optimum gives, drawn as a line without markers."""
Measures: TypeAlias = Mapping[str, Mapping[str, Points]]
"""Measure with its unit -> label -> points."""


def columns(variables: Mapping[str, Measures], *, own: Sequence[str] = ()) -> Chart:
    """Draw a column of panels per variable, a row per measure, and theory's line in each.

    Args:
        variables: Name of a setting -> its measures; all have the same ones. The label `THEORY` is
            drawn as a line.
        own: Measures of which each variable has an axis of its own, as their ranges differ much.

    Example:
        >>> kl = {"trained": Points([0.5, 1], [2, 1], [0, 0]), THEORY: Points([0.5, 1], [3, 1], [])}
        >>> chart = columns({"beta": {"KL (nats)": kl}})
        >>> chart.table.rows[-1]
        ['beta', 'KL (nats)', 'by theory', '1', 1.0, nan]
    """
    from matplotlib.figure import Figure

    measures = list(next(iter(variables.values())))
    with style():
        figure = Figure(
            figsize=(COLUMN if len(variables) == 1 else PAGE, 1.55 * len(measures)),
            layout="constrained",
        )
        grid = figure.subplots(len(measures), len(variables), squeeze=False, sharex="col")
        for across, (variable, of) in enumerate(variables.items()):
            for down, measure in enumerate(measures):
                box, lines = grid[down, across], of[measure]
                settings = _in_order(lines.values())
                _draw_means(box, {k: v for k, v in lines.items() if k != THEORY}, settings)
                if THEORY in lines:
                    at = [settings.index(name) for name in _names(lines[THEORY].settings)]
                    line = {"color": "black", "lw": 0.9, "ls": ":", "label": THEORY}
                    box.plot(at, array(lines[THEORY].mean), **line)
                _name_settings(box, settings)
                _count_in_whole_numbers(box, [points.mean for points in lines.values()])
                if not across:
                    box.set_ylabel(measure.replace(" of ", "\nof ", 1))
            grid[-1, across].set_xlabel(symbols(variable))
        for down, measure in enumerate(measures):
            _share_heights(grid[down], alone=measure in own)
        legends = [box.get_legend_handles_labels() for box in grid.ravel()]
        handles, labels = max(legends, key=lambda legend: len(legend[1]))
        if labels:
            figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    rows = [
        [variable, measure, label, *point]
        for variable, of in variables.items()
        for measure, lines in of.items()
        for label, points in lines.items()
        for point in _rows(points)
    ]
    heads = ["variable", "measure", "curve", "value", "mean", "std"]
    return Chart(figure, Table(heads, rows))


def _rows(points: Points) -> Iterator[tuple[str, float, float]]:
    mean, std = array(points.mean), array(points.std)
    std = std if std.size else np.full(mean.size, np.nan)
    yield from zip(_names(points.settings), mean.tolist(), std.tolist(), strict=True)


def _share_heights(boxes: Sequence[Axes], *, alone: bool) -> None:
    """Give the panels of a row one scale, said once; unless each has its own."""
    if alone:
        return
    low = min(box.get_ylim()[0] for box in boxes)
    high = max(box.get_ylim()[1] for box in boxes)
    for number, box in enumerate(boxes):
        box.set_ylim(low, high)
        if number:
            box.tick_params(labelleft=False)
