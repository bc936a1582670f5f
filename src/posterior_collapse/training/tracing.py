"""Tensor operations written down once and replayed, without what they repeat or do not change.

Replaying a flat list costs neither autograd's nor vmap's bookkeeping, which on small networks is
most of a step. What torch cannot write down, or writes down wrongly, is called as it is.

Large products are replayed by the faster of the two libraries that torch brings for a processor.
Intel's MKL leaves AMD processors to instructions of half the width. oneDNN does not, and torch
calls it for float32 products where it may round them to bfloat16: without instructions for such
products, it does not round. That is tested, once; by which library a processor multiplies follows
from what it is and not from a stopwatch, so that two processes give the same bits.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_leaves

from posterior_collapse.training.rewriting import IN_PLACE, replace, rewrite

LARGE = 8e6
"""Floating-point operations per matrix from which a product is worth the change of library."""
ERROR = 4e-6
"""Of a product of random matrices, relative to its largest entry; bfloat16 has 4e-3."""


def wide(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a product of torch as oneDNN takes it; the setting is as before after each call."""

    @functools.wraps(product)
    def taken(*arguments: Tensor) -> Tensor:
        backends: Any = torch.backends
        setting = backends.mkldnn.matmul
        before = setting.fp32_precision
        setting.fp32_precision = "bf16"
        try:
            return product(*arguments)
        finally:
            setting.fp32_precision = before

    return taken


aten = torch.ops.aten
Function = Callable[..., list[Tensor]]

WIDE = {
    aten.mm.default: wide(torch.mm),
    aten.bmm.default: wide(torch.bmm),
    aten.baddbmm.default: wide(torch.baddbmm),
    aten.baddbmm_.default: wide(torch.Tensor.baddbmm_),
}
"""Products by the other library."""

FUNCTIONS = (
    "add", "baddbmm", "bmm", "cat", "div", "log", "mean", "mm", "mul", "neg", "permute", "pow",
    "relu", "select", "sigmoid", "split_with_sizes", "sqrt", "stack", "sub", "sum", "t", "tanh",
    "transpose", "unsqueeze",
)  # fmt: skip
"""Called as `torch.add` and so on, they take half the time of `torch.ops.aten.add.Tensor`."""
METHODS = {
    aten.view.default: "view",
    aten._unsafe_view.default: "view",
    aten.expand.default: "expand",
    aten.baddbmm_.default: "baddbmm_",
    **{in_place: in_place._opname for in_place in IN_PLACE.values()},
}


class TracingWarning(UserWarning):
    """A function could not be traced; it works, only slower."""


def trace(function: Function, *arguments: Any) -> Function:
    """Return `function` as a flat list of operations, for arguments of the same shapes.

    Tensors that the function holds beside its arguments are taken for constants. It must be free
    of side effects and of branches on values. Its results, a list, share no memory: they may be
    changed in place. Sums may be taken in another order, so that the last bits differ.

    Example:
        >>> double = trace(lambda x: [x + x, x + x], torch.ones(2))
        >>> once, twice = double(torch.tensor([1.0, 3.0]))
        >>> once += 1; once, twice
        (tensor([3., 7.]), tensor([2., 6.]))
    """
    expected = function(*arguments)
    try:
        traced = _traced(function, arguments)
        # Other arguments than it was traced with show what it took for a constant.
        others = [_others(argument) for argument in arguments]
        same = _close(traced(*arguments), expected)
        same = same and _close(traced(*others), function(*others))
    except Exception as error:  # make_fx is not a public name of torch, and may change
        reason = f"{type(error).__name__}: {error}"
    else:
        if same:
            return traced
        reason = "the trace gives other numbers"
    warnings.warn(
        f"torch {torch.__version__} cannot trace this model ({reason}); it trains without, slower.",
        TracingWarning,
        stacklevel=2,
    )
    return lambda *arguments: [result.clone() for result in function(*arguments)]


def _others(argument: Any) -> Any:
    """Other numbers of the same kind: what is positive stays so."""
    if not (isinstance(argument, Tensor) and argument.dim() and argument.is_floating_point()):
        return argument
    return argument.roll(1, -1) * 1.0625


def _close(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Whether results agree up to the order of sums in single precision or bfloat16."""

    def close(a: Tensor, b: Tensor) -> bool:
        finite = b.isfinite()
        bound = 0.02 * b.where(finite, 0.0).abs().max()
        return bool(((a - b).abs() <= bound).logical_or(~finite).all())

    return len(found) == len(expected) and all(
        a.shape == b.shape and a.dtype == b.dtype and close(a, b)
        for a, b in zip(found, expected, strict=True)
    )


def _traced(function: Function, arguments: tuple[Any, ...]) -> GraphModule:
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    # Without one for all, each tensor would be given a mode of its own: a third of the time.
    with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
        traced: GraphModule = make_fx(function)(*arguments)
    with warnings.catch_warnings():
        # Up to 2.8 torch warns, at each look, of every constant that is no buffer.
        warnings.filterwarnings("ignore", "(Node|Additional) .*get_attr", UserWarning)
        rewrite(traced)
        traced.recompile()
        _separate(traced, arguments)
        _call_directly(traced)
        traced.graph.lint()
        traced.recompile()
    return traced


def _separate(traced: GraphModule, arguments: tuple[Any, ...]) -> None:
    """Copy results that lie in the memory of an argument, a constant or a result before them."""
    constants = [getattr(traced, str(n.target)) for n in traced.graph.nodes if n.op == "get_attr"]
    held = [*tree_leaves(arguments), *constants]
    taken = {v.untyped_storage().data_ptr() for v in held if isinstance(v, Tensor)}
    output = next(node for node in traced.graph.nodes if node.op == "output")
    nodes = list(output.args[0])
    for i, value in enumerate(traced(*arguments)):
        place = value.untyped_storage().data_ptr()
        if place in taken:
            with traced.graph.inserting_before(output):
                nodes[i] = traced.graph.call_function(aten.clone.default, (nodes[i],))
        taken.add(place)
    output.args = (nodes,)


def _call_directly(traced: GraphModule) -> None:
    """Call operations by torch's own functions and methods, which do not look them up."""
    functions = {
        overload: getattr(torch, name)
        for name in FUNCTIONS
        for overload in (getattr(getattr(aten, name), o) for o in getattr(aten, name).overloads())
    }
    for node in list(traced.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in WIDE and _is_large(node):
            node.target = WIDE[node.target]
        elif node.target in METHODS or _makes_contiguous(node):
            method = METHODS.get(node.target, "contiguous")
            kwargs = {} if method == "contiguous" else node.kwargs
            with traced.graph.inserting_before(node):
                call = traced.graph.call_method(method, node.args, kwargs)
            call.meta = node.meta
            replace(traced, node, call)
        elif node.target in functions and not node.kwargs:
            node.target = functions[node.target]


def _makes_contiguous(node: Node) -> bool:
    """Whether a node copies what is not contiguous, and not what is, to have it for itself."""
    asked = node.target is aten.clone.default and node.kwargs == {
        "memory_format": torch.contiguous_format
    }
    return asked and not cast(Node, node.args[0]).meta["val"].is_contiguous()


def _is_large(node: Node) -> bool:
    """Whether a product of float32 matrices on the CPU is worth the other library."""
    result, factor = node.meta["val"], cast(Node, node.args[-2]).meta["val"]
    here = result.device.type == "cpu" and result.dtype == torch.float32
    operations = 2 * math.prod(result.shape[-2:]) * factor.shape[-1]
    return here and operations >= LARGE and library() == "onednn"


@functools.cache
def library() -> str:
    """Return by which library large float32 products are taken: `"onednn"` or `"mkl"`."""
    backends: Any = torch.backends
    # torch has the setting since 2.9.
    settable = backends.mkldnn.is_available() and hasattr(backends.mkldnn, "matmul")
    if not (settable and backends.mkl.is_available()):
        return "mkl"
    if processor("vendor_id") != "AuthenticAMD" or backends.cpu.get_cpu_capability() != "AVX512":
        return "mkl"
    generator = torch.Generator("cpu").manual_seed(0)
    a, b = torch.randn(2, 256, 256, generator=generator, device="cpu")
    exact = a.double() @ b.double()
    error = (wide(torch.mm)(a, b) - exact).abs().max() / exact.abs().max()
    return "onednn" if float(error) < ERROR else "mkl"


def processor(entry: str) -> str:
    """Return what Linux says of the processor, such as its `"vendor_id"`; elsewhere nothing."""
    try:
        with open("/proc/cpuinfo") as file:
            return next((line.split(":")[1].strip() for line in file if line.startswith(entry)), "")
    except OSError:
        return ""
