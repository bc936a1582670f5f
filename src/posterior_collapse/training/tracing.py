"""Tensor operations written down once and replayed, without what they repeat or do not change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

__all__ = ["trace"]

VIEWS = {
    torch.ops.aten.view.default,
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten.expand.default,
    torch.ops.aten.permute.default,
    torch.ops.aten.transpose.int,
    torch.ops.aten.detach.default,
    torch.ops.aten._to_copy.default,
    torch.ops.aten.clone.default,
}


def trace(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """Return `function` as a flat list of operations, for arguments of the same shapes.

    The function must be free of side effects and of branches on values. Its results, flat in a
    list, share no memory: they may be changed in place.

    Example:
        >>> double = trace(lambda x: [x + x, x + x], torch.ones(2))
        >>> one, other = double(torch.tensor([1.0, 3.0]))
        >>> one.add_(1), other
        (tensor([3., 7.]), tensor([2., 6.]))
    """
    traced = make_fx(function)(*arguments)
    _merge_equal(traced)
    _drop_idle(traced)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    _separate(traced, arguments)
    return traced


def _merge_equal(traced: GraphModule) -> None:
    """Keep the first of operations with equal arguments."""
    seen: dict[Any, Node] = {}
    for node in list(traced.graph.nodes):
        if node.op != "call_function":
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
    """Pass over views and copies that equal what they are taken of."""
    for node in list(traced.graph.nodes):
        if node.op != "call_function" or node.target not in VIEWS:
            continue
        source = node.args[0]
        if not isinstance(source, Node):
            continue
        before, after = source.meta.get("val"), node.meta.get("val")
        if before is not None and after is not None and _layout(before) == _layout(after):
            node.replace_all_uses_with(source)
            traced.graph.erase_node(node)


def _separate(traced: GraphModule, arguments: tuple[Any, ...]) -> None:
    """Copy results that lie in the memory of an argument or of a result before them."""
    inputs = [v for v in tree_leaves(arguments) if isinstance(v, torch.Tensor)]
    taken = {v.untyped_storage().data_ptr() for v in inputs}
    output = next(node for node in traced.graph.nodes if node.op == "output")
    nodes = list(output.args[0])
    for i, value in enumerate(traced(*arguments)):
        place = value.untyped_storage().data_ptr()
        if place in taken:
            with traced.graph.inserting_before(output):
                nodes[i] = traced.graph.call_function(torch.ops.aten.clone.default, (nodes[i],))
        taken.add(place)
    output.args = (nodes,)
    traced.recompile()


def _layout(tensor: torch.Tensor) -> Any:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
