"""What networks do to each number between their affine layers, and to their outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional


def _tanh(value: Tensor) -> Tensor:
    """The hyperbolic tangent; a processor has the sigmoid at a tenth of its time.

    Its error is that of float32 relative to 1, not to itself: enough for a mean, not for a std,
    whose log is taken.
    """
    if value.device.type == "cpu" and value.dtype == torch.float32:
        return cast(Tensor, _Tanh.apply(value))  # type: ignore[no-untyped-call]
    return torch.tanh(value)


class _Tanh(torch.autograd.Function):
    """By the sigmoid, and its slope by its value: in fewer passes than autograd would take."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return 2 * torch.sigmoid(2 * value) - 1

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        slope: Tensor = torch.ops.aten.tanh_backward(gradients[0], *ctx.saved_tensors)
        return slope


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda value: value,
    "relu": torch.relu,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "softplus": functional.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": _tanh,
}
