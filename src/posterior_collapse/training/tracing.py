"""Tensor operations written down once and replayed, without what they repeat or do not change.

The operations and their order stay those of the function, so that a replay gives its very bits;
only their bookkeeping goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

__all__ = ["trace"]

aten = torch.ops.aten

VIEWS = {
    aten.view.default,
    aten._unsafe_view.default,
    aten.expand.default,
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.detach.default,
}
COPIES = {aten._to_copy.default, aten.clone.default}
NEUTRAL: dict[Any, int] = {
    aten.mul.Scalar: 1,
    aten.mul.Tensor: 1,
    aten.div.Scalar: 1,
    aten.pow.Tensor_Scalar: 1,
}
"""Operations that change nothing with this number as second argument."""

FUNCTIONS = (
    "add", "bmm", "cat", "div", "log", "mm", "mul", "neg", "permute", "pow", "relu", "select",
    "split_with_sizes", "sqrt", "sub", "sum", "t", "tanh", "transpose", "unsqueeze",
)  # fmt: skip
"""Called as `torch.add` and so on, they take half the time of `torch.ops.aten.add.Tensor`."""


def trace(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """Return `function` as a flat list of operations, for arguments of the same shapes.

    Tensors that the function holds beside its arguments are taken for constants. It must be free
    of side effects and of branches on values. Its results, flat in a list, share no memory: they
    may be changed in place.

    Example:
        >>> double = trace(lambda x: [x + x, x + x], torch.ones(2))
        >>> one, other = double(torch.tensor([1.0, 3.0]))
        >>> one.add_(1), other
        (tensor([3., 7.]), tensor([2., 6.]))
    """
    traced = make_fx(function)(*arguments)
    _fold_constants(traced)
    _merge_equal(traced)
    _drop_idle(traced)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    _separate(traced, arguments)
    _call_directly(traced)
    traced.graph.lint()
    traced.recompile()
    return traced


def _fold_constants(traced: GraphModule) -> None:
    """Compute what depends on constants alone."""
    known: dict[Node, Any] = {}
    for node in list(traced.graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(traced, str(node.target))
        elif node.op == "call_function" and all(n in known for n in node.all_input_nodes):
            if node.target in VIEWS or not isinstance(node.meta.get("val"), torch.Tensor):
                continue
            args = torch.fx.node.map_arg(node.args, known.__getitem__)
            kwargs = torch.fx.node.map_arg(node.kwargs, known.__getitem__)
            name = f"_folded_{node.name}"
            traced.register_buffer(name, node.target(*args, **kwargs), persistent=False)
            with traced.graph.inserting_before(node):
                constant = traced.graph.get_attr(name)
            constant.meta["val"] = node.meta["val"]
            known[constant] = getattr(traced, name)
            node.replace_all_uses_with(constant)
            traced.graph.erase_node(node)


def _merge_equal(traced: GraphModule) -> None:
    """Keep the first of operations with equal arguments."""
    seen: dict[Any, Node] = {}
    for node in list(traced.graph.nodes):
        if node.op not in ("call_function", "get_attr"):
            continue
        key = (node.target, _key(node.args), _key(node.kwargs))
        first = seen.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            traced.graph.erase_node(node)


def _key(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_key(one) for one in value)
    if isinstance(value, dict):
        return tuple((name, _key(one)) for name, one in sorted(value.items()))
    # 1, 1.0 and True are equal as keys and not as arguments.
    return value if isinstance(value, Node) else (type(value), value)


def _drop_idle(traced: GraphModule) -> None:
    """Pass over views that come back to where they started, and operations without effect."""
    for node in list(traced.graph.nodes):
        if node.op != "call_function":
            continue
        source = node.args[0] if node.args else None
        while isinstance(source, Node):
            same = _layout(source) is not None and _layout(source) == _layout(node)
            if same and (node.target in VIEWS or node.target in COPIES or _neutral(node)):
                node.replace_all_uses_with(source)
                traced.graph.erase_node(node)
                break
            if node.target not in VIEWS or source.target not in VIEWS:
                break
            source = source.args[0]
    for node in list(traced.graph.nodes):
        if node.target is aten.cat.default and len(node.args[0]) == 1:
            (source,) = node.args[0]
            if _layout(node) == _layout(source):
                node.replace_all_uses_with(source)
                traced.graph.erase_node(node)


def _neutral(node: Node) -> bool:
    number = NEUTRAL.get(node.target)
    second = node.args[1] if len(node.args) > 1 else None
    return number is not None and isinstance(second, (int, float)) and second == number


def _layout(node: Node) -> Any:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return None
    return value.shape, value.stride(), value.dtype, value.device


def _separate(traced: GraphModule, arguments: tuple[Any, ...]) -> None:
    """Copy results that lie in the memory of an argument, a constant or a result before them."""
    held = [*tree_leaves(arguments), *traced.buffers()]
    taken = {v.untyped_storage().data_ptr() for v in held if isinstance(v, torch.Tensor)}
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
    methods = {aten.view.default: "view", aten._unsafe_view.default: "view"}
    methods[aten.expand.default] = "expand"
    functions = {
        overload: getattr(torch, name)
        for name in FUNCTIONS
        for overload in (getattr(getattr(aten, name), o) for o in getattr(aten, name).overloads())
    }
    for node in list(traced.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in methods:
            with traced.graph.inserting_before(node):
                call = traced.graph.call_method(methods[node.target], node.args)
            node.replace_all_uses_with(call)
            traced.graph.erase_node(node)
        elif node.target in functions and not node.kwargs:
            node.target = functions[node.target]
