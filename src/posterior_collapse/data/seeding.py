"""A loader's batches in an order that a seed decides, whatever else draws from torch meanwhile."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["seeded"]

_END = object()


def seeded(loader: Any, seed: int) -> Iterator[Any]:
    """Yield a loader's batches; what torch draws for them on the CPU is decided by the seed.

    Its order and the seeds of its workers come from torch's global generator of the CPU, or from
    one of the loader's own. These are lent a state while a batch is made and have their own while
    it is used. A GPU's generators are left alone: `torch.manual_seed` reseeds them too, and whoever
    looks at the data after each epoch would then train each epoch on the same noise. Transforms
    that draw from NumPy or from Python's `random` in this process draw from where these stand.

    Args:
        loader: A torch DataLoader. Who has one has imported torch, which is not imported here.
        seed: What decides.

    Example:
        >>> import torch
        >>> loader = torch.utils.data.DataLoader(torch.arange(4), shuffle=True)
        >>> before = torch.get_rng_state()
        >>> first, second = ([int(batch) for batch in seeded(loader, 0)] for _ in range(2))
        >>> first == second
        True
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    lent = _Lent(loader, seed)
    with lent.out():
        batches = iter(loader)
    while True:
        with lent.out():
            batch: Any = next(batches, _END)
        if batch is _END:
            return
        yield batch


class _Lent:
    """A state for each generator that a loader draws from."""

    def __init__(self, loader: Any, seed: int) -> None:
        torch = sys.modules["torch"]
        groups = loader.batch_sampler
        owners = (loader, loader.sampler, groups, getattr(groups, "sampler", None))
        own = (getattr(owner, "generator", None) for owner in owners)
        given = {id(generator): generator for generator in own if generator is not None}
        self.generators = [torch.default_generator, *given.values()]
        seeds = [
            torch.Generator(generator.device).manual_seed(seed) for generator in self.generators
        ]
        self.states = [generator.get_state() for generator in seeds]

    @contextlib.contextmanager
    def out(self) -> Iterator[None]:
        """Lend the states for a while."""
        before = self._swapped(self.states)
        try:
            yield
        finally:
            self.states = self._swapped(before)

    def _swapped(self, states: list[Any]) -> list[Any]:
        before = [generator.get_state() for generator in self.generators]
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)
        return before
