"""What is made of a row's runs, by name."""

from collections.abc import Callable, Mapping, Sequence

from posterior_collapse.experiments.checks import Part, Result
from posterior_collapse.experiments.deliverables.collapse import (
    collapse_curves,
    correlation,
    digits,
    onset,
)
from posterior_collapse.experiments.deliverables.images import (
    beta_panel,
    matrices,
    reconstructions,
    sweep_reconstructions,
)
from posterior_collapse.experiments.deliverables.likelihood import (
    likelihood_table,
    published_numbers,
)
from posterior_collapse.experiments.deliverables.linear import (
    both_learned,
    convergence,
    theory_sweep,
)
from posterior_collapse.experiments.deliverables.trust_gain import trust_failures, trust_gain
from posterior_collapse.experiments.deliverables.trust_units import trust_onset, trust_units

DELIVERABLES: Mapping[str, Callable[[Sequence[Result]], Part]] = {
    deliverable.__name__: deliverable
    for deliverable in (
        *(collapse_curves, correlation, digits, onset),
        *(beta_panel, matrices, reconstructions, sweep_reconstructions),
        *(both_learned, convergence, theory_sweep),
        *(likelihood_table, published_numbers),
        *(trust_onset, trust_units, trust_gain, trust_failures),
    )
}
"""Every deliverable by name; a row lists its own."""
