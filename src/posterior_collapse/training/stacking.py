"""Models that differ in numbers only, as one: stacked parameters and one traced gradient.

The gradient of all runs is written once with `torch.func.vmap`, its products with the data taken
for all runs together, and traced into a flat list of tensor operations. Replaying that list costs
neither autograd's nor vmap's bookkeeping, which on small networks is most of a step.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models import CONVENTIONS, MarkovVAE, Terms, loss
from posterior_collapse.models.layers import Supplied
from posterior_collapse.models.nets import Decoder
from posterior_collapse.training.feeding import Batch
from posterior_collapse.training.heads import squared_error
from posterior_collapse.training.layout import HEADS, Layout
from posterior_collapse.training.tracing import trace

__all__ = ["Draws", "Stack", "reconstruction"]


class Draws(NamedTuple):
    """What a step draws: noise (runs, n, units) per level, dropout masks (runs, n, width)."""

    noise: tuple[Tensor, ...]
    masks: dict[str, Tensor]


class _Features(Decoder):
    """A decoder that hands out its hidden features, from which all runs' errors follow at once."""

    def squared_error(
        self,
        inputs: Mapping[str, Tensor],
        target: Tensor,
        supplied: Supplied,
        heads: Mapping[str, str],
    ) -> Tensor:
        return torch.cat([net(inputs[key], supplied) for key, net in self.features.items()], -1)


class Stack:
    """The parameters of R models and the gradient of their losses.

    Args:
        models: Built from specs that differ in numbers only.
        device: Where to keep them.
        rows: Rows per batch.
        half: Take matrix products in bfloat16.

    Attributes:
        specs: One per run.
        leaves: By name, (runs, ...) each and contiguous; trained in place.
        buffers: By the model's names, (runs, ...) each; constant.
    """

    def __init__(
        self,
        models: Sequence[MarkovVAE],
        device: torch.device,
        rows: int = 1,
        *,
        half: bool = False,
    ) -> None:
        _check_alike(models)
        self.runs = len(models)
        self.specs = [model.spec for model in models]
        self.device, self.half = device, half
        # Without residuals the squared error is a difference of large numbers: too large for the
        # 8 bits of bfloat16.
        self.layout = Layout(models[0], rows, share_heads=not half)
        self.model = copy.deepcopy(models[0]).to(device)
        if self.layout.heads:
            self.model.decoders[0].__class__ = _Features
        parameters, buffers = stack_module_state(list(models))
        self.leaves = self.layout.gather({n: p.detach().to(device) for n, p in parameters.items()})
        self.buffers = {name: b.to(device) for name, b in buffers.items()}
        self._traced: dict[Any, Callable[..., list[Tensor]]] = {}

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters by the model's names, (runs, ...) each: views of the leaves."""
        return self.layout.scatter(self.leaves)

    def terms(self, batch: Batch, draws: Draws) -> Terms:
        """Return every run's terms, (runs, ...) each, without gradients."""
        with torch.no_grad(), self._autocast():
            return self._terms(self.leaves, batch, draws)

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
        """Return the gradients in the order of the leaves, and what the step measured.

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

        def step(*flat: Tensor) -> list[Tensor]:
            values = iter(flat)
            leaves = {name: next(values) for name in self.leaves}
            rows = Batch(next(values), None if batch.y is None else next(values))
            drawn = Draws(
                tuple(next(values) for _ in draws.noise),
                {name: next(values) for name in draws.masks},
            )
            betas, cap = next(values), next(values, None)

            def total(leaves: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
                with self._autocast():
                    terms = self._terms(leaves, rows, drawn)

                def one(terms: Terms, betas: Tensor) -> Tensor:
                    return loss(
                        terms, betas, convention=convention, free_bits=free_bits, capacity=cap
                    )

                losses = vmap(one)(terms, betas)
                parts = reconstruction(terms, convention).unsqueeze(1)
                kls = [kl.mean(1) for kl in terms.kl]
                return losses.sum(), torch.cat([losses.unsqueeze(1), parts, *kls], 1)

            gradients, (_, measured) = grad_and_value(total, has_aux=True)(leaves)
            return [g.contiguous() for g in (*gradients.values(), measured)]

        arguments = [
            *self.leaves.values(), batch.x, *(() if batch.y is None else (batch.y,)),
            *draws.noise, *draws.masks.values(), betas, *(() if capacity is None else (capacity,)),
        ]  # fmt: skip
        key = (len(batch.x), batch.y is None, capacity is None, convention, free_bits)
        if key not in self._traced:
            with torch.inference_mode(False):
                self._traced[key] = trace(step, *arguments)
        *found, measured = self._traced[key](*arguments)
        return found, measured

    def state(self, run: int) -> dict[str, Tensor]:
        """Return the parameters and buffers of one run, by the model's names."""
        every = {**self.parameters, **self.buffers}
        return {name: value[run].clone() for name, value in every.items()}

    @torch.no_grad()
    def load(self, run: int, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        for name, value in {**self.parameters, **self.buffers}.items():
            value[run].copy_(state[name])

    def _terms(self, leaves: Mapping[str, Tensor], batch: Batch, draws: Draws) -> Terms:
        parameters = self.layout.scatter(leaves)
        own = {n: p for n, p in parameters.items() if n not in self.layout.shared}
        supplied = {**self._stems(leaves, parameters, batch), **draws.masks}

        def one(parameters: Any, buffers: Any, noise: Any, supplied: Any) -> Terms:
            inputs = (batch.x, batch.y, noise, supplied)
            return cast(Terms, functional_call(self.model, (parameters, buffers), inputs))

        terms: Terms = vmap(one)(own, self.buffers, draws.noise, supplied)
        if not self.layout.heads:
            return terms
        hidden = terms.squared_error  # see _Features
        ones = hidden.new_ones(*hidden.shape[:2], len(self.layout.biases))
        target = batch.x if batch.y is None else batch.y
        error = squared_error(leaves[HEADS], torch.cat([hidden, ones], 2), target)
        return terms._replace(squared_error=error)

    def _stems(
        self, leaves: Mapping[str, Tensor], parameters: Mapping[str, Tensor], batch: Batch
    ) -> dict[str, Tensor]:
        """The outputs of the layers that meet the data, (runs, n, width)."""
        found = {}
        for key, stems in self.layout.stems.items():
            leaf = leaves[f"stems.{key}"]  # (runs, widths, dim)
            data = cast(Tensor, batch.x if key == "x" else batch.y)
            product = (data @ leaf.flatten(0, 1).T).to(leaf.dtype).view(-1, *leaf.shape[:2])
            parts = torch.split(product.transpose(0, 1), list(stems.values()), 2)
            for name, part in zip(stems, parts, strict=True):
                bias = parameters.get(f"{name}.bias")
                found[name] = part if bias is None else part + bias.unsqueeze(1)
        return found

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if not self.half:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


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
