"""What a trace leaves out, and that its numbers and others' memory stay what they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from posterior_collapse.models.activations import ACTIVATIONS
from posterior_collapse.training.tracing import trace

Function = Callable[..., list[Tensor]]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def traced(function: Function, *arguments: Tensor) -> GraphModule:
    """A trace that was found to give the same, twice, and to leave its arguments alone."""
    found = trace(function, *arguments)
    assert isinstance(found, GraphModule)
    kept = [argument.clone() for argument in arguments]
    for _ in range(2):
        for result, expected in zip(found(*arguments), function(*kept), strict=True):
            torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(arguments, kept, strict=True))
    return found


def called(found: GraphModule) -> list[str]:
    """The operations, in a row, without views."""
    nodes = [node for node in found.graph.nodes if node.op.startswith("call")]
    names = [str(getattr(node.target, "__name__", node.target)) for node in nodes]
    return [n for n in names if n not in ("view", "expand", "transpose", "unsqueeze", "permute")]


def test_numbers_are_held_as_tensors() -> None:
    found = traced(lambda x: [x * 3.0 + 1], numbers(4, 5))
    for node in found.graph.nodes:
        assert not any(isinstance(value, (int, float)) for value in node.args)
    # A number beside whole numbers decides of the type of the result: it stays one.
    whole = trace(lambda x: [x * 3.0], torch.arange(4))(torch.arange(4))
    assert whole[0].dtype == torch.float32


def test_a_bias_is_where_its_product_begins() -> None:
    def function(a: Tensor, b: Tensor, bias: Tensor) -> list[Tensor]:
        return [a @ b + bias.unsqueeze(1), bias.unsqueeze(1) + b @ a]

    found = traced(function, numbers(2, 3, 3), numbers(2, 3, 3, seed=1), numbers(2, 3, seed=2))
    assert called(found) == ["baddbmm", "baddbmm"]


def test_what_is_repeated_is_computed_once() -> None:
    def function(x: Tensor, few: Tensor) -> list[Tensor]:
        return [(few.unsqueeze(1).expand(2, 64, 3) / 7 * 0.5) * (x * 2.0)]

    found = traced(function, numbers(2, 64, 3), numbers(2, 3, seed=1))
    sizes = [node.meta["val"].numel() for node in found.graph.nodes if "mul" in node.name]
    assert sizes.count(2 * 64 * 3) == 1


def test_what_differs_along_the_rows_is_not_taken_for_repeated() -> None:
    def function(x: Tensor, y: Tensor) -> list[Tensor]:
        return [(x.expand(4, 5) + y.expand(4, 5)) * 3.0, x.expand(4, 5) - x.T.expand(5, 4).T]

    traced(function, numbers(4, 1), numbers(1, 5, seed=1))


def test_tensors_are_joined_at_once_and_copied_once() -> None:
    def function(a: Tensor, b: Tensor) -> list[Tensor]:
        both = torch.cat([torch.cat([a, b], 1), b], 1)
        return [both.sum(1), torch.cat([a * b], 1).transpose(0, 1).contiguous().view(-1).relu()]

    found = traced(function, numbers(3, 4), numbers(3, 4, seed=1))
    assert called(found) == ["cat", "sum", "mul", "contiguous", "relu_"]


def test_results_are_written_over_what_is_of_no_more_use() -> None:
    def function(x: Tensor) -> list[Tensor]:
        once = x.exp().log()  # of its own memory
        return [((once + 1) * 2 - x).relu()]

    assert called(traced(function, numbers(6, 6)))[-4:] == ["add_", "mul_", "sub_", "relu_"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [x + 1, (x + 1) * 2, (x + 1).relu()],
        lambda x: [(x * x + 1).view(-1), (x * x) * 3],
        lambda x: [(y := x * 2) * y.T, y.T.relu().sum(0)],
        lambda x: [(y := x.sqrt() * 1.0)[0].relu(), y[:, 1] * 2],
        lambda x: [(y := x * 2)[:2] + 1, y.relu(), y.unbind(0)[1] * 5],
        lambda x: [torch.cat([x.T.expand(4, 4)], 0).contiguous().relu(), x],
        lambda x: [(y := x @ x) - y[:, :1]],
        lambda x: [(y := x @ x) / y[:1]],
        lambda x: [(y := x @ x) * y.unbind(1)[0]],
        lambda x: [(y := x @ x) - y.split([1, 3], 1)[0].expand(4, 4)],
        lambda x: [(y := x @ x * torch.tensor([1e-3, 1, 1, 1])) - y.diagonal()],
    ],
)
def test_what_is_still_looked_at_stays(function: Function) -> None:
    traced(function, numbers(4, 4).abs() + 0.5)


def test_a_step_of_many_rows_writes_over_its_outputs() -> None:
    """The error of a squashed mean and its slope: what a sweep's largest tensors go through."""

    def function(hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> list[Tensor]:
        def error(weight: Tensor) -> Tensor:
            mean = ACTIVATIONS["tanh"](hidden @ weight + bias.unsqueeze(1))
            return (mean - target).square().sum(2).mean(1).sum()

        return [torch.func.grad(error)(weight)]

    given = numbers(2, 32, 8), numbers(2, 8, 16, seed=1), numbers(2, 16, seed=2)
    found = traced(function, *given, numbers(32, 16, seed=3))
    names = called(found)
    assert names[:7] == ["baddbmm", "mul_", "sigmoid_", "mul_", "sub_", "sub", "mul_"]
    assert names[7:] == ["tanh_backward.default", "bmm"]
