"""Other libraries draw from torch's global generator where only a distribution is wanted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["undisturbed"]


@contextlib.contextmanager
def undisturbed(x: Tensor) -> Iterator[None]:
    """Give torch's random numbers back as they were, on the CPU and where x is.

    Example:
        >>> state = torch.get_rng_state()
        >>> with undisturbed(torch.ones(1)):
        ...     _ = torch.randn(3)
        >>> torch.equal(state, torch.get_rng_state())
        True
    """
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        yield
