"""Curves: collapse against epsilon, spectra, and convergence to the theory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from posterior_collapse.experiments.figures.chart import (
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
from posterior_collapse.report.figures import GREY


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
            for (label, line), look in zip(lines.items(), looks(len(lines)), strict=True):
                step, error = map(array, line)
                box.plot(step, np.where(error > 0, error, np.nan), label=label, **look)
            if goal is not None:
                box.axhline(goal, color=GREY, lw=0.8, ls=":", label=f"goal, {goal:g}")
            box.set_yscale("log")
            box.set_xlabel("iteration")
        axes[0].set_ylabel("mean absolute error")
        legends_below(figure, axes)
    return Chart(figure, long(panels, "iteration", "mean absolute error"))
