"""Results as one self-contained HTML page each, and as the part of it that a notebook shows."""

from posterior_collapse.report.pages.page import forecast_fragment, forecast_page

__all__ = ["forecast_fragment", "forecast_page"]
