"""A step on a GPU as one CUDA graph: launched as a whole, not kernel by kernel.

A step of these nets is a hundred small kernels, and to launch each takes longer than it runs. What
is captured once is launched at once from then on. A graph reads and writes fixed places in memory:
the inputs of a call are copied into those of the captured one.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["GraphWarning", "Graphs"]


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
