"""Results as text and figures."""

from posterior_collapse.report.figures import check_figure_path, plot, save_figure
from posterior_collapse.report.text import forecast_tables, html, verdict, verification_row

__all__ = [
    "check_figure_path",
    "forecast_tables",
    "html",
    "plot",
    "save_figure",
    "verdict",
    "verification_row",
]
