"""Results as one self-contained HTML page each, and as the part of it that a notebook shows."""

from posterior_collapse.report.pages.diagnosis import diagnosis_html, diagnosis_parts
from posterior_collapse.report.pages.page import forecast_page, forecast_parts
from posterior_collapse.report.pages.phase import phase_html, phase_parts
from posterior_collapse.report.pages.rendering import FORECAST, TRAINED, render
from posterior_collapse.report.pages.sweep import (
    fitted_html,
    fitted_parts,
    sweep_html,
    sweep_parts,
)
from posterior_collapse.report.pages.tuned import tuned_html, tuned_parts

__all__ = [
    "FORECAST",
    "TRAINED",
    "diagnosis_html",
    "diagnosis_parts",
    "fitted_html",
    "fitted_parts",
    "forecast_page",
    "forecast_parts",
    "phase_html",
    "phase_parts",
    "render",
    "sweep_html",
    "sweep_parts",
    "tuned_html",
    "tuned_parts",
]
