"""Results as text, figures and pages."""

from posterior_collapse.report.text import (
    diagnoses_table,
    diagnosis_page,
    forecast_tables,
    forecasts_table,
    new_table,
    verdict,
    verification_row,
)
from posterior_collapse.report.views import (
    check_figure_path,
    check_page_path,
    html,
    plot,
    save_figure,
    write_page,
)

__all__ = [
    "check_figure_path",
    "check_page_path",
    "diagnoses_table",
    "diagnosis_page",
    "forecast_tables",
    "forecasts_table",
    "html",
    "new_table",
    "plot",
    "save_figure",
    "verdict",
    "verification_row",
    "write_page",
]
