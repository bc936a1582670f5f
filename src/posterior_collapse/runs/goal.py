"""What `tune` may be asked for; told before anything is trained, and without torch."""

from __future__ import annotations

from typing import Any

from posterior_collapse import checks
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.specs import VAESpec

__all__ = ["check_goal"]


def check_goal(spec: Any, parameter: object, active: int | None) -> None:
    """Refuse what cannot be tuned.

    Args:
        spec: Whose units are to be kept.
        parameter: What is tuned, "beta" or "latents".
        active: Units to keep; None: all.

    Raises:
        InvalidArgumentError: A hierarchy, another parameter, or more units than there are.

    Example:
        >>> check_goal(VAESpec(latent_dim=8), "beta", 4)
    """
    if not isinstance(spec, VAESpec):
        raise InvalidArgumentError(
            "spec", type(spec).__name__, "a VAESpec or a CVAESpec",
            "Of a hierarchy it is open which level is to keep them: sweep over its betas by "
            "pc.sweep(specs, data, folder=F); collapse diagnose F counts each level's.",
        )  # fmt: skip
    if parameter not in ("beta", "latents"):
        raise InvalidArgumentError(
            "tune", repr(parameter), "'beta' or 'latents'", "Pass tune='beta'."
        )
    if active is None:
        return
    if parameter == "latents":
        raise InvalidArgumentError(
            "active", active, "nothing beside tune='latents', which finds that number",
            "Leave it out, or tune beta.",
        )  # fmt: skip
    if checks.count("active", active) > spec.latent_dim:
        raise InvalidArgumentError(
            "active", active, f"at most {spec.latent_dim}, the latent units of the spec",
            f"Give it latent_dim={active} or more.",
        )  # fmt: skip
