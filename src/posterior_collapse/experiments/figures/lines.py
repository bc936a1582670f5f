"""Figures of curves and points: collapse, spectra, convergence, measures against a setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from posterior_collapse.experiments.figures.chart import (
    AXIS,
    DASHES,
    LETTER,
    MARKERS,
    Chart,
    Line,
    Panels,
    arranged,
    array,
    grid,
    legends_below,
    long,
    looks,
    style,
)
from posterior_collapse.experiments.tables import Table
from posterior_collapse.report.figures import BLUE, GREEN, GREY, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

COLORS = (BLUE, ORANGE, GREEN, "black", "#CC79A7")
"""Of curves without an order (Okabe and Ito)."""


def collapse_curves(panels: Panels, *, delta: float = 0.05) -> Chart:
    """Draw the share of (eps, delta)-collapsed latent units against eps.

    Args:
        panels: Title -> label -> (eps in nats, share of collapsed units in 0 to 1). A title
            such as "eta_dec = 1"; labels such as "beta = 0.1". Curves run from dark to light in
            the order given: give them in the order in which theory expects them.
        delta: The delta of the shares, for the axis label.

    Example:
        >>> chart = collapse_curves({"eta_dec = 1": {"beta = 1": ([0.01, 1], [0.25, 1])}})
        >>> chart.table.rows[0]
        ['eta_dec = 1', 'beta = 1', 0.01, 0.25]
    """
    with style():
        figure, axes = grid(list(panels), sharey=True)
        for box, lines in zip(axes, panels.values(), strict=True):
            for (label, line), look in zip(lines.items(), looks(len(lines)), strict=True):
                eps, share = map(array, line)
                box.plot(eps, 100 * share, drawstyle="steps-post", label=label, **look)
            box.set_xscale("log")
            box.set_xlabel(f"eps (nats), delta = {delta:g}")
            box.set_ylim(-3, 103)
        axes[0].set_ylabel("collapsed units (%)")
        legends_below(figure, axes)
    return Chart(figure, long(panels, "eps (nats)", "share of collapsed units"))


def spectra(
    spectra: Mapping[str, ArrayLike], *, threshold: float | None = None, name: str = "threshold"
) -> Chart:
    """Draw eigenvalues, strongest first, with the threshold that a latent unit must exceed.

    Args:
        spectra: Label (e.g. of a digit) -> eigenvalues in units of the data's variance.
        threshold: Variance below which theory collapses a unit, e.g. beta * eta_dec^2.
        name: What the threshold is called in the legend.

    Example:
        >>> chart = spectra({"digit 0": [3.0, 1.0], "digit 1": [2.0, 0.1]}, threshold=0.25)
        >>> [text.get_text() for text in chart.figure.legends[0].get_texts()]
        ['digit 0 (2 above)', 'digit 1 (1 above)', 'threshold']
    """
    values = {label: array(spectrum) for label, spectrum in spectra.items()}
    with style():
        figure, (box,) = grid([""], height=2.6)
        for (label, variance), look in zip(values.items(), looks(len(values)), strict=True):
            if threshold is not None:
                label += f" ({np.count_nonzero(variance > threshold)} above)"
            shown = np.where(variance > 0, variance, np.nan)
            box.plot(np.arange(1, variance.size + 1), shown, label=label, **look)
        if threshold is not None:
            box.axhline(threshold, color="black", lw=0.8, ls=":", label=name)
        box.set_yscale("log")
        box.set_xlabel("data mode, strongest first")
        box.set_ylabel("variance of data mode")
        figure.legend(loc="outside right upper")
        figure.set_size_inches(4.2, 2.6)
    rows = [
        [label, mode, value]
        for label, spectrum in values.items()
        for mode, value in enumerate(spectrum.tolist(), 1)
    ]
    return Chart(figure, Table(["spectrum", "mode", "variance"], rows))


def convergence(
    panels: Panels,
    *,
    goal: float | Mapping[str, Mapping[str, float]] | None = 1e-4,
    legends: Mapping[str, Mapping[str, str]] | None = None,
    exact: Mapping[str, Mapping[str, float]] | None = None,
) -> Chart:
    """Draw errors against iterations on a log scale, the end of each curve as a dot.

    Args:
        panels: Title -> label -> (iteration, mean absolute error). Errors of 0 are not drawn.
        goal: Error that the end of a run must stay within: one for all, as a dotted line, or title
            -> label -> that of a curve, as a bar in its colour; None for none.
        legends: Title -> label -> what the legend says of the curve besides its label.
        exact: Title -> label -> error of exact training, drawn as a cross at the last iteration.

    Example:
        >>> chart = convergence({"E8": {"U1": ([1, 2], [0.1, 1e-5])}})
        >>> chart.figure.axes[0].get_yscale()
        'log'
    """
    with style():
        figure, axes = grid(list(panels), most=2)
        for box, (title, lines) in zip(axes, panels.items(), strict=True):
            said, ends = (legends or {}).get(title, {}), (exact or {}).get(title, {})
            for (label, line), color, ls in zip(
                lines.items(), cycle(COLORS), cycle(DASHES), strict=False
            ):
                step, error = map(array, line)
                error = np.where(error > 0, error, np.nan)
                legend = f"{label} {said.get(label, '')}".rstrip()
                box.plot(step, error, label=legend, color=color, ls=ls)
                marked: dict[str, Any] = {"ls": "", "color": color, "clip_on": False}
                box.plot(step[-1:], error[-1:], marker="o", ms=3.5, **marked)
                if label in ends:
                    box.plot(step[-1:], array(ends[label]), marker="x", ms=4, **marked)
            _goals(box, goal.get(title, {}) if isinstance(goal, Mapping) else goal)
            if ends:
                box.plot([], [], "x", ms=4, color=GREY, label="end of exact training")
            box.set_yscale("log")
            box.set_xlabel("iteration")
            spec = box.get_subplotspec()
            if spec is not None and spec.is_first_col():
                box.set_ylabel("mean absolute error")
        legends_below(figure, axes)
    return Chart(figure, long(panels, "iteration", "mean absolute error"))


def _goals(box: Axes, goals: float | Mapping[str, float] | None) -> None:
    """Draw the goal that all curves share as a line, goals of their own as bars at their ends."""
    each = list(goals.values()) if isinstance(goals, Mapping) else [goals]
    shared = each[0] if len(set(each)) == 1 else None
    if shared is not None:
        box.axhline(shared, color=GREY, lw=0.8, ls=":", label=f"goal, {shared:g}")
    elif isinstance(goals, Mapping):
        for value, color in zip(goals.values(), cycle(COLORS), strict=False):
            box.axhline(value, 0.88, 0.99, color=color, lw=1.6)
        box.plot([], [], color=GREY, lw=1.6, label="goal of the curve of its colour")


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


KIND_COLORS = (BLUE, ORANGE, GREEN)
KIND_MARKERS = (("o", 3, 0.6), ("x", 5, 1.0), ("s", 4, 0.6))
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
        for label, color, dashes in zip(labels, cycle(KIND_COLORS), cycle(DASHES), strict=False)
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
    marker, size, width = KIND_MARKERS[number % len(KIND_MARKERS)]
    return {"ls": "", "marker": marker, "ms": size, "mew": width, "mfc": "none", "color": color}


def _legend(kinds: Sequence[str], looks: Mapping[str, dict[str, Any]]) -> list[Line2D]:
    """Return what markers mean in black, then what colours and dashes mean."""
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], label="theory", color="black"),
        *(Line2D([], [], label=kind, **_marker(i, "black")) for i, kind in enumerate(kinds)),
        *(Line2D([], [], label=label, **look) for label, look in looks.items()),
    ]
