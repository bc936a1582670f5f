"""Figures of curves and points: collapse, spectra, convergence, one quantity against another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from posterior_collapse.arrays import Float
from posterior_collapse.experiments.figures import (
    DASHES,
    Chart,
    Line,
    Panels,
    array,
    long,
    looks,
    panels,
    symbols,
)
from posterior_collapse.experiments.tables import Table
from posterior_collapse.report.figures.panels import BLUE, GREEN, GREY, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = (BLUE, ORANGE, GREEN, "black", "#CC79A7")
"""Of curves without an order (Okabe and Ito)."""

MANY = 5
"""Curves from which on shades of one hue do not do."""
APART = 0.8
"""Points by which curves that coincide are drawn apart, so that all of them are seen."""
SAME = 0.005
"""Difference of two shares, averaged over eps, up to which curves coincide: half a line."""
APART_SAID = "Curves that coincide all along are drawn 1% apart."
"""What a caption says of it."""


def collapse_curves(
    curves: Panels,
    *,
    delta: float = 0.05,
    bands: Panels | None = None,
    theory: Mapping[str, Mapping[str, float]] | None = None,
) -> Chart:
    """Draw the share of (eps, delta)-collapsed latent units against eps.

    Args:
        curves: Title, e.g. "eta_dec = 1" -> label, e.g. "beta = 0.1" -> (eps in nats, share of
            collapsed units in 0 to 1). Curves run from dark to light in the order given.
        delta: The delta of the shares, for the axis label.
        bands: Title -> label -> (least, most) of the shares over seeds.
        theory: Title -> label -> share of units without KL by theory, which legends say; of curves
            that it lacks they say nothing.

    Example:
        >>> chart = collapse_curves({"eta_dec = 1": {"beta = 1": ([0.01, 1], [0.25, 1])}})
        >>> chart.table.rows[0]
        ['eta_dec = 1', 'beta = 1', 0.01, 0.25]
    """
    from matplotlib.transforms import ScaledTranslation

    x = f"eps (nats), delta = {delta:g}"
    ends: list[tuple[float, float]] = []
    expected = theory or {}
    with panels(curves, x=x, y="collapsed units (%)", sharey=True) as (figure, drawn):
        for title, (box, lines) in zip(curves, drawn, strict=True):
            box.set_xscale("log")
            box.set_ylim(-3, 103)
            reach = [value for eps, _ in lines.values() for value in array(eps)[[0, -1]].tolist()]
            box.set_xlim(min(reach), max(reach))  # not found from lines that are drawn apart
            each = looks(len(lines), hues=len(lines) > MANY)
            places = _apart([array(share) for _, share in lines.values()])
            for (label, line), look, place in zip(lines.items(), each, places, strict=True):
                eps, share = map(array, line)
                up = APART * place / 72
                apart = box.transData + ScaledTranslation(0, up, figure.dpi_scale_trans)
                look |= {"transform": apart, "drawstyle": "steps-post"}
                dead = expected.get(title, {}).get(label)
                told = label if dead is None else f"{label} (theory {100 * dead:.3g}%)"
                box.plot(eps, 100 * share, label=told, **look)
                if bands is not None:
                    least, most = map(array, bands[title][label])
                    shade: dict[str, Any] = {"alpha": 0.25, "lw": 0, "step": "post"}
                    box.fill_between(eps, 100 * least, 100 * most, color=look["color"], **shade)
                    ends += zip(least.tolist(), most.tolist(), strict=True)
    table = long(curves, "eps (nats)", "share of collapsed units")
    if bands is None:
        return Chart(figure, table)
    rows = [[*row, *end] for row, end in zip(table.rows, ends, strict=True)]
    return Chart(figure, Table([*table.columns, "least over seeds", "most over seeds"], rows))


def _apart(shares: Sequence[Float]) -> list[float]:
    """Return by how many steps each curve is drawn off its place: 0 for one that stands alone.

    Example:
        >>> _apart([np.array([1.0, 1.0]), np.array([0.2, 1.0]), np.array([1.0, 1.0])])
        [-0.5, 0.0, 0.5]
    """
    places = []
    for number, one in enumerate(shares):
        same = [i for i, other in enumerate(shares) if np.abs(one - other).mean() <= SAME]
        places.append(same.index(number) - (len(same) - 1) / 2)
    return places


def spectra(spectra: Mapping[str, ArrayLike], *, threshold: float, name: str) -> Chart:
    """Draw eigenvalues, strongest first, with the threshold that a latent unit must exceed.

    Example:
        >>> given = {"digit 0": [3.0, 1.0], "digit 1": [2.0, 0.1]}
        >>> chart = spectra(given, threshold=0.25, name="beta")
        >>> [text.get_text() for text in chart.figure.legends[0].get_texts()]
        ['digit 0 (2 above)', 'digit 1 (1 above)', 'β']
    """
    rows = []
    x, y = "data mode, strongest first", "variance of data mode"
    with panels({"": spectra}, x=x, y=y, legend=False) as (figure, ((box, _),)):
        each = looks(len(spectra), hues=len(spectra) > MANY)
        for (label, values), look in zip(spectra.items(), each, strict=True):
            variance = array(values)
            above = f"{label} ({np.count_nonzero(variance > threshold)} above)"
            shown = np.where(variance > 0, variance, np.nan)
            box.plot(np.arange(1, variance.size + 1), shown, label=above, **look)
            rows += [[label, mode, value] for mode, value in enumerate(variance.tolist(), 1)]
        box.axhline(threshold, color="black", lw=0.8, ls=":", label=symbols(name))
        box.set_yscale("log")
        figure.legend(loc="outside right upper")
        figure.set_size_inches(4.2, 2.6)
    return Chart(figure, Table(["spectrum", "mode", "variance"], rows))


class Approach(NamedTuple):
    """A quantity on its way to the value that a theorem gives it.

    Attributes:
        line: Iterations, and the mean absolute error after each. Errors of 0 are not drawn.
        note: What the legend says of it besides its name.
        exact: Error of exact training, drawn as a cross at the last iteration; None: no cross.
    """

    line: Line
    goal: float
    note: str = ""
    exact: float | None = None


def convergence(approaches: Mapping[str, Mapping[str, Approach]]) -> Chart:
    """Draw errors against iterations on a log scale, the end of each curve as a dot.

    A goal that all curves of a panel share is a dotted line, others are bars in the curve's colour.

    Example:
        >>> chart = convergence({"E8": {"U1": Approach(([1, 2], [0.1, 1e-5]), goal=1e-4)}})
        >>> chart.figure.axes[0].get_yscale()
        'log'
    """
    with panels(approaches, x="iteration", y="mean absolute error", most=2) as (figure, drawn):
        for box, curves in drawn:
            for (name, curve), color, ls in zip(
                curves.items(), cycle(COLORS), cycle(DASHES), strict=False
            ):
                step, error = map(array, curve.line)
                error = np.where(error > 0, error, np.nan)
                box.plot(step, error, label=f"{name} {curve.note}".rstrip(), color=color, ls=ls)
                marked: dict[str, Any] = {"ls": "", "color": color, "clip_on": False}
                box.plot(step[-1:], error[-1:], marker="o", ms=3.5, **marked)
                if curve.exact is not None:
                    box.plot(step[-1:], [curve.exact], marker="x", ms=4, **marked)
            _draw_goals(box, [curve.goal for curve in curves.values()])
            if any(curve.exact is not None for curve in curves.values()):
                box.plot([], [], "x", ms=4, color=GREY, label="end of exact training")
            box.set_yscale("log")
    lines = {
        title: {name: curve.line for name, curve in curves.items()}
        for title, curves in approaches.items()
    }
    return Chart(figure, long(lines, "iteration", "mean absolute error"))


def _draw_goals(box: Axes, goals: Sequence[float]) -> None:
    if len(set(goals)) == 1:
        box.axhline(goals[0], color=GREY, lw=0.8, ls=":", label=f"goal, {goals[0]:g}")
        return
    for goal, color in zip(goals, cycle(COLORS), strict=False):
        box.axhline(goal, 0.88, 0.99, color=color, lw=1.6)
    box.plot([], [], color=GREY, lw=1.6, label="goal of the curve of its colour")


def scatter(
    points: Mapping[str, Line],
    *,
    x: str,
    y: str,
    names: Sequence[str],
    notes: Mapping[str, str] | None = None,
) -> Chart:
    """Draw one quantity against another, e.g. predicted against measured, a panel per label.

    Args:
        points: Label (e.g. of an architecture) -> (x, y).
        x: Name of the x axis, with its unit.
        y: Name of the y axis, with its unit; all panels have one scale.
        names: What each point is, e.g. its digit, in the order of the points: written beside it.
        notes: Label -> what is written into its panel.

    Where both are equal, a line is dotted.

    Example:
        >>> chart = scatter({"mlp": ([1, 2], [3, 4])}, x="theory", y="measured", names="01")
        >>> chart.table.rows
        [['mlp', '0', 1.0, 3.0], ['mlp', '1', 2.0, 4.0]]
    """
    written = notes or {}
    with panels(points, y=y, below=x, height=2.2, sharex=True, sharey=True) as (figure, drawn):
        for (box, line), label in zip(drawn, points, strict=True):
            place: dict[str, Any] = {"transform": box.transAxes, "va": "top", "size": 7}
            if label in written:
                box.text(0.03, 0.98, written[label], **place)
            box.plot(*map(array, line), ls="", marker="o", ms=1.8, c=BLUE)
            box.margins(0.12, 0.16)
        figure.draw_without_rendering()  # so that it is known where dots are
        for box, line in drawn:
            box.autoscale(False)
            box.plot(box.get_xlim(), box.get_xlim(), color="black", lw=0.8, ls=":", zorder=1)
            look: dict[str, Any] = {"size": 8, "ha": "center", "va": "center", "c": BLUE}
            look |= {"textcoords": "offset points"}
            at = np.column_stack([*map(array, line)])
            for name, point, off in zip(names, at, _places(box, at), strict=True):
                box.annotate(name, tuple(point), off, **look)
    rows = [
        [label, name, *at]
        for label, line in points.items()
        for name, *at in zip(names, *(array(values).tolist() for values in line), strict=True)
    ]
    return Chart(figure, Table(["panel", "name", x, y], rows))


WIDE, HIGH = 5.0, 6.5
"""Width and height of a name of one letter, in points."""
BESIDE = ((5, 0), (-5, 0), (0, 6), (0, -6), (5, 5), (-5, 5), (5, -5), (-5, -5), (0, 11), (0, -11))
"""Where a name may stand, in points off what it names: the first place that covers least."""
UNREAD = 9
"""As bad as so many covered dots is a covered name."""


def _places(box: Axes, at: Float) -> list[tuple[float, float]]:
    """Return by how many points names stand off their dots, so that none is on another or a dot."""
    scale = 72 / box.get_figure().dpi  # type: ignore[union-attr]
    dots = box.transData.transform(at) * scale
    names: list[Float] = []
    found: list[tuple[float, float]] = []
    for own, dot in enumerate(dots):
        others = np.delete(dots, own, axis=0)

        def covered(place: tuple[float, float], dot: Float = dot, others: Float = others) -> int:
            near = np.abs(others - dot - place) < (WIDE / 2 + 1, HIGH / 2 + 1)
            far = [np.abs(name - dot - place) < (WIDE, HIGH) for name in names]
            return int(near.all(1).sum()) + UNREAD * sum(bool(each.all()) for each in far)

        best = min(BESIDE, key=covered)
        names.append(dot + best)
        found.append(best)
    return found


LEAST = 1e-3
"""Nats at which smaller gains are drawn."""
BEYOND = 10.0
"""Times the most that any unit brought at which what was said is cut off."""
UNTOLD = "cannot be told"
"""Of a unit: whether it paid."""
ANSWER_LOOKS: Mapping[str, tuple[str, str]] = {
    "pays": (BLUE, "o"), "undecided": (GREY, "s"), "does not pay": (ORANGE, "^"),
}  # fmt: skip


def predicted(points: Mapping[str, Sequence[tuple[float, float, str, str]]]) -> Chart:
    """Draw what one more unit brought against what was said, on log scales.

    Args:
        points: Title -> (said, brought, answer, outcome), in nats; what cannot be told is faint
            and hollow.

    Example:
        >>> predicted({"digits": [(0.1, 0.2, "pays", "paid")]}).table.rows
        [['digits', 'pays', 'paid', 0.1, 0.2]]
    """
    x, y = "said (nats)", "brought (nats)"
    with panels(points, x=x, y=y, height=2.3) as (figure, drawn):
        for box, each in drawn:
            numbers = np.array([[said, got] for said, got, *_ in each])
            shown = np.clip(numbers, LEAST, [BEYOND * max(numbers[:, 1].max(), LEAST), np.inf])
            close = np.array([outcome == UNTOLD for *_, outcome in each])
            for answer, (color, marker) in ANSWER_LOOKS.items():
                own = np.array([a == answer for _, _, a, _ in each])
                look: dict[str, Any] = {"color": color, "marker": marker, "ls": "", "ms": 3.5}
                box.plot(*shown[own & close].T, mfc="none", alpha=0.35, zorder=1, **look)
                box.plot(*shown[own & ~close].T, label=f"said: {answer}", **look)
            box.plot([], [], "o", ms=3.5, mfc="none", c=GREY, alpha=0.6, label=UNTOLD)
            ends = [LEAST, float(shown.max()) * 1.5]
            box.plot(ends, ends, color="black", lw=0.8, ls=":")
            box.set_xscale("log")
            box.set_yscale("log")
    rows = [
        [title, answer, outcome, said, got]
        for title, each in points.items()
        for said, got, answer, outcome in each
    ]
    return Chart(figure, Table(["panel", "answer", "outcome", x, y], rows))
