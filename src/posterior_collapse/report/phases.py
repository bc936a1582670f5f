"""What a phase diagram is of, in words, for figures and pages alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from posterior_collapse.report.names import settings, value

if TYPE_CHECKING:
    from posterior_collapse.theory import PhaseDiagram

__all__ = ["beta_name", "counted", "fixed"]


def beta_name(found: PhaseDiagram) -> str:
    """Return the hyperparameter of the rows: "beta", or in a hierarchy e.g. "beta_2"."""
    return f"beta_{found.level + 1}" if len(found.spec.dims) > 1 else "beta"


def counted(found: PhaseDiagram) -> str:
    """Return whose units are counted."""
    return f"active units of z{found.level + 1}" if len(found.spec.dims) > 1 else "active units"


def fixed(found: PhaseDiagram) -> str:
    """Return the hyperparameters that are the same in all cells.

    Example:
        >>> import posterior_collapse as pc
        >>> m = pc.Moments.from_matrices([[4.0, 0.0], [0.0, 1.0]])
        >>> fixed(pc.phase_diagram(m, pc.VAESpec(2), [0.5, 2.0, 5.0]))
        'VAE, 2 latent units, η_dec = 1'
        >>> fixed(pc.phase_diagram(m, pc.VAESpec(2), [0.5, 2.0, 5.0], [1.0, 0.1]))
        'VAE, 2 latent units'
    """
    said = settings(found.spec, {beta_name(found), "eta_dec"})
    one = len(found.eta_decs) == 1 and found.spec.likelihood == "gaussian"
    return f"{said}, η_dec = {value(float(found.eta_decs[0]))}" if one else said
