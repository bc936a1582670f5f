"""Curves: collapse against epsilon, spectra, convergence, and sweeps beside the theory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from posterior_collapse.experiments.figures.chart import (
    DASHES,
    Chart,
    Line,
    Panels,
    array,
    grid,
    legend_below,
    long,
    looks,
    style,
)
from posterior_collapse.experiments.tables import Table
from posterior_collapse.report.figures import BLUE, GREEN, GREY, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = (BLUE, ORANGE, GREEN)


def collapse_curves(panels: Panels, *, delta: float = 0.05) -> Chart:
    """Draw the share of (eps, delta)-collapsed latent units against eps.

    Args:
        panels: Title -> label -> (eps in nats, share of collapsed units in 0 to 1). A title
            such as "varying beta (eta_dec = 1)"; labels such as "beta = 0.1", in order.
        delta: The delta of the shares, for the axis label.

    Example:
        >>> chart = collapse_curves({"varying beta": {"beta = 1": ([0.01, 1], [0.25, 1])}})
        >>> chart.table.rows[0]
        ['varying beta', 'beta = 1', 0.01, 0.25]
    """
    with style():
        figure, axes = grid(list(panels), sharey=True)
        for box, lines in zip(axes, panels.values(), strict=True):
            for (label, (eps, share)), look in zip(lines.items(), looks(len(lines)), strict=True):
                box.plot(
                    array(eps), 100 * array(share), drawstyle="steps-post", label=label, **look
                )
            box.set_xscale("log")
            box.set_xlabel("eps (nats)")
            box.set_ylim(-3, 103)
            box.legend(loc="best")
        axes[0].set_ylabel(f"collapsed units (%), delta = {delta:g}")
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
    panels = {"": {k: (np.arange(1, array(v).size + 1), array(v)) for k, v in spectra.items()}}
    with style():
        figure, (box,) = grid([""], height=2.6)
        for (label, (mode, value)), look in zip(
            panels[""].items(), looks(len(spectra)), strict=True
        ):
            above = "" if threshold is None else f" ({np.count_nonzero(value > threshold)} above)"
            box.plot(mode, np.where(value > 0, value, np.nan), label=label + above, **look)
        if threshold is not None:
            box.axhline(threshold, color="black", lw=0.8, ls=":", label=name)
        box.set_yscale("log")
        box.set_xlabel("data mode, strongest first")
        box.set_ylabel("variance of data mode")
        figure.legend(loc="outside right upper")
        figure.set_size_inches(4.2, 2.6)
    rows = [row[1:] for row in long(panels, "", "").rows]
    return Chart(figure, Table(["spectrum", "mode", "variance"], rows))


def convergence(panels: Panels, *, goal: float | None = 1e-4) -> Chart:
    """Draw errors against iterations on a log scale.

    Args:
        panels: Title -> label -> (iteration, mean absolute error). Errors of 0 are not drawn.
        goal: Error that the end of the run must stay below; None for none.

    Example:
        >>> chart = convergence({"E8": {"U1": ([1, 2], [0.1, 1e-5])}})
        >>> chart.figure.axes[0].get_yscale()
        'log'
    """
    with style():
        figure, axes = grid(list(panels), sharey=True)
        for box, lines in zip(axes, panels.values(), strict=True):
            for (label, (step, error)), look in zip(lines.items(), looks(len(lines)), strict=True):
                error = array(error)
                box.plot(array(step), np.where(error > 0, error, np.nan), label=label, **look)
            if goal is not None:
                box.axhline(goal, color=GREY, lw=0.8, ls=":", label="goal")
            box.set_yscale("log")
            box.set_xlabel("iteration")
            box.legend(loc="upper right")
        axes[0].set_ylabel("mean absolute error")
    return Chart(figure, long(panels, "iteration", "mean absolute error"))


def sweep(theory: Panels, measured: Mapping[str, Panels], *, variable: str = "beta") -> Chart:
    """Draw theory as lines and measurements as markers, a panel per quantity.

    Args:
        theory: Quantity with its unit, e.g. "KL (nats)" -> label, e.g. "z1" -> (values, theory).
        measured: Kind of run, e.g. "exact training" -> quantity -> label -> (values, measured).
            Quantities and labels are some of theory's.
        variable: Name of the values.

    Example:
        >>> theory = {"KL (nats)": {"z": ([0.5, 1], [1.0, 0.2])}}
        >>> chart = sweep(theory, {"minibatches": {"KL (nats)": {"z": ([0.5], [0.9])}}})
        >>> chart.table.rows[-1]
        ['minibatches', 'KL (nats)', 'z', 0.5, 0.9]
    """
    sources = {"theory": theory, **measured}
    tables = {source: long(panels, variable, "value") for source, panels in sources.items()}
    with style():
        figure, axes = grid(list(theory), height=1.9, most=2, sharex=True)
        for box, (quantity, lines) in zip(axes, theory.items(), strict=True):
            _beside(box, lines, {k: panels.get(quantity, {}) for k, panels in measured.items()})
        for box in axes[-2:]:
            box.set_xlabel(variable)
            box.tick_params(labelbottom=True)
        legend_below(figure, axes)
    rows = [[source, *row] for source, table in tables.items() for row in table.rows]
    return Chart(figure, Table(["source", "quantity", "curve", variable, "value"], rows))


def _beside(box: Axes, lines: Mapping[str, Line], measured: Panels) -> None:
    shapes = zip(lines.items(), COLORS, DASHES, strict=False)
    for (label, line), color, dashes in shapes:
        suffix = f", {label}" if label else ""
        for (kind, found), marker, size in zip(measured.items(), "oxs", (3, 5, 4), strict=False):
            if label in found:
                x, y = map(array, found[label])
                box.plot(x, y, marker, color=color, ms=size, mfc="none", label=f"{kind}{suffix}")
        x, y = map(array, line)
        box.plot(x, y, color=color, ls=dashes, lw=0.9, label=f"theory{suffix}")
