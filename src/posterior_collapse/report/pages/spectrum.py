"""The spectrum of a forecast and its thresholds, as a figure without a script."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from posterior_collapse.report.pages.chart import Chart, decades, logarithmic, whole_ticks
from posterior_collapse.theory import Forecast

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["spectrum_chart"]

LEAST_SHOWN = 24
"""Modes, where there are so many."""
DEEPEST = 1e-6
"""Of the strongest mode, below which a mode is not shown."""


def spectrum_chart(forecast: Forecast, sentence: str) -> Markup:
    """Return the variances of the data modes, filled where a unit lives, and the thresholds.

    Args:
        forecast: What `posterior_collapse.forecast` returned.
        sentence: What becomes of the units, for those who do not see the figure.

    Example:
        >>> import posterior_collapse as pc
        >>> f = pc.forecast(pc.Moments.from_matrices(np.diag([4.0, 0.5])), pc.VAESpec(2))
        >>> svg = spectrum_chart(f, "")
        >>> [svg.count(f'class="pc-{look}"') for look in ("active", "collapsed", "threshold")]
        [1, 1, 1]
    """
    strongest = float(forecast.spectrum.max(initial=0.0))
    there = int(np.count_nonzero(forecast.spectrum > strongest * DEEPEST))
    shown = max(1, min(there, max(2 * max(forecast.spec.dims), LEAST_SHOWN)))
    variance = forecast.spectrum[:shown]
    high = (strongest or 1.0) * 2
    low = float(variance[variance > 0].min(initial=high)) / 3
    chart = Chart(f"Spectrum: variance of each data mode and the threshold. {sentence}", (560, 260))
    y = logarithmic(low, high, chart.bottom, chart.top)
    across = (chart.right - chart.left) / shown

    def x(mode: float) -> float:
        return chart.left + (mode - 0.5) * across

    chart.rows(y, decades(low, high), "variance of data mode")
    modes = sorted({max(1.0, tick) for tick in whole_ticks(shown)})
    chart.columns(x, modes, "data mode, strongest first")
    for level in forecast.levels:
        order = np.argsort(-level.data_variance, kind="stable")
        line = [(mode, value) for mode, value in enumerate(level.threshold[order][:shown], 1)
                if np.isfinite(value)]  # fmt: skip
        if line and len(order) < shown:  # beyond the units, what one more would have to exceed
            line.append((shown, line[-1][1]))
        ends = [(x(mode + side), y(value)) for mode, value in line for side in (-0.5, 0.5)]
        chart.line(ends, "pc-threshold")
    top = forecast.levels[-1]
    status = [top.status[unit] for unit in np.argsort(-top.data_variance, kind="stable")[:shown]]
    for mode, (value, found) in enumerate(
        zip(variance, [*status, *["none"] * (shown - len(status))], strict=True), 1
    ):
        if value > 0:
            chart.dot(found, x(mode), y(float(value)), radius=2 if found == "none" else 4.5)
    return chart.svg()
