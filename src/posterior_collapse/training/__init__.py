"""Training: one model or a sweep in one vectorised run, by minibatches or exactly."""

from posterior_collapse.errors import needing_torch

with needing_torch():
    from posterior_collapse.theory.state import ACTIVE_INFORMATION
    from posterior_collapse.training.arguments import UnboundedObjectiveWarning
    from posterior_collapse.training.course import Progress
    from posterior_collapse.training.fitted import Fitted
    from posterior_collapse.training.fitting import fit, fit_many
    from posterior_collapse.training.settings import Settings

__all__ = [
    "ACTIVE_INFORMATION",
    "Fitted",
    "Progress",
    "Settings",
    "UnboundedObjectiveWarning",
    "fit",
    "fit_many",
]
