"""Curves: collapse against epsilon, spectra, and convergence to the theory."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from posterior_collapse.experiments.figures.chart import (
    DASHES,
    Chart,
    Panels,
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
