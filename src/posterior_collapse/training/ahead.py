"""Steps taken without a look at their numbers, and taken back where one was not finite.

A host that reads a number waits until the device has come to it, and the device then waits for the
host. So the runs' state is kept, some steps are taken in the hope that all stay finite, and one
flag is read after them. Where it is down, the caller takes the steps again and looks at each.

On a GPU a step is one CUDA graph, launched as a whole and not kernel by kernel: a step of these
nets is a hundred small kernels, and to launch each takes longer than it runs. A graph reads and
writes fixed places in memory: the inputs of a call are copied into those of the captured one.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from posterior_collapse.training.optimisers import Optimiser
from posterior_collapse.training.stacking import Step


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
        kind = len(step.batch.x), step.capacity is None
        self._graphs.call(kind, lambda *inputs: self._take(step.filled(inputs)), step.tensors())

    def _take(self, step: Step) -> None:
        found = self._measure(step)
        self._good.logical_and_(found.finite().logical_or(self._stopped).all())
        self._optimiser.update(found.gradients)
        self._sums.add_(found.values, alpha=len(step.batch.x))


class GraphWarning(UserWarning):
    """A step could not be captured; training works, only slower."""


class Graphs:
    """Calls of a function that changes tensors in place, each kind of call as one graph.

    The first call of a kind is made as it is: it is then that libraries are loaded, memory is
    found and traces are written. The second is captured, and it and all later ones are launched.

    Args:
        enabled: Whether to capture at all.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._met: set[Hashable] = set()
        self._captured: dict[Hashable, tuple[Any, list[Tensor]]] = {}
        self._pool: Any = None

    def forget(self) -> None:
        """Capture anew: the function now changes other tensors."""
        self._met.clear()
        self._captured.clear()
        self._pool = None

    def call(self, kind: Hashable, function: Callable[..., None], inputs: Sequence[Tensor]) -> None:
        """Call `function(*inputs)`, which returns nothing and never looks at a number.

        Args:
            kind: Calls of one kind do the same with inputs of the same shapes.
            function: To call.
            inputs: Its arguments.
        """
        if not self._enabled or kind not in self._met:
            self._met.add(kind)
            function(*inputs)
            return
        if kind not in self._captured and not self._capture(kind, function, inputs):
            function(*inputs)
            return
        graph, places = self._captured[kind]
        torch._foreach_copy_(places, list(inputs))
        graph.replay()

    def _capture(
        self, kind: Hashable, function: Callable[..., None], inputs: Sequence[Tensor]
    ) -> bool:
        places = [value.clone(memory_format=torch.contiguous_format) for value in inputs]
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        # What is collected meanwhile may be a graph, and to destroy one ends the capture.
        gc.collect()
        collects = gc.isenabled()
        gc.disable()
        try:
            # Other threads, such as those of a loader, may go on using the device.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                function(*places)
        except RuntimeError as error:
            first = error.__context__ or error
            reason = f"{type(first).__name__}: {first}".partition("\n")[0]
            warnings.warn(
                f"this step cannot be captured as a CUDA graph ({reason}); it trains without, "
                "slower.",
                GraphWarning,
                stacklevel=2,
            )
            self._enabled = False
            return False
        finally:
            if collects:
                gc.enable()
        self._captured[kind] = graph, places
        return True
