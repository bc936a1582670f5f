"""Models, losses and training loops of other libraries, made ready for `posterior_collapse`.

* `from_callable`, `from_pythae`, `from_diffusers`, `from_pyro`, `from_scvi`: a `LatentModel` that
  `diagnose` understands.
* `audit_loss`: what beta a loss function really has.
* `adapters.lightning.CollapseMonitor`: watches the units of a Lightning module while it trains.
* `adapters.metrics`: torchmetrics of collapse.

The last two are imported by their module, since each needs its own library.
"""

from posterior_collapse.errors import needing_torch

with needing_torch():
    from posterior_collapse.adapters.audit import LossAudit, audit_loss
    from posterior_collapse.adapters.callables import WrappedModel, from_callable
    from posterior_collapse.adapters.diffusers import from_diffusers
    from posterior_collapse.adapters.pyro import from_pyro
    from posterior_collapse.adapters.pythae import from_pythae
    from posterior_collapse.adapters.scvi import from_scvi

__all__ = [
    "LossAudit",
    "WrappedModel",
    "audit_loss",
    "from_callable",
    "from_diffusers",
    "from_pyro",
    "from_pythae",
    "from_scvi",
]
