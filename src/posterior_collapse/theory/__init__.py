"""Closed forms: which latent units survive at the global optimum of linear VAEs."""

from posterior_collapse.theory.advice import Advice, Change
from posterior_collapse.theory.forecast import FewSamplesWarning, Forecast, Level, forecast

__all__ = [
    "Advice",
    "Change",
    "FewSamplesWarning",
    "Forecast",
    "Level",
    "forecast",
]
