"""Where the KL of a loss keeps its digits: beside a large error single precision leaves none."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from posterior_collapse.adapters.probing import Probe
from posterior_collapse.arrays import Float
from posterior_collapse.errors import InvalidArgumentError

SMALL = 1e-5
"""A probability or rate near 0, of which a loss that does not guard its logarithms takes one."""
LINK = 30.0
"""Minus a logit or log rate that is as good as 0."""
FINE, COARSE = 1e-4, 5e-3
"""Rounding, as a share of a unit's KL, up to which that is read well, and is read at all."""
MOST_APART = 256
"""Units that are looked at one by one, where they differ."""


def rounding(losses: Float) -> float:
    """Return what rounding may do to losses, in the precision that they show to have.

    Example:
        >>> rounding(np.array([1000.0, 0.1])) < 1e-12 < rounding(np.array([1000.0, 0.5]))
        True
    """
    single = losses.astype(np.float32)
    largest = np.abs(single if (single == losses).all() else losses).max()
    return float(np.spacing(largest))


def beside(probe: Probe) -> tuple[Tensor, Tensor]:
    """Return the output and the target at which the KL is read."""
    return _pairs(probe)[probe.beside]


def with_digits(probe: Probe) -> Probe:
    """Return the probe, with an error that leaves the KL its digits if it loses them elsewhere.

    Raises:
        InvalidArgumentError: It has none beside any error.
    """
    fine, _ = _digits(probe)
    if fine:
        return probe
    errors = []
    for pair in _pairs(probe):
        try:
            errors.append(abs(probe.value(*pair)))
        except InvalidArgumentError:  # of outputs that it does not take
            errors.append(math.inf)
    probe = replace(probe, beside=int(np.argmin(errors)))
    _, lost = _digits(probe)
    if lost:
        raise InvalidArgumentError(
            "loss",
            f"a total near {min(errors):.3g} in single precision, beside which its KL is rounded "
            "away",
            "one whose KL keeps some digits",
            "Audit it in double precision, without .float(); or with fewer features= and a smaller "
            "batch_size=, if it sums over them.",
        )
    return probe


def _digits(probe: Probe) -> tuple[bool, bool]:
    """Whether a unit's KL of some tenths of a nat is well above rounding, and whether it is lost.

    One that is free up to a floor is asked far beyond it.
    """
    at = beside(probe)
    losses = np.array([probe.value(*at, mean) for mean in (0.0, 0.7, 20.0)])
    close, far = np.abs(losses[1:] - losses[0])
    each = max(close, 1e-3 * far) / min(probe.sizes.latents, MOST_APART)
    error = rounding(losses[:2])
    return error <= FINE * each, 0 < COARSE * each < error


def _pairs(probe: Probe) -> list[tuple[Tensor, Tensor]]:
    """Return outputs with targets: made-up ones, and others that one error or another is small at.

    A squared error is 0 on its target, a cross-entropy of probabilities or logits at targets of 0
    and 1, and what takes rates at counts of 0.
    """
    y_hat, y = probe.made_up()
    classes = probe.target.values == "classes"
    hot = probe.one_hot(y) if classes else (y_hat > 0.5).double()
    hot = y if probe.target.values == "one-hot" else hot
    target = y if classes else hot
    zero = torch.zeros_like(y) if probe.target.axis is None else target  # a class may be padding
    return [
        (y_hat, y),
        (hot if classes else y, y),
        (hot, target),
        (hot.clamp(SMALL, 1 - SMALL), target),
        (LINK * (2 * hot - 1), target),
        (LINK * (hot - 1), target),
        (torch.full_like(y_hat, -LINK), zero),
        (torch.full_like(y_hat, SMALL), zero),
    ]
