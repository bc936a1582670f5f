"""Say which latent units of a VAE will collapse, show which did, and say what to change.

Names are imported when first used, so that importing the package is fast and never needs an
optional library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posterior_collapse.data import Dataset, load
    from posterior_collapse.diagnosis import (
        Diagnosis,
        LevelDiagnosis,
        LogLikelihood,
        diagnose,
        diagnose_arrays,
        log_likelihood,
    )
    from posterior_collapse.errors import (
        DataError,
        InvalidArgumentError,
        NotSolvedError,
        OutputError,
        PosteriorCollapseError,
        UnboundedObjectiveError,
    )
    from posterior_collapse.moments import Moments, cross_fitted_residuals
    from posterior_collapse.report import plot
    from posterior_collapse.specs import ChainSpec, CVAESpec, HVAESpec, Spec, VAESpec
    from posterior_collapse.theory import (
        Advice,
        EffectiveBeta,
        FewSamplesWarning,
        Forecast,
        Level,
        Minimum,
        PhaseDiagram,
        Verification,
        effective_beta,
        forecast,
        minimise,
        phase_diagram,
        unclaimed_signal,
        verify,
    )
    from posterior_collapse.training import Fitted, Settings, fit, fit_many

_HOMES = {
    "data": ("Dataset", "load"),
    "diagnosis": (
        "Diagnosis",
        "LevelDiagnosis",
        "LogLikelihood",
        "diagnose",
        "diagnose_arrays",
        "log_likelihood",
    ),
    "errors": (
        "DataError",
        "InvalidArgumentError",
        "NotSolvedError",
        "OutputError",
        "PosteriorCollapseError",
        "UnboundedObjectiveError",
    ),
    "moments": ("Moments", "cross_fitted_residuals"),
    "report": ("plot",),
    "specs": ("CVAESpec", "ChainSpec", "HVAESpec", "Spec", "VAESpec"),
    "theory": (
        "Advice",
        "EffectiveBeta",
        "FewSamplesWarning",
        "Forecast",
        "Level",
        "Minimum",
        "PhaseDiagram",
        "Verification",
        "effective_beta",
        "forecast",
        "minimise",
        "phase_diagram",
        "unclaimed_signal",
        "verify",
    ),
    "training": ("Fitted", "Settings", "fit", "fit_many"),
}
_HOME_OF = {name: room for room, names in _HOMES.items() for name in names}

__all__ = [
    "Advice",
    "CVAESpec",
    "ChainSpec",
    "DataError",
    "Dataset",
    "Diagnosis",
    "EffectiveBeta",
    "FewSamplesWarning",
    "Fitted",
    "Forecast",
    "HVAESpec",
    "InvalidArgumentError",
    "Level",
    "LevelDiagnosis",
    "LogLikelihood",
    "Minimum",
    "Moments",
    "NotSolvedError",
    "OutputError",
    "PhaseDiagram",
    "PosteriorCollapseError",
    "Settings",
    "Spec",
    "UnboundedObjectiveError",
    "VAESpec",
    "Verification",
    "cross_fitted_residuals",
    "diagnose",
    "diagnose_arrays",
    "effective_beta",
    "fit",
    "fit_many",
    "forecast",
    "load",
    "log_likelihood",
    "minimise",
    "phase_diagram",
    "plot",
    "unclaimed_signal",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'posterior_collapse' has no attribute {name!r}")
    from posterior_collapse.errors import needing_torch

    with needing_torch():
        value = getattr(importlib.import_module(f"posterior_collapse.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
