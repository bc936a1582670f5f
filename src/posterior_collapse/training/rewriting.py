"""What a traced list of tensor operations repeats, or does on more numbers than there are.

Autograd writes its list for tensors of any size. On small ones an operation costs microseconds
however little it does, so that the fewer there are the better; on large ones each reads and writes
memory once more. `rewrite` gives the same numbers, up to the order of sums, by fewer and smaller
operations.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

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
TURNS = {aten.permute.default, aten.transpose.int, aten.t.default}
"""Views of any tensor, however its memory is laid out."""
FILLS = {
    aten.new_zeros.default: 0.0,
    aten.new_ones.default: 1.0,
    aten.zeros_like.default: 0.0,
    aten.ones_like.default: 1.0,
}
"""What these give depends on the shape of their argument alone, and a trace is of fixed shapes."""
COPIES = {aten._to_copy.default, aten.clone.default}
PRODUCTS = {aten.mm.default, aten.bmm.default}
OF_NUMBERS = {aten.mul.Scalar: aten.mul.Tensor, aten.div.Scalar: aten.div.Tensor}
"""Operations with a number, and the same under the name that those with two tensors have."""
NEUTRAL: dict[Any, int] = {aten.mul.Tensor: 1, aten.div.Tensor: 1, aten.pow.Tensor_Scalar: 1}
"""Operations that change nothing with this number as second argument."""
IN_PLACE = {
    aten.add.Tensor: aten.add_.Tensor,
    aten.sub.Tensor: aten.sub_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.div.Tensor: aten.div_.Tensor,
    aten.neg.default: aten.neg_.default,
    aten.relu.default: aten.relu_.default,
    aten.sigmoid.default: aten.sigmoid_.default,
}
"""Elementwise operations, and what writes their result over their first argument."""
ARITHMETIC = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.neg.default}
WRITING = {*IN_PLACE.values(), aten.baddbmm_.default}
COMMUTATIVE = {aten.add.Tensor, aten.mul.Tensor}
FRESH = {
    *IN_PLACE, *PRODUCTS, *COPIES, aten.baddbmm.default, aten.cat.default, aten.sum.dim_IntList,
    aten.mean.dim, aten.sqrt.default, aten.log.default, aten.tanh.default, aten.pow.Tensor_Scalar,
    aten.sigmoid_backward.default, aten.tanh_backward.default, aten.threshold_backward.default,
}  # fmt: skip
"""Operations that read their arguments and hand out memory of their own."""


def rewrite(traced: GraphModule) -> None:
    """Make a traced list of operations shorter, in place.

    What it does with an argument's memory stays: results may lie there, but it is never written to.
    """
    for node in traced.graph.nodes:
        node.target = OF_NUMBERS.get(node.target, node.target)
    _fold_constants(traced)
    _merge_equal(traced)
    _drop_idle(traced)
    _join(traced)
    traced.graph.eliminate_dead_code()
    _narrow(traced)
    _fold_constants(traced)  # such as a number times what was repeated
    _accumulate(traced)
    _square(traced)
    _merge_equal(traced)
    traced.graph.eliminate_dead_code()
    _hold_numbers(traced)
    _reuse_memory(traced)


def _fold_constants(traced: GraphModule) -> None:
    """Compute what depends on constants alone."""
    known: dict[Node, Any] = {}
    for node in list(traced.graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(traced, str(node.target))
        elif node.op == "call_function" and isinstance(node.meta.get("val"), Tensor):
            value = _constant(node, known)
            if value is None:
                continue
            constant = _hold(traced, value, node)
            known[constant] = value
            replace(traced, node, constant)


def _hold(traced: GraphModule, value: Tensor, before: Node) -> Node:
    """Return a constant that stands before a node, whose mode of tracing it shares."""
    name = f"_held_by_{before.name}_{len(traced.graph.nodes)}"
    setattr(traced, name, value)  # no buffer: those are looked up at each call
    with traced.graph.inserting_before(before):
        constant = traced.graph.create_node("get_attr", name)
    constant.meta["val"] = before.meta["val"].fake_mode.from_tensor(value)
    return constant


def _call(traced: GraphModule, before: Node, target: Any, *args: Any) -> Node:
    """Return a new operation that stands before a node."""
    with traced.graph.inserting_before(before):
        found = traced.graph.call_function(target, args)
    values: Any = torch.fx.node.map_arg(args, lambda node: node.meta["val"])
    found.meta["val"] = target(*values)
    return found


def _constant(node: Node, known: dict[Node, Any]) -> Tensor | None:
    """What a node gives at every call; None if that depends on the arguments."""
    like = node.meta["val"]
    if node.target in FILLS:
        return torch.full(like.shape, FILLS[node.target], dtype=like.dtype, device=like.device)
    if not all(n in known for n in node.all_input_nodes):
        return None
    args: Any = torch.fx.node.map_arg(node.args, known.__getitem__)
    kwargs: Any = torch.fx.node.map_arg(node.kwargs, known.__getitem__)
    found: Tensor = node.target(*args, **kwargs)  # type: ignore[operator]
    return found


def _merge_equal(traced: GraphModule) -> None:
    """Keep the first of operations with equal arguments."""
    seen: dict[Any, Node] = {}
    for node in list(traced.graph.nodes):
        if node.op not in ("call_function", "get_attr"):
            continue
        key = (node.target, _key(node.args), _key(node.kwargs))
        first = seen.setdefault(key, node)
        if first is not node:
            replace(traced, node, first)


def _key(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_key(item) for item in value)
    if isinstance(value, dict):
        return tuple((name, _key(item)) for name, item in value.items())
    if isinstance(value, slice):
        return (value.start, value.stop, value.step)
    return (type(value), value)


def _drop_idle(traced: GraphModule) -> None:
    """Pass over views that come back to where they started, and operations without effect."""
    for node in list(traced.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is aten.cat.default and len(cast(Any, node.args[0])) == 1:
            copy = _call(traced, node, aten.clone.default, cast(Any, node.args[0])[0])
            replace(traced, node, copy)
            node = copy
        source: Any = node.args[0] if node.args else None
        while isinstance(source, Node):
            idle = node.target in VIEWS | COPIES or _neutral(node)
            if idle and _layout(source) is not None and _layout(source) == _layout(node):
                replace(traced, node, source)
                break
            if node.target not in VIEWS or source.target not in VIEWS:
                break
            source = source.args[0]


def _neutral(node: Node) -> bool:
    number = NEUTRAL.get(node.target)
    second = node.args[1] if len(node.args) > 1 else None
    return number is not None and isinstance(second, (int, float)) and second == number


def _layout(node: Any) -> Any:
    value = node.meta.get("val") if isinstance(node, Node) else None
    if not isinstance(value, Tensor):
        return None
    strides = [s for s, length in zip(value.stride(), value.shape, strict=True) if length > 1]
    return value.shape, strides, value.dtype, value.device


def _join(traced: GraphModule) -> None:
    """Pass over copies that are only turned and copied again, and join tensors at once."""
    for node in list(traced.graph.nodes):
        if node.target is aten.clone.default and node.users:
            turned = [user for user in node.users if user.target in TURNS]
            again = [user for turn in turned for user in turn.users]
            if len(turned) == len(node.users) and all(u.target in COPIES for u in again):
                node.replace_all_uses_with(node.args[0])
        elif node.target is aten.cat.default:
            parts: Any = node.args[0]
            joined: list[Any] = []
            for part in parts:
                inner = part.target is aten.cat.default and part.args[1:] == node.args[1:]
                joined += part.args[0] if inner and len(part.users) == 1 else [part]
            node.args = (joined, *node.args[1:])


def _narrow(traced: GraphModule) -> None:
    """Compute with numbers before they are repeated, and with few numbers before many."""
    for node in list(traced.graph.nodes):
        if node.target not in ARITHMETIC or node.kwargs:
            continue
        shape = node.meta["val"].shape
        if all(user.target in ARITHMETIC for user in node.users):
            few = [_once(traced, a, node) if isinstance(a, Node) else a for a in node.args]
            sizes = [n.meta["val"].shape for n in few if isinstance(n, Node)]
            broadcast: Any = torch.broadcast_shapes
            if math.prod(broadcast(*sizes)) < math.prod(shape):
                small = _call(traced, node, node.target, *few)
                replace(traced, node, _call(traced, node, aten.expand.default, small, list(shape)))
                continue
        if node.target is aten.mul.Tensor:
            _scale_fewer(traced, node)


def _once(traced: GraphModule, node: Node, before: Node) -> Node:
    """What a node repeats, with length 1 where it does; the node itself if it repeats nothing."""
    value = node.meta["val"]
    repeated = [d for d, s in enumerate(value.stride()) if s == 0 and value.shape[d] > 1]
    if not repeated:
        return node
    if node.op == "get_attr":
        held = getattr(traced, str(node.target))
        for dim in repeated:
            held = held.narrow(dim, 0, 1)
        return _hold(traced, held, before)
    source: Any = node.args[0]
    same = node.target is aten.expand.default and source.meta["val"].dim() == value.dim()
    return source if same else node


def _scale_fewer(traced: GraphModule, node: Node) -> None:
    """Turn `few * (many * number)` into `many * (few * number)`."""
    for few, scaled in (node.args, node.args[::-1]):
        if not (isinstance(few, Node) and isinstance(scaled, Node)):
            continue
        if scaled.target is not aten.mul.Tensor or len(scaled.users) > 1:
            continue
        many, number = scaled.args
        if isinstance(number, Node) or not isinstance(many, Node):
            continue
        few = _once(traced, few, node)
        if few.meta["val"].numel() < many.meta["val"].numel():
            node.args = (many, _call(traced, node, aten.mul.Tensor, few, number))
            return


def _accumulate(traced: GraphModule) -> None:
    """Add a product to another in that one's memory, where nothing else looks at either."""
    for node in list(traced.graph.nodes):
        if _add_bias(traced, node):
            continue
        found = _summands(node)
        if found is None:
            continue
        base, *factors = found
        with traced.graph.inserting_before(node):
            arguments = (base, *factors)
            summed = traced.graph.call_function(aten.baddbmm_.default, arguments, node.kwargs)
        summed.meta["val"] = node.meta["val"]
        replace(traced, node, summed)


def _add_bias(traced: GraphModule, node: Node) -> bool:
    """Have a product begin with the bias, (runs, 1, width), that is added to it."""
    if node.target is not aten.add.Tensor or node.kwargs:
        return False
    for bias, product in (node.args, node.args[::-1]):
        if not (isinstance(bias, Node) and isinstance(product, Node)):
            continue
        fits = product.target is aten.bmm.default and len(product.users) == 1
        if not fits or _layout(product) != _layout(node):
            continue
        shape, like = bias.meta["val"].shape, product.meta["val"]
        if bias.meta["val"].dtype != like.dtype or shape != (like.shape[0], 1, like.shape[2]):
            continue
        bias = _without_neutral(traced, bias)
        replace(traced, node, _call(traced, node, aten.baddbmm.default, bias, *product.args))
        return True
    return False


def _without_neutral(traced: GraphModule, bias: Node) -> Node:
    """Pass over a multiplication by 1 below a view, such as `vmap` writes."""
    if bias.target is not aten.view.default:
        return bias
    scaled, shape = bias.args
    if not (isinstance(scaled, Node) and _neutral(scaled)):
        return bias
    source: Any = scaled.args[0]
    # Strides may be others: this view adds an axis of length 1 and is of any.
    same = source.meta["val"].dtype == bias.meta["val"].dtype
    axis = isinstance(shape, list) and shape == [source.meta["val"].shape[0], 1, *shape[2:]]
    return _call(traced, bias, aten.unsqueeze.default, source, 1) if same and axis else bias


def _summands(node: Node) -> tuple[Any, ...] | None:
    """The product that can be added to, and the factors of the other; None if there are none."""
    if node.target is aten.baddbmm.default:
        base = node.args[0]
        return node.args if _own(base) and _layout(base) == _layout(node) else None
    if node.target is not aten.add.Tensor or node.kwargs:
        return None
    for base, product in (node.args, reversed(node.args)):
        if (
            isinstance(product, Node)
            and product.target is aten.bmm.default
            and _own(product)
            and _own(base)
            and _layout(base) == _layout(node) == _layout(product)
        ):
            return (base, *product.args)
    return None


def _own(node: Any) -> bool:
    """Whether a node is a product, or a view of one, that has a single user."""
    while isinstance(node, Node) and len(node.users) == 1 and node.target in VIEWS:
        node = node.args[0]
    return isinstance(node, Node) and len(node.users) == 1 and node.target in PRODUCTS


def _square(traced: GraphModule) -> None:
    """Square by a product, which is faster than a power."""
    for node in list(traced.graph.nodes):
        if node.target is aten.pow.Tensor_Scalar and node.args[1] == 2:
            replace(traced, node, _call(traced, node, aten.mul.Tensor, node.args[0], node.args[0]))


def _hold_numbers(traced: GraphModule) -> None:
    """Hold numbers as tensors, as torch would make one at each call, which takes longer than it."""
    held: dict[Any, Node] = {}
    for node in list(traced.graph.nodes):
        if node.target not in ARITHMETIC or node.kwargs or len(node.args) != 2:
            continue
        value, (one, number) = node.meta["val"], node.args
        single = value.dtype in (torch.float32, torch.float64) and value.device.type == "cpu"
        if not (single and value.dim() and isinstance(one, Node) and not isinstance(number, Node)):
            continue
        if one.meta["val"].dtype != value.dtype:
            continue
        key = value.dtype, float(cast(float, number))
        if key not in held:
            held[key] = _hold(traced, torch.full((), key[1], dtype=key[0], device="cpu"), node)
        node.args = (one, held[key])


def _reuse_memory(traced: GraphModule) -> None:
    """Write results over an argument that nothing looks at any more."""
    order = {node: place for place, node in enumerate(traced.graph.nodes)}
    for node in list(traced.graph.nodes):
        if node.target not in IN_PLACE or node.kwargs:
            continue
        for args in [node.args, node.args[::-1]] if node.target in COMMUTATIVE else [node.args]:
            over = args[0]
            if not isinstance(over, Node) or _layout(over) != _layout(node):
                continue
            root = _root(over)
            apart = all(a is over or not _shares(a, root) for a in args if isinstance(a, Node))
            if apart and root.target in FRESH and _last_look(root, order) <= order[node]:
                node.target, node.args = IN_PLACE[node.target], args
                break


def _root(node: Node) -> Node:
    """The node that made the memory of another, where that is known."""
    while node.target in VIEWS | WRITING:
        node = cast(Node, node.args[0])
    return node


def _shares(node: Node, root: Node) -> bool:
    """Whether a node may lie in the memory of another: all but `FRESH` ones may be views."""
    seen, waiting = {node}, [node]
    while waiting:
        one = waiting.pop()
        if one is not root and one.target not in FRESH:
            waiting += [source for source in one.all_input_nodes if source not in seen]
            seen.update(one.all_input_nodes)
    return root in seen


def _last_look(node: Node, order: dict[Node, int]) -> int:
    """The place of the last that reads a node's memory, itself or through what may be a view."""
    seen, waiting = {node}, [node]
    while waiting:
        users = [user for user in waiting.pop().users if user not in seen]
        waiting += [user for user in users if user.target not in FRESH]
        seen.update(users)
    return max(order[one] for one in seen)


def replace(traced: GraphModule, node: Node, other: Node) -> None:
    """Use another node instead of one."""
    node.replace_all_uses_with(other)
    traced.graph.erase_node(node)
