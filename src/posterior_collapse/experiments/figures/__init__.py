"""The figures of the paper's experiments, drawn from plain values.

Each function returns a `Chart`: the figure and, beside it, the rows of its CSV.
"""

from posterior_collapse.experiments.figures.chart import Chart, Line, Panels
from posterior_collapse.experiments.figures.curves import (
    collapse_curves,
    convergence,
    spectra,
)
from posterior_collapse.experiments.figures.heat_maps import heat_maps
from posterior_collapse.experiments.figures.panels import panel
from posterior_collapse.experiments.figures.phase import phase
from posterior_collapse.experiments.figures.points import Points, scatter, spread
from posterior_collapse.experiments.figures.sweep import sweep

__all__ = [
    "Chart",
    "Line",
    "Panels",
    "Points",
    "collapse_curves",
    "convergence",
    "heat_maps",
    "panel",
    "phase",
    "scatter",
    "spectra",
    "spread",
    "sweep",
]
