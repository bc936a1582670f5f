"""Models that differ in numbers only, as one: stacked parameters and one traced gradient.

The gradient of all runs is written once with `torch.func.vmap`, its products with the data taken
for all runs together, and traced into a flat list of tensor operations. Replaying that list costs
neither autograd's nor vmap's bookkeeping, which on small networks is most of a step.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.utils._pytree import tree_flatten, tree_unflatten

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models import CONVENTIONS, MarkovVAE, Terms, loss
from posterior_collapse.models.convolutions import channels_last
from posterior_collapse.models.global_state import recording
from posterior_collapse.models.layers import Decoder, Supplied
from posterior_collapse.specs import Spec
from posterior_collapse.training.batches import Batch
from posterior_collapse.training.layout import DATA_LAYERS, HEADS, Layout
from posterior_collapse.training.seeds import Draws
from posterior_collapse.training.tracing import trace


def squared_error(heads: Tensor, hidden: Tensor, target: Tensor) -> Tensor:
    """Return `|y - W h|^2`, (runs, n), as `|y|^2 + h.(W'W h - 2 W'y)`.

    The runs share the product with y, and what they need of their own has the size of h.

    Args:
        heads: `W'`, (runs, features, dim y).
        hidden: h, (runs, n, features).
        target: y, (n, dim y); constant.

    Example:
        >>> W, h, y = torch.ones(1, 1, 2), torch.tensor([[[3.0]]]), torch.tensor([[1.0, 5.0]])
        >>> squared_error(W, h, y)
        tensor([[8.]])
    """
    error, _ = _SquaredError.apply(heads, hidden, target)  # type: ignore[no-untyped-call]
    return cast(Tensor, error)


LOST = 1e-3
"""Share of the decoder's noise up to which the rounding of |y|^2 is left alone."""


def needs_residuals(target: Tensor, specs: Sequence[Spec]) -> bool:
    """Return whether `|y|^2` is so large that a difference from it has lost its digits.

    Values near 3,000 that vary by 1 have, in float32, squares that are rounded by 1: the loss would
    be wrong by nats.

    Args:
        target: Some rows y, (n, dim y).
        specs: Of each run. A learned `eta_dec` falls to what as many modes as there are units leave
            of y; to what, if a condition tells of y besides, these rows do not say.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> y = torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
        >>> needs_residuals(y, [VAESpec(2)]), needs_residuals(y + 3000, [VAESpec(2)])
        (False, True)
    """
    y = target.double()

    @functools.cache
    def modes() -> Tensor:
        values: Tensor = torch.linalg.svdvals(y - y.mean(0))
        return values.square() / y.numel()

    def noise(spec: Spec) -> float:
        eta = spec.eta_levels[0]
        if not isinstance(eta, str):
            return eta**2
        return 0.0 if spec.model == "cvae" else float(modes()[spec.dims[0] :].sum())

    rounding = torch.finfo(target.dtype).eps * float(y.square().sum(1).mean())
    return rounding > LOST * y.shape[1] * min(map(noise, specs))


class _SquaredError(torch.autograd.Function):
    """Both gradients follow from `W'(W h - y)`; autograd would take products of them apart."""

    @staticmethod
    def forward(heads: Tensor, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        gram = heads @ heads.mT
        projected = (target @ heads.flatten(0, 1).T).view(-1, *heads.shape[:2]).transpose(0, 1)
        half = hidden @ gram - projected
        return target.square().sum(1) + (hidden * (half - projected)).sum(2), half

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        heads, hidden, target, half = ctx.saved_tensors
        twice = 2 * gradients[0].unsqueeze(2)
        weighted = twice * hidden
        cross = (weighted.transpose(0, 1).flatten(1).T @ target).view_as(heads)
        own = torch.baddbmm(cross, weighted.mT @ hidden, heads, beta=-1)
        return own, twice * half, None


LANES = 8
"""Streams of a GPU on which runs that are computed one by one take turns."""


class Step(NamedTuple):
    """What a step is made of.

    Attributes:
        betas: (runs, levels).
        capacity: (levels,), or none.
    """

    batch: Batch
    draws: Draws
    betas: Tensor
    capacity: Tensor | None

    def tensors(self) -> list[Tensor]:
        """Return all that it is made of, in a row, for what is traced or captured."""
        (x, y), (noise, masks), betas, capacity = self
        given = (x, y, *noise, *masks.values(), betas, capacity)
        return [value for value in given if value is not None]

    def filled(self, tensors: Iterable[Tensor]) -> Step:
        """Return a step like this one, made of other tensors in the same row."""
        values, (noise, masks) = iter(tensors), self.draws
        return Step(
            Batch(next(values), None if self.batch.y is None else next(values)),
            Draws(tuple(next(values) for _ in noise), {name: next(values) for name in masks}),
            next(values),
            next(values, None),
        )


class _Features(Decoder):
    """A decoder that hands out its hidden features, from which all runs' errors follow at once."""

    def squared_error(
        self, inputs: Mapping[str, Tensor], target: Tensor, supplied: Supplied
    ) -> Tensor:
        return torch.cat([net(inputs[key], supplied) for key, net in self.features.items()], -1)


class _Called(nn.Module):
    """A function of a model, as a module."""

    def __init__(self, model: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *arguments: Any) -> Any:
        return self.function(self.model, *arguments)


class Stack:
    """The parameters of R models and the gradient of their losses.

    Args:
        models: Built from specs that differ in numbers only.
        residuals: Take the squared error from residuals: see `needs_residuals`.
        graphed: A step will be launched as one graph, so that it need not be traced.

    Attributes:
        shares_heads: Whether the squared error is taken without residuals, where that pays.
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
        residuals: bool = False,
        graphed: bool = False,
    ) -> None:
        _check_alike(models)
        self.runs = len(models)
        self.device, self.half = device, half
        # Without residuals the squared error is a difference of large numbers: too large for the
        # 8 bits of bfloat16, or the 11 of TF32.
        self.shares_heads = not (residuals or half)
        self.layout = Layout(models[0], rows, share_heads=self.shares_heads)
        self.convolutional = any(p.dim() == 4 for p in models[0].parameters())
        # Vectorised, convolutions are grouped ones, for which libraries have slow algorithms only.
        # On a GPU run by run pays where a graph spares the launches.
        self.apart = self.convolutional and (graphed or device.type == "cpu")
        # On a processor layers see to it themselves.
        self.channels_last = self.apart and half and device.type != "cpu"
        self._streams: list[Any] = []
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
        self, step: Step, *, convention: str, free_bits: float | None
    ) -> tuple[list[Tensor], Tensor]:
        """Return the gradients in the order of the leaves, and what the step measured.

        Returns:
            Gradients (runs, ...), and (runs, 2 + units of all levels): the loss, its reconstruction
            part and each unit's batch-averaged KL.
        """

        def take(*flat: Tensor) -> list[Tensor]:
            leaves = dict(zip(self.leaves, flat, strict=False))
            batch, draws, betas, capacity = step.filled(flat[len(leaves) :])

            def total(leaves: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
                with self._autocast():
                    terms = self._terms(leaves, batch, draws)

                def one(terms: Terms, betas: Tensor) -> Tensor:
                    return loss(
                        terms, betas, convention=convention, free_bits=free_bits, capacity=capacity
                    )

                losses = vmap(one)(terms, betas)
                parts = _reconstruction(terms, convention).unsqueeze(1)
                kls = [kl.mean(1) for kl in terms.kl]
                return losses.sum(), torch.cat([losses.unsqueeze(1), parts, *kls], 1)

            if self.apart:
                # Runs are on several CUDA streams: autograd waits for them, `torch.func` does not.
                with recording():
                    own = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}
                    value, measured = total(own)
                    slopes = torch.autograd.grad(value, list(own.values()))
                return [g.contiguous() for g in (*slopes, measured.detach())]
            gradients, (_, measured) = grad_and_value(total, has_aux=True)(leaves)
            return [g.contiguous() for g in (*gradients.values(), measured)]

        arguments = [*self.leaves.values(), *step.tensors()]
        if self.apart:
            # Run by run, a trace would hold the operations of every run: it would not pay. What is
            # made in inference mode cannot be kept for a gradient.
            with torch.inference_mode(False):
                arguments = [a.clone() if a.is_inference() else a for a in arguments]
            *found, measured = take(*arguments)
            return found, measured
        key = len(step.batch.x), step.batch.y is None, step.capacity is None, convention, free_bits
        if key not in self._traced:
            with torch.inference_mode(False):
                self._traced[key] = trace(take, *arguments)
        *found, measured = self._traced[key](*arguments)
        return found, measured

    def states(self, runs: Iterable[int]) -> Iterator[dict[str, Tensor]]:
        """Yield the parameters and buffers of some runs, by the model's names, on the CPU."""
        # One copy per leaf: from a device each copy takes its time, however small.
        leaves = {name: leaf.cpu() for name, leaf in self.leaves.items()}
        every = {**self.layout.scatter(leaves), **{n: b.cpu() for n, b in self.buffers.items()}}
        for run in runs:
            yield {name: value[run].clone() for name, value in every.items()}

    @torch.no_grad()
    def each(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return `function(model, *arguments)`, tensors, of every run: (runs, ...) each."""
        state = {f"model.{n}": v for n, v in {**self.parameters, **self.buffers}.items()}
        called = _Called(self.model, function)
        each = self._one_by_one if self.apart else vmap
        return each(lambda own: functional_call(called, own, arguments))(state)

    @torch.no_grad()
    def load(self, run: int, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        for name, value in {**self.parameters, **self.buffers}.items():
            value[run].copy_(state[name])

    def _terms(self, leaves: Mapping[str, Tensor], batch: Batch, draws: Draws) -> Terms:
        parameters = self.layout.scatter(leaves)
        own = {n: p for n, p in parameters.items() if n not in self.layout.shared}
        supplied = {**self._data_layers(leaves, parameters, batch), **draws.masks}

        def one(parameters: Any, buffers: Any, noise: Any, supplied: Any) -> Terms:
            if self.channels_last:
                parameters = {
                    name: channels_last(p) if p.dim() == 4 else p for name, p in parameters.items()
                }
            inputs = (batch.x, batch.y, noise, supplied)
            return cast(Terms, functional_call(self.model, (parameters, buffers), inputs))

        each = self._one_by_one if self.apart else vmap
        terms: Terms = each(one)(own, self.buffers, draws.noise, supplied)
        if not self.layout.heads:
            return terms
        hidden = terms.squared_error  # where `_Features` hands out the hidden features
        ones = hidden.new_ones(*hidden.shape[:2], len(self.layout.biases))
        target = batch.x if batch.y is None else batch.y
        error = squared_error(leaves[HEADS], torch.cat([hidden, ones], 2), target)
        return terms._replace(squared_error=error)

    def _one_by_one(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return what `vmap` would, but computed run by run."""

        def every(*arguments: Any) -> Any:
            leaves, structure = tree_flatten(arguments)
            # `unbind` is undone by one `stack`; gradients of slices would each be of all runs.
            columns = [leaf.unbind(0) for leaf in leaves]
            found = []
            for run, own in enumerate(zip(*columns, strict=True)):
                with self._lane(run):
                    parts, shape = tree_flatten(function(*tree_unflatten(list(own), structure)))
                    found.append(parts)
            self._join()
            return tree_unflatten([torch.stack(part) for part in zip(*found, strict=True)], shape)

        return every

    def _lane(self, run: int) -> contextlib.AbstractContextManager[Any]:
        """A stream for each of some runs, so that a GPU has small kernels of several at once."""
        if self.device.type != "cuda" or LANES == 1:
            return contextlib.nullcontext()
        if not self._streams:
            self._streams = [
                torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
                for _ in range(LANES)
            ]
        stream = self._streams[run % LANES]
        if run < LANES:
            stream.wait_stream(torch.cuda.current_stream(self.device))
        return torch.cuda.stream(stream)

    def _join(self) -> None:
        for stream in self._streams[: self.runs]:
            torch.cuda.current_stream(self.device).wait_stream(stream)

    def _data_layers(
        self, leaves: Mapping[str, Tensor], parameters: Mapping[str, Tensor], batch: Batch
    ) -> dict[str, Tensor]:
        """The outputs of the layers that meet the data, (runs, n, width)."""
        found = {}
        for key, layers in self.layout.data_layers.items():
            leaf = leaves[f"{DATA_LAYERS}.{key}"]  # (runs, widths, dim)
            data = cast(Tensor, batch.x if key == "x" else batch.y)
            product = (data @ leaf.flatten(0, 1).T).view(-1, *leaf.shape[:2]).transpose(0, 1)
            # Each run's own beside each other: products with rows that lie apart are slow.
            product = product.to(leaf.dtype, memory_format=torch.contiguous_format)
            parts = torch.split(product, list(layers.values()), 2)
            for name, part in zip(layers, parts, strict=True):
                bias = parameters.get(f"{name}.bias")
                found[name] = part if bias is None else part + bias.unsqueeze(1)
        return found

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if not self.half:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def _reconstruction(terms: Terms, convention: str) -> Tensor:
    """Return the reconstruction part of each run's loss in nats, (runs,)."""
    weights = CONVENTIONS[convention]
    error = terms.squared_error.mean(1) / terms.eta_dec.square()
    return weights.squared_error * error + weights.normaliser * terms.normaliser


def _check_alike(models: Sequence[MarkovVAE]) -> None:
    def layout(model: MarkovVAE) -> list[tuple[str, tuple[int, ...]]]:
        state = [*model.named_parameters(), *model.named_buffers()]
        return [(name, tuple(value.shape)) for name, value in state]

    for run, model in enumerate(models):
        kinds = {(m.spec.model, m.spec.likelihood) for m in (model, models[0])}
        if layout(model) != layout(models[0]) or len(kinds) > 1:
            raise InvalidArgumentError(
                f"specs[{run}]",
                "another model than specs[0]",
                "specs that differ in numbers only (beta, eta, sigma)",
                "Train other models, sizes, likelihoods or kinds of sigma by calls of their own.",
            )
