"""Adam and SGD on stacked runs, each with its own clipping and learning rate."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from posterior_collapse.training.settings import Settings


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
        rates: Learning rate per run.
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
        self._groups: list[tuple[float, list[int] | None, list[list[Tensor]]]] = []
        self._counts: list[list[Tensor]] = []
        for rate in dict.fromkeys(self.rates[run] for run in alive):
            runs = [run for run in alive if self.rates[run] == rate]
            whole = every and len(runs) == len(self.rates)
            lists = [t if whole else [v[run] for v in t for run in runs] for t in tensors]
            self._groups.append((rate, None if whole else runs, lists))
            # Counts of float32, one per tensor, that lie where it does: the fused kernels count.
            count = float(self.steps)
            self._counts.append(
                [torch.full((), count, dtype=torch.float32, device=p.device) for p in lists[0]]
            )

    def resume(self, steps: int) -> None:
        """Go on after so many steps."""
        self.steps = steps
        for count in itertools.chain(*self._counts):
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
        for (rate, runs, lists), counts in zip(self._groups, self._counts, strict=True):
            own = list(gradients) if runs is None else [g[run] for g in gradients for run in runs]
            self._update(rate * factor, own, lists, counts)

    def _update(
        self, rate: float, gradients: list[Tensor], lists: list[list[Tensor]], counts: list[Tensor]
    ) -> None:
        """Update tensors in place; Adam also the counts of their steps."""
        if self.momentum is None:
            parameters, first, second = lists
            adam(
                parameters, gradients, first, second, [], counts,
                fused=True, amsgrad=False, beta1=0.9, beta2=0.999, lr=rate,
                weight_decay=0.0, eps=1e-8, maximize=False,
            )  # fmt: skip
        else:
            parameters, buffers = lists
            sgd(
                parameters, gradients, list(buffers), fused=True, weight_decay=0.0,
                momentum=self.momentum, lr=rate, dampening=0.0, nesterov=False, maximize=False,
            )  # fmt: skip
