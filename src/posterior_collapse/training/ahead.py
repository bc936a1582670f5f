"""Steps taken without a look at their numbers, and taken back where one was not finite.

A host that reads a number waits until the device has come to it, and the device then waits for the
host. So the runs' state is kept, some steps are taken in the hope that all stay finite, and one
flag is read after them. Where it is down, the caller takes the steps again and looks at each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from posterior_collapse.training.batches import Batch
from posterior_collapse.training.graphs import Graphs
from posterior_collapse.training.optimisers import Optimiser
from posterior_collapse.training.stacking import Draws

__all__ = ["Ahead", "Measured", "Step"]


class Step(NamedTuple):
    """What a step is made of.

    Attributes:
        batch: Rows that all runs see.
        draws: Each run's own.
        betas: (runs, levels).
        capacity: (levels,), or none.
    """

    batch: Batch
    draws: Draws
    betas: Tensor
    capacity: Tensor | None


class Measured(NamedTuple):
    """What a step found before it changed anything.

    Attributes:
        gradients: (runs, ...) each, clipped.
        values: (runs, measures): the loss, its reconstruction part and each unit's KL.
        norms: Of the gradients before they were clipped, (runs,).
    """

    gradients: list[Tensor]
    values: Tensor
    norms: Tensor

    def finite(self) -> Tensor:
        """Return which runs' numbers all are, (runs,)."""
        return (self.values.sum(1) + self.norms).isfinite()


class Ahead:
    """Takes steps of all runs without waiting for the device.

    Args:
        measure: Gives a step's gradients.
        optimiser: Whose parameters and moments change.
        sums: What steps measured, summed over rows, (runs, measures); changes as well.
        graphs: Launches the steps.
    """

    def __init__(
        self,
        measure: Callable[[Step], Measured],
        optimiser: Optimiser,
        sums: Tensor,
        graphs: Graphs,
    ) -> None:
        self._measure, self._optimiser, self._sums, self._graphs = measure, optimiser, sums, graphs
        slots = [tensor for slot in optimiser.slots.values() for tensor in slot.values()]
        self._tensors = [*optimiser.parameters.values(), *slots, sums]
        self._kept: list[Tensor] = []
        self._alive: tuple[int, ...] = ()
        self._good = torch.ones((), dtype=torch.bool, device=sums.device)
        self._stopped = torch.ones(len(sums), dtype=torch.bool, device=sums.device)

    @torch.no_grad()  # what is made in inference mode cannot be saved for a gradient
    def launch(self, steps: Sequence[Step], alive: Sequence[int]) -> None:
        """Take some steps of the runs in `alive`."""
        if tuple(alive) != self._alive:
            self._alive = tuple(alive)
            self._optimiser.follow(alive)
            self._graphs.forget()
            stopped = [run not in self._alive for run in range(len(self._sums))]
            self._stopped.copy_(torch.tensor(stopped, device="cpu"))
        if not self._kept:
            self._kept = [torch.empty_like(tensor) for tensor in self._tensors]
        torch._foreach_copy_(self._kept, self._tensors)
        self._good.fill_(True)
        for step in steps:
            self._launch(step)

    def succeeded(self) -> bool:
        """Return whether all numbers were finite; waits for the device."""
        return bool(self._good)

    def take_back(self) -> None:
        """Undo the steps of the last launch."""
        torch._foreach_copy_(self._tensors, self._kept)
        self._optimiser.resume(self._optimiser.steps)

    def close(self) -> None:
        """Give back the device's memory that graphs and what was kept take."""
        self._graphs.forget()
        self._kept = []
        self._alive = ()

    def _launch(self, step: Step) -> None:
        (x, y), (noise, masks), betas, capacity = step

        def take(*inputs: Tensor) -> None:
            values = iter(inputs)
            batch = Batch(next(values), None if y is None else next(values))
            draws = Draws(
                tuple(next(values) for _ in noise), {name: next(values) for name in masks}
            )
            self._take(Step(batch, draws, next(values), next(values, None)))

        given = (x, y, *noise, *masks.values(), betas, capacity)
        inputs = [value for value in given if value is not None]
        self._graphs.call((len(x), capacity is None), take, inputs)

    def _take(self, step: Step) -> None:
        found = self._measure(step)
        self._good.logical_and_(found.finite().logical_or(self._stopped).all())
        self._optimiser.update(found.gradients)
        self._sums.add_(found.values, alpha=len(step.batch.x))
