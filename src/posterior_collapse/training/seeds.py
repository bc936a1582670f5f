"""One generator per purpose and epoch, each derived from a run's seed.

Initialisation, data order and noise are functions of (seed, purpose, epoch): a resumed run needs
no generator's state to go on bit for bit, and a run of a sweep meets the same numbers as alone.
"""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["INITIALISATION", "MASKS", "MEASURE", "NOISE", "ORDER", "derive", "generator"]

INITIALISATION, ORDER, NOISE, MASKS, MEASURE = range(5)


def derive(seed: int, purpose: int, epoch: int = 0) -> int:
    """Return a seed of 63 bits that depends on all arguments."""
    words = np.random.SeedSequence([seed, purpose, epoch]).generate_state(2, np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])


def generator(
    seed: int, purpose: int, epoch: int = 0, device: str | torch.device = "cpu"
) -> torch.Generator:
    """Return the generator of one purpose of a run, in one epoch.

    Example:
        >>> a, b = (torch.rand(1, generator=generator(0, p)).item() for p in (ORDER, NOISE))
        >>> a != b
        True
    """
    return torch.Generator(device).manual_seed(derive(seed, purpose, epoch))
