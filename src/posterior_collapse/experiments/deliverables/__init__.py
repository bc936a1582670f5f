"""What is made of a row's runs, by name."""

from collections.abc import Mapping

from posterior_collapse.experiments.checks import Deliverable
from posterior_collapse.experiments.deliverables import (
    collapse,
    convergence,
    likelihood,
    onset,
    panels,
    sweeps,
    theorems,
)

__all__ = ["DELIVERABLES"]

DELIVERABLES: Mapping[str, Deliverable] = {
    "beta_panel": panels.beta_panel,
    "both_learned": theorems.both_learned,
    "collapse_curves": collapse.collapse_curves,
    "convergence": convergence.convergence,
    "correlation": collapse.correlation,
    "digit_curves": collapse.digit_curves,
    "digit_order": collapse.digit_order,
    "digit_spectra": collapse.digit_spectra,
    "likelihood_table": likelihood.likelihood_table,
    "matrices": theorems.matrices,
    "onset": onset.onset,
    "reconstructions": panels.reconstructions,
    "sweep_reconstructions": panels.sweep_reconstructions,
    "theory_sweep": sweeps.theory_sweep,
}
"""Every deliverable by name; a row lists its own."""
