"""A forecast's numbers as the script of a page reads them."""

from __future__ import annotations

from typing import Any

import numpy as np

from posterior_collapse.checks import Likelihood
from posterior_collapse.errors import PosteriorCollapseError
from posterior_collapse.moments import Moments
from posterior_collapse.records import plain
from posterior_collapse.specs import Spec, VAESpec
from posterior_collapse.theory import Forecast
from posterior_collapse.theory.reading import as_modes
from posterior_collapse.theory.spectrum import Modes

__all__ = ["law", "laws", "numbers", "problem"]

DIGITS = 12
"""Of what a page only offers beside the forecast that it is of: fewer make a smaller file."""


def problem(modes: Modes, spec: Spec) -> dict[str, Any]:
    """Return the problem that the page's script solves: the spec's numbers, beside those of `law`.

    Args:
        modes: Of the data.
        spec: The hyperparameters.

    Example:
        >>> found = problem(Modes(Moments.from_matrices(np.diag([4.0, 1.0]))), VAESpec(2, beta=3.0))
        >>> found["theta"], found["betas"]
        ([2.0, 1.0], [3.0])
    """
    return law(modes) | numbers(spec)


def numbers(spec: Spec) -> dict[str, Any]:
    """Return what a problem says of the spec.

    Args:
        spec: The hyperparameters.
    """
    return {
        "dims": list(spec.dims),
        "betas": list(spec.beta_levels),
        "etas": list(spec.eta_levels),
        "etaEnc": spec.eta_enc,
        "sigmas": [plain(sigma) for sigma in spec.sigma_levels],
        "oneEta": spec.model == "hvae",
    }


def law(modes: Modes) -> dict[str, Any]:
    """Return what a likelihood makes of the data: their spectrum in the noise that it tolerates.

    Args:
        modes: Of the data.

    Example:
        >>> law(Modes(Moments.from_matrices(np.diag([4.0, 0.0]))))["theta"]
        [2.0]
    """
    theta = modes.theta
    return {
        "theta": theta[theta > 0].tolist(),
        "modes": len(theta),
        "outside": modes.outside,
        "features": modes.target_dim,
        "constant": None if modes.noise is None else modes.noise.constant_loss,
    }


def laws(forecast: Forecast) -> dict[str, dict[str, Any]]:
    """Return a `law` for every likelihood that the data allow, or the reason why they do not.

    Args:
        forecast: Its own likelihood comes first.
    """
    own = forecast.spec.likelihood
    found: dict[str, dict[str, Any]] = {own: law(forecast._modes)}
    moments = _raw_moments(forecast)
    others: tuple[Likelihood, ...] = ("gaussian", "bernoulli", "poisson", "categorical")
    for likelihood in others:
        if likelihood != own:
            found[likelihood] = _other_law(moments, forecast.spec, likelihood)
    return found


def _raw_moments(forecast: Forecast) -> Moments | None:
    """The data's own moments, out of those in their own noise; None where those do not tell."""
    modes = forecast._modes
    if forecast.spec.model in ("cvae", "chain"):
        return None
    if modes.noise is None:
        return modes.moments
    assert modes.noise.divisor is not None
    # A feature that was divided by infinity does not vary.
    divisor = np.where(np.isfinite(modes.noise.divisor), modes.noise.divisor, 1.0)
    return modes.moments.divided(1 / divisor)


def _other_law(moments: Moments | None, spec: Spec, likelihood: Likelihood) -> dict[str, Any]:
    if moments is None:
        return {"reason": f"no law of this likelihood is known here for a {spec.model} model"}
    try:
        modes, _ = as_modes(moments, VAESpec(1, likelihood=likelihood))
    except PosteriorCollapseError as error:
        return {"reason": f"the data have {error.got}; it takes {error.expected}"}
    found = law(modes)
    return found | {"theta": [float(f"{std:.{DIGITS}g}") for std in found["theta"]]}
