"""Where the dots and lines of the spectrum stand, for a figure without a script."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from posterior_collapse.theory import Forecast

__all__ = ["Spectrum", "spectrum"]

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 36
LEAST_SHOWN = 24
"""Modes, where there are so many."""
DEEPEST = 1e-6
"""Of the strongest mode, below which a mode is not shown."""


@dataclass(frozen=True)
class Spectrum:
    """A figure's parts, in its pixels.

    Attributes:
        dots: x, y and status of each mode.
        thresholds: Per level, points of its step line, as SVG has them.
        rows: y and text of the ticks of the variance.
        columns: x and text of the ticks of the modes.
        size: Width and height.
        edges: Left, right, top and bottom of the plot.
    """

    dots: tuple[tuple[float, float, str], ...]
    thresholds: tuple[str, ...]
    rows: tuple[tuple[float, str], ...]
    columns: tuple[tuple[float, str], ...]
    size: tuple[int, int] = (WIDTH, HEIGHT)
    edges: tuple[int, int, int, int] = (LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM)


def spectrum(forecast: Forecast) -> Spectrum:
    """Lay out the variances of the data modes, filled where a unit lives, and the thresholds.

    Args:
        forecast: What `posterior_collapse.forecast` returned.

    Example:
        >>> import posterior_collapse as pc
        >>> f = pc.forecast(pc.Moments.from_matrices(np.diag([4.0, 0.5])), pc.VAESpec(2))
        >>> [status for x, y, status in spectrum(f).dots]
        ['active', 'collapsed']
    """
    strongest = float(forecast.spectrum.max(initial=0.0))
    there = int(np.count_nonzero(forecast.spectrum > strongest * DEEPEST))
    shown = max(1, min(there, max(2 * max(forecast.spec.dims), LEAST_SHOWN)))
    variance = forecast.spectrum[:shown]
    high = (strongest or 1.0) * 2
    low = float(variance[variance > 0].min(initial=high)) / 3
    left, right, top, bottom = Spectrum.edges

    def x(mode: float) -> float:
        return round(left + (mode + 0.5) / shown * (right - left), 1)

    def y(value: float) -> float:
        share = math.log(max(value, low) / low) / math.log(high / low)
        return round(bottom - min(share, 1.0) * (bottom - top), 1)

    level = forecast.levels[-1]
    order = np.argsort(-level.data_variance, kind="stable")
    statuses = [level.status[unit] for unit in order[:shown]]
    statuses += ["none"] * (shown - len(statuses))
    lines = []
    for level in forecast.levels:
        ordered = level.threshold[np.argsort(-level.data_variance, kind="stable")][:shown]
        points = [(x(mode + side), y(value)) for mode, value in enumerate(ordered)
                  if np.isfinite(value) for side in (-0.5, 0.5)]  # fmt: skip
        if points and len(ordered) < shown:  # beyond the units, what one more would have to exceed
            points.append((x(shown - 0.5), points[-1][1]))
        lines.append(" ".join(f"{a},{b}" for a, b in points))
    decades = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    every = max(1, len(decades) // 5)
    steps = max(1, shown // 6)
    return Spectrum(
        tuple(
            (x(mode), y(float(v)), status)
            for mode, (v, status) in enumerate(zip(variance, statuses, strict=True))
            if v > 0
        ),
        tuple(lines),
        tuple((y(10.0**d), f"{10.0**d:g}") for d in decades[::every]),
        tuple((x(mode), str(mode + 1)) for mode in range(0, shown, steps)),
    )
