"""Diagnosis: what collapsed in a trained model, why, and what to change."""

from posterior_collapse.diagnosis.results import (
    QUANTILES,
    CollapseCurve,
    Diagnosis,
    Finding,
    LevelDiagnosis,
)

__all__ = ["QUANTILES", "CollapseCurve", "Diagnosis", "Finding", "LevelDiagnosis"]
