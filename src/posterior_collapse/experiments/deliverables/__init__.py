"""What is made of a row's runs, by name."""

from collections.abc import Callable, Mapping, Sequence

from posterior_collapse.experiments.checks import Part, Result
from posterior_collapse.experiments.deliverables import (
    collapse,
    convergence,
    images,
    likelihood,
    linear,
    trust_beside,
    trust_gain,
    trust_units,
)

DELIVERABLES: Mapping[str, Callable[[Sequence[Result]], Part]] = {
    deliverable.__name__: deliverable
    for deliverable in (
        *(collapse.collapse_curves, collapse.correlation, collapse.digits, collapse.onset),
        *(images.beta_panel, images.reconstructions, images.sweep_reconstructions),
        *(images.matrices, convergence.convergence, linear.both_learned, linear.theory_sweep),
        *(likelihood.likelihood_table, likelihood.published_numbers),
        *(trust_units.trust_onset, trust_units.trust_units),
        *(trust_gain.trust_gain, trust_gain.trust_failures),
        *(trust_beside.trust_longer, trust_beside.trust_long, trust_beside.trust_held_out),
    )
}
"""Every deliverable by name; a row lists its own."""
