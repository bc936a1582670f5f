"""Results as one self-contained HTML page each, and as the part of it that a notebook shows."""

from posterior_collapse.report.pages.page import forecast_fragment, forecast_page
from posterior_collapse.report.pages.told import told_fragment, told_page

__all__ = ["forecast_fragment", "forecast_page", "told_fragment", "told_page"]
