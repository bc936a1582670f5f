"""Closed forms: which latent units survive at the global optimum of linear VAEs."""

from posterior_collapse.theory.advice import Advice, Change
from posterior_collapse.theory.exact import ExactObjective
from posterior_collapse.theory.forecasting import FewSamplesWarning, Forecast, forecast
from posterior_collapse.theory.minimum import Minimum, minimise
from posterior_collapse.theory.phase import PhaseDiagram, phase_diagram
from posterior_collapse.theory.solve import Level
from posterior_collapse.theory.state import ACTIVE_INFORMATION
from posterior_collapse.theory.thresholds import EffectiveBeta, effective_beta, unclaimed_signal
from posterior_collapse.theory.verification import Verification, verify

minimize = minimise

__all__ = [
    "ACTIVE_INFORMATION",
    "Advice",
    "Change",
    "EffectiveBeta",
    "ExactObjective",
    "FewSamplesWarning",
    "Forecast",
    "Level",
    "Minimum",
    "PhaseDiagram",
    "Verification",
    "effective_beta",
    "forecast",
    "minimise",
    "minimize",
    "phase_diagram",
    "unclaimed_signal",
    "verify",
]
