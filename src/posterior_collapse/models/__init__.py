"""Models that can be trained and diagnosed, behind one small interface, `LatentModel`."""

from posterior_collapse.errors import needing_torch

with needing_torch():
    import torch as _torch  # noqa: F401

from posterior_collapse.models.architecture import ARCHITECTURES, Architecture, Shapes
from posterior_collapse.models.build import build, rebuild
from posterior_collapse.models.latent import LatentModel, LogTerms
from posterior_collapse.models.likelihoods import OneHots
from posterior_collapse.models.linear import (
    LinearValues,
    exact_terms,
    linear_values,
    load_parameters,
    read_parameters,
    set_biases,
    trained_parameters,
)
from posterior_collapse.models.markov import MarkovVAE
from posterior_collapse.models.objective import (
    CONVENTIONS,
    Terms,
    check_convention,
    log_normaliser,
    loss,
)
from posterior_collapse.models.schedules import capacity, check_warm_up, cyclical, warm_up
from posterior_collapse.models.widening import widened

__all__ = [
    "ARCHITECTURES",
    "CONVENTIONS",
    "Architecture",
    "LatentModel",
    "LinearValues",
    "LogTerms",
    "MarkovVAE",
    "OneHots",
    "Shapes",
    "Terms",
    "build",
    "capacity",
    "check_convention",
    "check_warm_up",
    "cyclical",
    "exact_terms",
    "linear_values",
    "load_parameters",
    "log_normaliser",
    "loss",
    "read_parameters",
    "rebuild",
    "set_biases",
    "trained_parameters",
    "warm_up",
    "widened",
]
