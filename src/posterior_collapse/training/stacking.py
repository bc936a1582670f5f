"""Models that differ in numbers only, as one: stacked parameters and one traced gradient.

The gradient of all runs is written once with `torch.func.vmap`, its products with the data taken
for all runs together, and traced into a flat list of tensor operations. Replaying that list costs
neither autograd's nor vmap's bookkeeping, which on small networks is most of a step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models import CONVENTIONS, MarkovVAE, Terms, loss
from posterior_collapse.training.feeding import Batch

__all__ = ["Draws", "Stack"]


class Draws(NamedTuple):
    """What a step draws: noise (runs, n, units) per level, dropout masks (runs, n, width)."""

    noise: tuple[Tensor, ...]
    masks: dict[str, Tensor]


class Stack:
    """The parameters of R models and the gradient of their losses.

    Args:
        models: Built from specs that differ in numbers only.
        device: Where to keep them.
        half: Take matrix products in bfloat16.

    Attributes:
        parameters: By name, (runs, ...) each; trained in place.
        buffers: Likewise, constant.
    """

    def __init__(
        self, models: Sequence[MarkovVAE], device: torch.device, *, half: bool = False
    ) -> None:
        _check_alike(models)
        self.model = models[0]
        self.runs = len(models)
        self.half = half
        parameters, buffers = stack_module_state(list(models))
        self.parameters = {
            name: p.detach().to(device).contiguous() for name, p in parameters.items()
        }
        self.buffers = {name: b.to(device) for name, b in buffers.items()}
        self._traced: dict[Any, Callable[..., tuple[list[Tensor], Tensor]]] = {}

    def terms(self, batch: Batch, draws: Draws) -> Terms:
        """Return every run's terms, (runs, ...) each, without gradients."""
        with torch.no_grad(), self._autocast(batch.x):
            return self._terms(self.parameters, batch, draws)

    def gradients(
        self,
        batch: Batch,
        draws: Draws,
        betas: Tensor,
        capacity: Tensor | None,
        *,
        convention: str,
        free_bits: float | None,
    ) -> tuple[list[Tensor], Tensor]:
        """Return the gradients in the parameters' order, and what the step measured.

        Args:
            batch: Rows that all runs see.
            draws: Each run's own.
            betas: (runs, levels).
            capacity: (levels,), or none.
            convention: Of the loss.
            free_bits: In nats per unit.

        Returns:
            Gradients (runs, ...), and (runs, 2 + units of all levels): the loss, its reconstruction
            part and each unit's batch-averaged KL.
        """

        def step(
            parameters: dict[str, Tensor], batch: Batch, draws: Draws, betas: Tensor, cap: Any
        ) -> tuple[list[Tensor], Tensor]:
            def total(parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
                with self._autocast(batch.x):
                    terms = self._terms(parameters, batch, draws)

                def one(terms: Terms, betas: Tensor) -> Tensor:
                    return loss(
                        terms, betas, convention=convention, free_bits=free_bits, capacity=cap
                    )

                losses = vmap(one)(terms, betas)
                parts = reconstruction(terms, convention).unsqueeze(1)
                kls = [kl.mean(1) for kl in terms.kl]
                return losses.sum(), torch.cat([losses.unsqueeze(1), parts, *kls], 1)

            gradients, (_, measured) = grad_and_value(total, has_aux=True)(parameters)
            return [g.contiguous() for g in gradients.values()], measured.detach()

        arguments = (self.parameters, batch, draws, betas, capacity)
        key = (len(batch.x), batch.y is None, capacity is None, convention, free_bits)
        if key not in self._traced:
            traced = make_fx(step)(*arguments)
            traced.graph.eliminate_dead_code()
            traced.recompile()
            self._traced[key] = traced
        with torch.no_grad():
            return self._traced[key](*arguments)

    def state(self, run: int) -> dict[str, Tensor]:
        """Return the parameters and buffers of one run, by the model's names."""
        every = {**self.parameters, **self.buffers}
        return {name: value[run].clone() for name, value in every.items()}

    def _terms(self, parameters: Mapping[str, Tensor], batch: Batch, draws: Draws) -> Terms:
        shared = {} if self.runs == 0 else self._shared_products(parameters, batch)

        def one(parameters: Any, buffers: Any, noise: Any, supplied: dict[str, Tensor]) -> Terms:
            inputs = (batch.x, batch.y, noise, supplied)
            return cast(Terms, functional_call(self.model, (parameters, buffers), inputs))

        return vmap(one)(parameters, self.buffers, draws.noise, {**shared, **draws.masks})

    def _shared_products(self, parameters: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The products of all runs with the data, one matrix product each."""
        data = {"x": batch.x, "y": batch.y}
        found = {}
        for name, key in self.model.stems.items():
            weight = parameters[f"{name}.weight"]  # (runs, width, dim)
            value = cast(Tensor, data[key])
            product = (value @ weight.flatten(0, 1).T).view(-1, *weight.shape[:2])
            product = product.to(weight.dtype).transpose(0, 1)  # (runs, n, width)
            bias = parameters.get(f"{name}.bias")
            found[name] = product if bias is None else product + bias.unsqueeze(1)
        if not self.half:
            # Without residuals the squared error is a difference of large numbers: too large for
            # the 8 bits of bfloat16.
            target = batch.x if batch.y is None else batch.y
            for name in self.model.heads:
                found[name] = target @ parameters[f"{name}.weight"]
        return found

    def _autocast(self, like: Tensor) -> contextlib.AbstractContextManager[Any]:
        if not self.half:
            return contextlib.nullcontext()
        return torch.autocast(like.device.type, torch.bfloat16)


def reconstruction(terms: Terms, convention: str) -> Tensor:
    """Return the reconstruction part of each run's loss in nats, (runs,)."""
    weights = CONVENTIONS[convention]
    error = terms.squared_error.mean(1) / terms.eta_dec.square()
    return weights.squared_error * error + weights.normaliser * terms.normaliser


def _check_alike(models: Sequence[MarkovVAE]) -> None:
    if not models:
        raise InvalidArgumentError("specs", "none", "at least one spec", "Pass some specs.")

    def layout(model: MarkovVAE) -> list[tuple[str, tuple[int, ...]]]:
        state = [*model.named_parameters(), *model.named_buffers()]
        return [(name, tuple(value.shape)) for name, value in state]

    for run, model in enumerate(models):
        if layout(model) != layout(models[0]) or model.spec.model != models[0].spec.model:
            raise InvalidArgumentError(
                f"specs[{run}]",
                "another model than specs[0]",
                "specs that differ in numbers only (beta, eta, sigma)",
                "Train other models, sizes or kinds of sigma by calls of their own.",
            )
