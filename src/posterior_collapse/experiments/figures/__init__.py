"""The figures of the paper's experiments, drawn from plain values.

Each function returns a `Chart`: the figure and, beside it, the rows of its CSV.
"""

from posterior_collapse.experiments.figures.chart import Chart, Line, Panels
from posterior_collapse.experiments.figures.lines import (
    Points,
    collapse_curves,
    convergence,
    scatter,
    spectra,
    spread,
    sweep,
)
from posterior_collapse.experiments.figures.maps import heat_maps, phase
from posterior_collapse.experiments.figures.panels import panel

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
