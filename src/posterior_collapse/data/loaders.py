"""The batches of a torch DataLoader as a seed decides them, whatever else draws numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any


def seeded(loader: Any, seed: int) -> Iterator[Any]:
    """Yield a DataLoader's batches; what torch draws for them on the CPU the seed decides.

    Its order and the seeds of its workers come from torch's global generator of the CPU, or from
    one of the loader's own. These are lent a state while a batch is made and have their own while
    it is used. A GPU's generators are left alone: `torch.manual_seed` reseeds them too, and whoever
    looks at the data after each epoch would then train each epoch on the same noise. Transforms
    that draw from NumPy or from Python's `random` in this process draw from where these stand.

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
    torch = sys.modules["torch"]
    groups = loader.batch_sampler
    owners = (loader, loader.sampler, groups, getattr(groups, "sampler", None))
    own = (getattr(owner, "generator", None) for owner in owners)
    given = {id(generator): generator for generator in own if generator is not None}
    generators = [torch.default_generator, *given.values()]
    lent = [torch.Generator(one.device).manual_seed(seed).get_state() for one in generators]

    def swapped(states: list[Any]) -> list[Any]:
        """Give the generators other states, and return those that they had."""
        before = [generator.get_state() for generator in generators]
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        return before

    def drawn(make: Callable[[], Any]) -> Any:
        """Return what is made while the generators have the lent states."""
        nonlocal lent
        before = swapped(lent)
        try:
            return make()
        finally:
            lent = swapped(before)

    batches, end = drawn(lambda: iter(loader)), object()
    while (batch := drawn(lambda: next(batches, end))) is not end:
        yield batch
