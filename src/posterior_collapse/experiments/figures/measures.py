"""Figures of what was measured beside theory: sweeps, means over seeds, brackets of counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from posterior_collapse.experiments.figures import (
    COLUMN,
    DASHES,
    LETTER,
    MARKERS,
    PAGE,
    Chart,
    Line,
    Panels,
    array,
    long,
    looks,
    panels,
    room,
    style,
    symbols,
)
from posterior_collapse.experiments.tables import Table
from posterior_collapse.report.figures.panels import BLUE, GREY, LINES, ORANGE, whole_numbers
from posterior_collapse.report.names import value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KIND_MARKERS = (("o", 3, 0.6), ("x", 5, 1.0), ("s", 4, 0.6))
"""Marker, its size and its line width, by kind of run; theory has the lines."""
MARKED = 15
"""About so many markers are on a curve: more would hide the line."""


def sweep(theory: Panels, measured: Mapping[str, Panels], *, variable: str = "beta") -> Chart:
    """Draw theory as lines and measurements as markers, a panel per quantity.

    Of many values only some have a marker, so that lines are seen; the table has them all.

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
    from matplotlib.lines import Line2D

    labels = sorted({label for lines in theory.values() for label in lines} - {""})
    own: dict[str, dict[str, Any]] = {"": {"color": "black", "ls": DASHES[0]}} | {
        label: {"color": color, "ls": dashes}
        for label, color, dashes in zip(labels, cycle(LINES), cycle(DASHES), strict=False)
    }
    with panels(theory, x=variable, height=2.1, most=2) as (figure, drawn):
        for quantity, (box, lines) in zip(theory, drawn, strict=True):
            counts = True
            for label, line in lines.items():
                at, expected = map(array, line)
                whole = bool(np.all(expected == np.rint(expected)))
                counts &= whole
                # Numbers of modes jump between the values; nothing is drawn that is not there.
                steps = "steps-post" if whole else "default"
                box.plot(at, expected, lw=1, zorder=3, drawstyle=steps, **own[label])
                for number, kind in enumerate(measured.values()):
                    if label in (found := kind.get(quantity, {})):
                        values = array(found[label][0])
                        every = max(1, round(values.size / MARKED))
                        box.plot(
                            values,
                            array(found[label][1]),
                            # Kinds at other values than each other: those that agree are seen.
                            markevery=(number * every // len(measured), every),
                            **_marker(number, own[label]["color"]),
                        )
            if counts:
                whole_numbers(box.yaxis)
            low, high = box.get_ylim()
            if counts or 0 < low < high / 2:
                box.set_ylim(min(0, low), high)
            _name_ends(box, lines)
            box.set_xlim(left=0)
        handles = [
            Line2D([], [], label="theory", color="black"),
            *(Line2D([], [], label=kind, **_marker(i, "black")) for i, kind in enumerate(measured)),
            *(Line2D([], [], label=label, **own[label]) for label in labels),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    rows = [
        [source, *row]
        for source, values in {"theory": theory, **measured}.items()
        for row in long(values, variable, "value").rows
    ]
    return Chart(figure, Table(["source", "quantity", "curve", variable, "value"], rows))


def _name_ends(box: Axes, lines: Mapping[str, Line]) -> None:
    """Write each curve's label at its right end, for print without colour."""
    ends = sorted((float(array(y)[-1]), float(array(x)[-1]), k) for k, (x, y) in lines.items())
    near = 0.08 * float(np.ptp(box.get_ylim()))
    for (up, across, label), (above, *_) in zip(ends, [*ends[1:], (np.inf, 0.0, "")], strict=True):
        side = "top" if above - up < near else "bottom"
        box.annotate(label, (across, up), (4, 0), textcoords="offset points", size=7, va=side)


def _marker(number: int, color: str) -> dict[str, Any]:
    marker, size, width = KIND_MARKERS[number % len(KIND_MARKERS)]
    return {"ls": "", "marker": marker, "ms": size, "mew": width, "mfc": "none", "color": color}


class Points(NamedTuple):
    """A measure by setting, over seeds.

    Attributes:
        settings: Numbers, which lines join, or words in order.
        std: Over the seeds of each, that of a sample; NaN for one seed.
        bounds: Which are upper bounds, marked by an arrow down; empty: none.
        each: The values of each setting, drawn in place of mean and std; empty: not known.
    """

    settings: Sequence[float] | Sequence[str]
    mean: ArrayLike
    std: ArrayLike
    bounds: Sequence[bool] = ()
    each: Sequence[Sequence[float]] = ()

    @classmethod
    def of(
        cls, settings: Sequence[float] | Sequence[str], values: Iterable[Sequence[float]]
    ) -> Points:
        """Return the points of values, those of all seeds of each setting.

        Example:
            >>> Points.of([0.5, 1], [[2.0, 4.0], [5.0]])[:3]
            ([0.5, 1], [3.0, 5.0], [1.4142135623730951, nan])
        """
        each = list(values)
        std = [float(np.std(v, ddof=1)) if len(v) > 1 else float("nan") for v in each]
        return cls(settings, [float(np.mean(v)) for v in each], std)


def spread(measures: Mapping[str, Mapping[str, Points]], *, variable: str) -> Chart:
    """Draw measures (NLL, KL, active units, ...) against a setting, with error bars over seeds.

    Settings stand at equal steps, numbers sorted: grids of beta are geometric, and some settings
    are words.

    Example:
        >>> relu = Points([0.5, 1], [90, 95], [1, 2])
        >>> chart = spread({"NLL (nats)": {"relu": relu}}, variable="beta")
        >>> chart.table.rows[0]
        ['NLL (nats)', 'relu', '0.5', 90.0, 1.0]
    """
    most = 2 if len(measures) <= 4 else 3
    with panels(measures, x=variable, height=2.1, most=most) as (figure, drawn):
        for box, lines in drawn:
            _draw(box, lines)
    rows = [[measure, *row] for measure, lines in measures.items() for row in _rows(lines)]
    return Chart(figure, Table(["measure", "curve", variable, "mean", "std"], rows))


def _draw(box: Axes, lines: Mapping[str, Points]) -> None:
    """Draw means with their stds, those of one setting beside each other, and theory as a line."""
    from matplotlib.ticker import MaxNLocator
    from matplotlib.transforms import ScaledTranslation

    settings = _in_order(lines.values())
    trained = {label: points for label, points in lines.items() if label != THEORY}
    shifts = 0.1 * (np.arange(len(trained)) - (len(trained) - 1) / 2)
    shapes = zip(trained.items(), looks(len(trained)), cycle(MARKERS), shifts, strict=False)
    for (label, points), look, marker, shift in shapes:
        at = [settings.index(name) + shift for name in map(value, points.settings)]
        shape = {**look, "marker": marker, "ms": 4, "mfc": "white", "capsize": 2, "lw": 1}
        if isinstance(points.settings[0], str):
            shape["linestyle"] = ""  # nothing lies between words
        if len(lines) > 1:
            shape["label"] = label
        if points.each:
            places, values = np.repeat(at, list(map(len, points.each))), np.concatenate(points.each)
            del shape["capsize"]
            box.plot(places, values, **shape | {"linestyle": ""})
            continue
        box.errorbar(at, array(points.mean), array(points.std), **shape)
        low = [bool(bound) for bound in points.bounds] or [False] * len(at)
        ends = array(points.mean) - np.nan_to_num(array(points.std))  # of the error bars
        under = box.transData + ScaledTranslation(0, -7 / 72, box.figure.dpi_scale_trans)
        arrow: dict[str, Any] = {"marker": r"$\downarrow$", "ms": 6, "ls": "", "mew": 0.2}
        box.plot(np.array(at)[low], ends[low], c=look["color"], transform=under, **arrow)
    if THEORY in lines:
        at = [settings.index(name) for name in map(value, lines[THEORY].settings)]
        words = isinstance(lines[THEORY].settings[0], str)  # nothing lies between them
        line: dict[str, Any] = {"ls": "", "marker": "_", "ms": 9} if words else {"ls": ":"}
        box.plot(at, array(lines[THEORY].mean), color="black", lw=0.9, label=THEORY, **line)
    bounded = any(any(points.bounds) for points in lines.values())
    box.margins(x=0.08, y=0.18 if bounded else 0.05)  # room for arrows
    slanted: dict[str, Any] = {}
    if sum(LETTER * len(name) + 0.1 for name in settings) > room(box):
        slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    box.set_xticks(range(len(settings)), settings, **slanted)
    values = np.concatenate([array(points.mean) for points in lines.values()])
    if np.all(values == np.rint(values)):  # counts
        box.yaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        if np.ptp(values) == 0:
            box.set_ylim(values[0] - 0.5, values[0] + 0.5)


def _in_order(each: Iterable[Points]) -> list[str]:
    """Return the names of all settings: numbers sorted, words as they come."""
    found = list(dict.fromkeys(setting for points in each for setting in points.settings))
    words = any(isinstance(setting, str) for setting in found)
    return list(map(value, found if words else sorted(found)))


def _rows(lines: Mapping[str, Points]) -> Iterator[list[Any]]:
    """Yield the rows of a CSV: curve, setting, mean and std."""
    for label, points in lines.items():
        mean, std = array(points.mean), array(points.std)
        std = std if std.size else np.full(mean.size, np.nan)
        for row in zip(map(value, points.settings), mean.tolist(), std.tolist(), strict=True):
            yield [label, *row]


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
                _draw(box, lines)
                if not across:
                    box.set_ylabel(measure.replace(" of ", "\nof ", 1))
            grid[-1, across].set_xlabel(symbols(variable))
        for down, measure in enumerate(measures):
            if measure not in own:  # one scale, said once
                ends = [box.get_ylim() for box in grid[down]]
                low, high = min(low for low, _ in ends), max(high for _, high in ends)
                grid[down, 0].set_ylim(low, high)
                ticks = grid[down, 0].get_yticks()
                for box in grid[down]:
                    box.set_yticks(ticks)
                    box.set_ylim(low, high)
                for box in grid[down, 1:]:
                    box.tick_params(labelleft=False)
        legends = [box.get_legend_handles_labels() for box in grid.ravel()]
        handles, labels = max(legends, key=lambda legend: len(legend[1]))
        if labels:
            figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    rows = [
        [variable, measure, *row]
        for variable, of in variables.items()
        for measure, lines in of.items()
        for row in _rows(lines)
    ]
    heads = ["variable", "measure", "curve", "value", "mean", "std"]
    return Chart(figure, Table(heads, rows))


LOOKS: Sequence[dict[str, Any]] = (
    {"color": BLUE, "marker": "o", "ls": "-", "ms": 3, "lw": 1, "mfc": "none"},
    {"color": ORANGE, "marker": "x", "ls": "--", "ms": 3, "lw": 1, "mfc": "none"},
)
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1)
"""Of shares of the onset on a log scale."""


def curves(lines: Panels, *, x: str, y: str) -> Chart:
    """Draw shares over beta as a share of the predicted onset, which is dotted.

    A panel begins where the first of its lines leaves 1, or at 0.6 if that is less.

    Example:
        >>> curves({"digits": {"plain": ([0.9, 1.1], [1, 0])}}, x="beta", y="alive").table.rows[0]
        ['digits', 'plain', 0.9, 1.0]
    """
    with panels(lines, x=x, y=y, sharey=True, height=1.9) as (figure, drawn):
        for box, each in drawn:
            for (label, line), look in zip(each.items(), LOOKS, strict=False):
                box.plot(*map(array, line), label=label, **look)
            box.axvline(1.0, color="black", lw=0.8, ls=":")
            at, values = (
                np.concatenate([array(line[i]) for line in each.values()]) for i in (0, 1)
            )
            begin = at[at < at[values < 1].min(initial=np.inf)].max(initial=at.min())
            box.set_xlim(0.95 * min(begin, 0.6), 1.03 * at.max())
    return Chart(figure, long(lines, x, y))


def brackets(lines: Mapping[str, Mapping[str, Line]]) -> Chart:
    """Draw counts of active units between the fewest and the linear count.

    Args:
        lines: Title -> `fewest`, `linear` and labels of counts -> (shares of the onset, units).

    Example:
        >>> each = {"fewest": ([0.1, 0.5], [3, 1]), "linear": ([0.1, 0.5], [9, 4])}
        >>> chart = brackets({"digits": {**each, "kept": ([0.1, 0.5], [6, 3])}})
        >>> len(chart.table.rows)
        6
    """
    from matplotlib.ticker import MaxNLocator

    x, y = "beta / predicted onset", "active units"
    with panels(lines, x=x, y=y, height=2.1) as (figure, drawn):
        for box, each in drawn:
            fewest, linear = (array(each[name][1]) for name in ("fewest", "linear"))
            at = array(each["linear"][0])
            box.fill_between(at, fewest, linear, color=GREY, alpha=0.3, lw=0, label="bracket")
            box.plot(at, linear, color="black", lw=0.8, label="linear optimum")
            measured = {k: v for k, v in each.items() if k not in ("fewest", "linear")}
            for (label, line), look in zip(measured.items(), LOOKS, strict=False):
                box.plot(*map(array, line), label=label, **look)
            box.set_xscale("log")
            shown = [tick for tick in TICKS if at.min() < 1.2 * tick]
            box.set_xticks(shown, [f"{tick:g}" for tick in shown])
            box.set_xlim(0.9 * at.min(), 1)
            box.minorticks_off()
            box.set_ylim(bottom=0)
            box.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return Chart(figure, long(lines, x, y))
