"""What is made of a row's runs, by name."""

from collections.abc import Mapping

from posterior_collapse.experiments.checks import Deliverable
from posterior_collapse.experiments.deliverables.collapse import (
    collapse_curves,
    correlation,
    digits,
    onset,
)
from posterior_collapse.experiments.deliverables.convergence import convergence
from posterior_collapse.experiments.deliverables.images import (
    beta_panel,
    reconstructions,
    sweep_reconstructions,
)
from posterior_collapse.experiments.deliverables.likelihood import likelihood_table
from posterior_collapse.experiments.deliverables.linear import both_learned, matrices, theory_sweep
from posterior_collapse.experiments.deliverables.published import published_numbers
from posterior_collapse.experiments.trust.failures import trust_failures
from posterior_collapse.experiments.trust.gain import trust_gain
from posterior_collapse.experiments.trust.onset import trust_onset
from posterior_collapse.experiments.trust.units import trust_units

__all__ = ["DELIVERABLES"]

DELIVERABLES: Mapping[str, Deliverable] = {
    deliverable.__name__: deliverable
    for deliverable in (
        *(collapse_curves, correlation, digits, onset),
        *(beta_panel, reconstructions, sweep_reconstructions),
        *(both_learned, convergence, matrices, theory_sweep),
        *(likelihood_table, published_numbers),
        *(trust_onset, trust_units, trust_gain, trust_failures),
    )
}
"""Every deliverable by name; a row lists its own."""
