"""One more latent unit for a trained model: to train on, or dead."""

from __future__ import annotations

import torch
from torch import Tensor

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models.build import build
from posterior_collapse.models.markov import MarkovVAE
from posterior_collapse.specs import Spec

__all__ = ["widened"]

FAINT = 0.1
"""Share of its usual weights with which the decoder first listens to a new unit: at their full size
the unit's noise costs more than the other units can bring before it is unlearned."""


def widened(
    model: MarkovVAE, generator: torch.Generator | None = None, *, dead: bool = False
) -> MarkovVAE:
    """Return the model of one more unit that does what this one does.

    Args:
        model: Of one level, whose `latent_dim` is one number; stays as it is.
        generator: Of the new unit's weights; None: with seed 0.
        dead: Whether the new unit is its prior whatever the data, and the decoder deaf to it: as
            a unit is that collapsed. Else it starts as in a new model, the decoder listening
            faintly.

    Raises:
        InvalidArgumentError: A hierarchy, or a std per unit that is given.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> widened(build(VAESpec(latent_dim=2, sigma="input"), "mlp", x_dim=5)).spec.latent_dim
        3
    """
    spec, shapes = model.spec, model.config["shapes"]
    wider = build(
        _with_one_more(spec),
        model.architecture,
        x_dim=shapes["x_dim"],
        y_dim=shapes["y_dim"],
        image_shape=shapes["y_image"],
        condition_shape=shapes["x_image"],
        classes=model.config.get("classes"),
        generator=generator,
        dtype=next(model.parameters()).dtype,
    )
    old = model.state_dict()
    wider.load_state_dict(
        {name: _grown(old[name], new, dead) for name, new in wider.state_dict().items()}
    )
    return wider


def _with_one_more(spec: Spec) -> Spec:
    units = spec.dims
    if len(units) > 1 or isinstance(spec.sigma_levels[0], tuple):
        raise InvalidArgumentError(
            "model", f"one of {spec!r}", "one level of units that are alike",
            "Give a VAESpec or CVAESpec whose sigma is one for all units.",
        )  # fmt: skip
    return spec.replace(latent_dim=units[0] + 1)


def _grown(old: Tensor, new: Tensor, dead: bool) -> Tensor:
    """Return the old values in the first places of the new, and for the new unit what it starts as.

    The unit is the last of an encoder's outputs (first axis) or of a decoder's inputs (second).
    """
    if old.shape == new.shape:
        return old.clone()
    found = new * 0.0 if dead else new.clone()
    if old.dim() > 1 and old.shape[1] != new.shape[1]:
        found *= FAINT
    found[tuple(slice(size) for size in old.shape)] = old
    return found
