"""Diagnosis: what collapsed in a trained model, why, and what to change."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from posterior_collapse.diagnosis.arrays import diagnose_arrays
from posterior_collapse.diagnosis.results import (
    QUANTILES,
    CollapseCurve,
    Diagnosis,
    Finding,
    LevelDiagnosis,
)
from posterior_collapse.errors import needing_torch

if TYPE_CHECKING:
    from posterior_collapse.diagnosis.diagnosing import diagnose
    from posterior_collapse.diagnosis.likelihood import LogLikelihood, log_likelihood
    from posterior_collapse.diagnosis.onsets import Onset, onset

# These need torch, which the numbers of a posterior do not.
_HOME_OF = {
    "LogLikelihood": "likelihood",
    "Onset": "onsets",
    "diagnose": "diagnosing",
    "log_likelihood": "likelihood",
    "onset": "onsets",
}

__all__ = [
    "QUANTILES",
    "CollapseCurve",
    "Diagnosis",
    "Finding",
    "LevelDiagnosis",
    "LogLikelihood",
    "Onset",
    "diagnose",
    "diagnose_arrays",
    "log_likelihood",
    "onset",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'posterior_collapse.diagnosis' has no attribute {name!r}")
    with needing_torch():
        return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
