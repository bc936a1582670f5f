"""What is made of a row's runs, by name."""

from collections.abc import Mapping

from posterior_collapse.experiments.deliverables import (
    convergence,
    curves,
    digits,
    likelihood,
    onset,
    panels,
    sweeps,
    theorems,
)
from posterior_collapse.experiments.parts import Deliverable

__all__ = ["DELIVERABLES"]

DELIVERABLES: Mapping[str, Deliverable] = {
    "beta_panel": panels.beta_panel,
    "both_learned": theorems.both_learned,
    "collapse_curves": curves.collapse_curves,
    "convergence": convergence.convergence,
    "correlation": curves.correlation,
    "digit_curves": digits.digit_curves,
    "digit_order": digits.digit_order,
    "digit_spectra": digits.digit_spectra,
    "likelihood_table": likelihood.likelihood_table,
    "matrices": theorems.matrices,
    "onset": onset.onset,
    "reconstructions": panels.reconstructions,
    "sweep_reconstructions": panels.sweep_reconstructions,
    "theory_sweep": sweeps.theory_sweep,
}
"""Every deliverable by name; a row lists its own."""
