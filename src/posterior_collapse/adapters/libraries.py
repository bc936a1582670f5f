"""Other libraries: what to say when one is not there, and their use of global generators."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from posterior_collapse import errors


@contextlib.contextmanager
def needing(library: str, purpose: str) -> Iterator[None]:
    """Turn a failed import of a library, as pip calls it, into an error that says what to do.

    A library that is there and broken says so itself.

    Example:
        >>> with needing("pythae", "run"):
        ...     raise ImportError("No module named 'pythae'")
        Traceback (most recent call last):
        posterior_collapse.errors.MissingDependencyError: pythae: got "No module named 'pythae'...
    """
    action = f"Run pip install {library}."
    with errors.needing(library, f"it to {purpose}", action, perhaps_broken=True):
        yield


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Give random numbers back as they were: torch's on the CPU and a device, NumPy's, Python's.

    Other libraries draw from the global generators where only a distribution is wanted, and so do
    losses that are called, and transforms of data that are looked at.

    Example:
        >>> state = torch.get_rng_state()
        >>> with undisturbed(torch.device("cpu")):
        ...     _ = torch.randn(3)
        >>> torch.equal(state, torch.get_rng_state())
        True
    """
    states = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            np.random.set_state(states[0])
            random.setstate(states[1])
