"""Results as one self-contained HTML page each, and as the part of it that a notebook shows."""

from posterior_collapse.report.pages.diagnosis import diagnosis_fragment, diagnosis_html
from posterior_collapse.report.pages.page import forecast_fragment, forecast_page
from posterior_collapse.report.pages.phase import phase_fragment, phase_html
from posterior_collapse.report.pages.sweep import (
    fitted_fragment,
    fitted_html,
    sweep_fragment,
    sweep_html,
)
from posterior_collapse.report.pages.tuned import tuned_fragment, tuned_html

__all__ = [
    "diagnosis_fragment",
    "diagnosis_html",
    "fitted_fragment",
    "fitted_html",
    "forecast_fragment",
    "forecast_page",
    "phase_fragment",
    "phase_html",
    "sweep_fragment",
    "sweep_html",
    "tuned_fragment",
    "tuned_html",
]
