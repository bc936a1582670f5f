"""How steps are taken: by Adam or SGD on stacked runs, and ahead of a look at their numbers.

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
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from posterior_collapse.training.settings import Settings
from posterior_collapse.training.stacking import Step


def clip_(gradients: Sequence[Tensor], bounds: Tensor | None) -> Tensor:
    """Scale each run's gradients in place to its bound; return the norms before, (runs,).

    Args:
        gradients: (runs, ...) each.
        bounds: Of each run's global norm, (runs,); inf: no bound. None: no bound at all.
    """
    norms: Tensor = torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients]), dim=0
    )
    if bounds is not None:
        # The 1e-6 is that of torch.nn.utils.clip_grad_norm_.
        factors = (bounds / (norms + 1e-6)).clamp(max=1.0)
        for g in gradients:
            g.mul_(factors.view(-1, *(1,) * (g.dim() - 1)))
    return norms


class Optimiser:
    """Updates stacked parameters in place, run by run where runs differ.

    By Adam (Kingma and Ba 2015) with betas 0.9 and 0.999, or by stochastic gradient descent with
    momentum.

    Args:
        settings: `optimiser`, and `momentum` of SGD.
        parameters: By name, (runs, ...) each, contiguous.
    """

    def __init__(
        self, settings: Settings, parameters: Mapping[str, Tensor], rates: Sequence[float]
    ) -> None:
        self.momentum = settings.momentum if settings.optimiser == "sgd" else None
        self.parameters = dict(parameters)
        self.rates = tuple(rates)
        self.steps = 0
        self.slots = {
            kind: {name: torch.zeros_like(p) for name, p in parameters.items()}
            for kind in (("first", "second") if self.momentum is None else ("momentum",))
        }
        self._views(range(len(self.rates)))

    @torch.inference_mode(False)
    @torch.no_grad()
    def _views(self, alive: Sequence[int]) -> None:
        """Group the live runs by learning rate; all runs at one rate stay stacked."""
        tensors = [list(self.parameters.values()), *(list(s.values()) for s in self.slots.values())]
        every = len(alive) == len(self.rates)
        self._alive = tuple(alive)
        # Counts of float32, one per tensor, that lie where it does: the fused kernels count.
        self._groups: list[
            tuple[float, list[int] | None, list[list[Tensor]], list[Tensor]]
        ] = []  # rate, runs (None: all), parameters and each kind of moments, counts of steps
        for rate in dict.fromkeys(self.rates[run] for run in alive):
            runs = [run for run in alive if self.rates[run] == rate]
            whole = every and len(runs) == len(self.rates)
            lists = [t if whole else [v[run] for v in t for run in runs] for t in tensors]
            done = float(self.steps)
            counts = [torch.full((), done, dtype=torch.float32, device=p.device) for p in lists[0]]
            self._groups.append((rate, None if whole else runs, lists, counts))

    def resume(self, steps: int) -> None:
        """Go on after so many steps."""
        self.steps = steps
        for *_, counts in self._groups:
            for count in counts:
                count.fill_(steps)

    def follow(self, alive: Sequence[int]) -> None:
        """Update the runs in `alive` from now on."""
        if tuple(alive) != self._alive:
            self._views(alive)

    def step(
        self, gradients: Sequence[Tensor], alive: Sequence[int], *, factor: float = 1.0
    ) -> None:
        """Update the runs in `alive` with gradients (runs, ...), in the parameters' order.

        The rates of this step are those of the runs times `factor`.
        """
        self.follow(alive)
        self.steps += 1
        self.update(gradients, factor=factor)

    def update(self, gradients: Sequence[Tensor], *, factor: float = 1.0) -> None:
        """Update the runs that are followed; who calls this raises `steps`."""
        for rate, runs, lists, counts in self._groups:
            own = list(gradients) if runs is None else [g[run] for g in gradients for run in runs]
            if self.momentum is None:
                # Not by torch.optim.adam, which looks at the tensors longer than small ones take.
                parameters, first, second = lists
                torch._foreach_add_(counts, 1)
                torch._fused_adam_(
                    parameters, own, first, second, [], counts, lr=rate * factor, beta1=0.9,
                    beta2=0.999, eps=1e-8, amsgrad=False, weight_decay=0.0, maximize=False,
                )  # fmt: skip
            else:
                parameters, buffers = lists
                sgd(
                    parameters, own, list(buffers), lr=rate * factor, momentum=self.momentum,
                    fused=True, weight_decay=0.0, dampening=0.0, nesterov=False, maximize=False,
                )  # fmt: skip


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

        Calls of one kind do the same with inputs of the same shapes.
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
