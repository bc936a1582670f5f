"""The figures of the paper's experiments, drawn from plain values.

Each function returns a `Chart`: the figure and, beside it, the rows of its CSV.
"""

from posterior_collapse.experiments.figures.cells import heat_maps, images, phase
from posterior_collapse.experiments.figures.chart import Chart, Line, Panels
from posterior_collapse.experiments.figures.lines import (
    Approach,
    collapse_curves,
    convergence,
    scatter,
    spectra,
    sweep,
)
from posterior_collapse.experiments.figures.measures import THEORY, Points, columns, spread

__all__ = [
    "THEORY",
    "Approach",
    "Chart",
    "Line",
    "Panels",
    "Points",
    "collapse_curves",
    "columns",
    "convergence",
    "heat_maps",
    "images",
    "phase",
    "scatter",
    "spectra",
    "spread",
    "sweep",
]
