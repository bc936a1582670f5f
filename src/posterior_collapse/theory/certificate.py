"""Is a collapse optimal? The certificate of theory section 7, for models of any architecture.

Adding one unit that the decoder uses linearly is a linear VAE on what the decoder leaves
unexplained. It pays exactly when the strongest unexplained variance passes the unit's threshold.
"""

from __future__ import annotations

import numpy as np

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.specs import Spec

__all__ = ["unclaimed_signal"]


def unclaimed_signal(
    spec: Spec,
    variance: float,
    *,
    level: int = 1,
    eta_dec: float | None = None,
    spare_above: bool = True,
) -> float:
    """Return t: the strongest unexplained variance over the threshold of one more unit.

    With units collapsed, t <= 1 says that collapse is what the objective asks for, and t > 1 that
    signal is left unclaimed: the optimiser failed. With no unit collapsed, t > 1 says that more
    units would pay. For decoders that are not linear this is strong evidence, not a proof.

    Args:
        spec: The hyperparameters.
        variance: Largest eigenvalue of the covariance of the mean residual, in squared units of
            what the level decodes: y - E[mu_y(z)] for level 1 (for a conditional model less what
            x predicts of it), z1 - E[mu_1(z2) | z1] for level 2, and so on.
        level: 1 is next to the data.
        eta_dec: Decoder std into the data; needed where `spec` learns it.
        spare_above: Whether the level above has a unit to spare, which can lower the threshold.

    Raises:
        InvalidArgumentError: No such level, a negative variance, or eta_dec missing.

    Source:
        Sections 1a, 1b and 3 of the derivation, applied to the residual.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> unclaimed_signal(VAESpec(8, beta=2.0, eta_dec=0.5), variance=0.4)
        0.8
    """
    if not 1 <= level <= len(spec.dims):
        raise InvalidArgumentError(
            "level", level, f"1 to {len(spec.dims)}", "Level 1 is next to the data."
        )
    if not variance >= 0:
        raise InvalidArgumentError(
            "variance", variance, "a number that is not negative", "Pass an eigenvalue."
        )
    etas = [eta_dec if e == "learned" else float(e) for e in spec.eta_levels]
    if any(eta is None for eta in etas):
        raise InvalidArgumentError(
            "eta_dec", "nothing, for a learned one", "the trained std", "Pass eta_dec."
        )
    known = [float(eta) for eta in etas if eta is not None]
    priors = [*known[1:], spec.eta_enc]
    here, above = level - 1, level
    ratio = spec.beta_levels[here] / (spec.beta_levels[here - 1] if here else 1.0)
    scale = ratio * known[here] ** 2
    sigma = spec.sigma_levels[here]
    if isinstance(sigma, str):
        return variance / scale
    std = float(np.min(sigma))
    threshold = scale * (std / priors[here]) ** 2
    if above < len(spec.dims) and spare_above:
        # a unit that the level above encodes in turn may live on less (section 3)
        ratio = spec.beta_levels[above] / spec.beta_levels[here]
        sigma = spec.sigma_levels[above]
        if isinstance(sigma, str):
            helped = scale * ratio
        else:
            kappa = np.sqrt(ratio) * priors[here] / priors[above] * float(np.min(sigma))
            helped = scale / priors[here] ** 2 * std * kappa
        threshold = min(threshold, helped)
    return float(variance / threshold)
