"""Results as figures of matplotlib, each of one or several panels."""

from posterior_collapse.report.figures.diagnosis import diagnosis_panels
from posterior_collapse.report.figures.forecast import forecast_panels
from posterior_collapse.report.figures.panels import Panel, Panels, drawn
from posterior_collapse.report.figures.paths import (
    check_figure_path,
    check_page_path,
    save_figure,
)
from posterior_collapse.report.figures.phase import phase_panels
from posterior_collapse.report.figures.runs import fitted_panels, sweep_panels
from posterior_collapse.report.figures.tuned import tuned_panels

__all__ = [
    "Panel",
    "Panels",
    "check_figure_path",
    "check_page_path",
    "diagnosis_panels",
    "drawn",
    "fitted_panels",
    "forecast_panels",
    "phase_panels",
    "save_figure",
    "sweep_panels",
    "tuned_panels",
]
