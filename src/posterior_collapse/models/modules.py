"""The torch modules and tensors behind a model, wherever it keeps them, and evaluation mode.

A model made of functions may keep its networks in a dict, an object, a closure or a global. Two
ways lead to them. Following references finds what is named somewhere, before anything runs. A hook
of torch's finds what is about to run, however it is reached. Each sees what the other misses: a
module of which only a method is called never reaches the hook.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import itertools
import sys
import threading
import types
import warnings
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from posterior_collapse.models.global_state import arithmetic, undisturbed
from posterior_collapse.models.latent import LatentModel

TRAINING = "the model was in training mode: it was measured in evaluation mode"
NO_MODULE = (
    "no torch module was found behind the model: if one has dropout or batch norm, name it (as "
    "modules= of from_callable, as an attribute of a LatentModel of your own)"
)
MOST_OBJECTS = 10_000
"""Objects that are looked at: the nearest. A model may hold its trainer, and that all the data."""
_PLAIN = (
    type(None), bool, int, float, complex, str, bytes, bytearray, np.ndarray, torch.Size,
    types.ModuleType, types.CodeType, types.FrameType,
)  # fmt: skip
_COUNTS = (int, float, np.generic, np.ndarray, Tensor)
_DICTS = (dict, OrderedDict, defaultdict, Counter)
_OURS = f"{__name__.partition('.')[0]}."
_OF_TORCH = frozenset(vars(nn.Module()))
"""Attributes that every module has: parameters, submodules and hooks."""


class _Watches(threading.local):
    """Who is told of each module that this thread is about to run."""

    told: tuple[Callable[[nn.Module], None], ...] = ()


_here = _Watches()


def _about_to_run(module: nn.Module, inputs: Any) -> None:
    # While torch compiles, whatever this does would become part of what is compiled.
    if not torch.compiler.is_compiling():
        for tell in _here.told:
            tell(module)


# The same hook under the same number each time: else torch would compile anew at every look.
_hook = register_module_forward_pre_hook(_about_to_run)
_hook.remove()
_lock = threading.Lock()
_open: list[Callable[[nn.Module], None]] = []


@dataclass
class Seen:
    """What `evaluating` has met so far.

    Attributes:
        found: Whether there was any module, other than mere containers.
    """

    found: bool = False
    training: bool = False

    @property
    def notes(self) -> list[str]:
        """What a reader of the results should know of it."""
        return [TRAINING] * self.training + [NO_MODULE] * (not self.found)


@contextlib.contextmanager
def evaluating(*things: Any) -> Iterator[Seen]:
    """Put the modules behind models and functions into evaluation mode for a while.

    In training mode, dropout makes a posterior random, and batch norm makes it depend on the batch
    and takes the batch into its statistics. Modules that cannot be found at once are caught just
    before they first run, if this thread runs them. Each module gets its own mode back.

    Meanwhile float32 products keep all their digits, whatever a program has asked of torch, and
    what is drawn from global generators is given back.

    Yields:
        What was met; it may change while the model runs.

    Example:
        >>> hidden = {"net": nn.Dropout(0.5)}
        >>> with evaluating(lambda x: hidden["net"](x)) as seen:
        ...     hidden["net"].training, seen.training
        (False, True)
        >>> hidden["net"].training
        True
    """
    seen = Seen()
    # Weak: a function that makes a network at each call must be able to let go of it.
    modes: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()

    def meet(modules: list[nn.Module]) -> None:
        # A frozen script module has no mode. Setting the attribute spares what `eval()` may do
        # besides, such as to merge weights.
        modes.update({module: getattr(module, "training", False) for module in modules})
        seen.found |= any(map(_works, modules))
        seen.training |= any(modes[module] for module in modules)
        for module in modules:
            if modes[module]:
                module.training = False

    own = tensor_behind(*things)
    device = torch.device("cpu") if own is None else own.device
    try:
        with undisturbed(device), arithmetic(), _watched(meet, things):
            yield seen
    finally:
        # The last met first: a compiled module shares the mode of its original.
        for module, mode in reversed(list(modes.items())):
            if getattr(module, "training", mode) != mode:
                module.training = mode


@contextlib.contextmanager
def keeping_state(*things: Any) -> Iterator[None]:
    """Undo what happens meanwhile to buffers of the modules behind functions, and to counters.

    For what has to run as in training: batch norms take each batch into their statistics, and
    schedules count calls, in an attribute, a dict, a list, a global or a variable of a function
    around, as numbers of Python, NumPy or torch; and losses are logged in lists.

    Example:
        >>> norm, steps = nn.BatchNorm1d(1), {"done": 0}
        >>> def loss(x):
        ...     steps["done"] += 1
        ...     return norm(x).sum()
        >>> with keeping_state(loss):
        ...     _ = loss(torch.ones(2, 1))
        >>> norm.running_mean.item(), steps["done"]
        (0.0, 0)
    """
    kept: weakref.WeakKeyDictionary[nn.Module, dict[str, tuple[Tensor, Tensor]]]
    kept = weakref.WeakKeyDictionary()

    def meet(modules: list[nn.Module]) -> None:
        for module in modules:
            buffers = module.named_buffers(recurse=False)
            kept[module] = {name: (buffer, buffer.clone()) for name, buffer in buffers}

    reachable = list(_reachable(things))
    # By identity: the functions of a module share its globals.
    named = {id(space): space for thing in reachable for space in _namespaces(thing)}
    spaces = [(space, dict(space)) for space in named.values()]
    cells = [(cell, _held(cell)) for thing in reachable for cell in _cells(thing)]
    lists = [(thing, list(thing)) for thing in reachable if type(thing) is list]
    values = itertools.chain(
        reachable,  # which has tensors, and no arrays
        *(before.values() for _, before in spaces),
        *(before for _, before in lists),
        (held for _, held in cells),
    )
    single = {id(value): value for value in values if _is_single(value)}
    written = [(value, copy.deepcopy(value)) for value in single.values()]
    try:
        with _watched(meet, things):
            yield
    finally:
        for module, buffers in kept.items():
            for name, (buffer, value) in buffers.items():
                with torch.no_grad():
                    buffer.copy_(value)
                setattr(module, name, buffer)
        for space, before in spaces:
            for name in [name for name in (*before, *space) if _counted(before, space, name)]:
                if name in before:
                    space[name] = before[name]
                else:  # an instance's own, in place of its class's
                    space.pop(name, None)
        for cell, held in cells:
            if _is_count(held):
                cell.cell_contents = held
        for thing, items in lists:
            pairs = zip(items, thing, strict=False)
            if len(thing) != len(items) or any(a is not b and _is_count(b) for a, b in pairs):
                thing[:] = items
        for value, number in written:
            if value != number:  # else what autograd has kept of it would count as changed
                value[...] = number


def _is_count(value: Any) -> bool:
    return _is(value, _COUNTS) and not _is(value, bool)


def _is_single(value: Any) -> bool:
    """Whether a value is a tensor or an array of one number, which may be written into."""
    if type(value) is Tensor:
        return value.numel() == 1 and not (value.requires_grad or value.is_meta)
    return type(value) is np.ndarray and value.size == 1 and value.dtype.kind in "iuf"


def _namespaces(thing: Any) -> Iterator[dict[Any, Any]]:
    """Yield where an object may count something: what it has by name."""
    if _is(thing, nn.Module):
        yield from (vars(part) for part in thing.modules())
        return
    if type(thing) in _DICTS:
        yield thing
    elif _is(thing, types.FunctionType) and not _installed(thing.__module__):
        yield from (thing.__globals__, thing.__dict__)
    elif not _is(thing, (type, types.FunctionType)):
        with contextlib.suppress(AttributeError):  # of what has slots
            own = object.__getattribute__(thing, "__dict__")
            if type(own) is dict:
                yield own


def _cells(thing: Any) -> tuple[types.CellType, ...]:
    """Return where a function keeps variables of those around it."""
    return (_is(thing, types.FunctionType) and thing.__closure__) or ()


def _held(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None


def _counted(before: dict[Any, Any], after: dict[Any, Any], name: Any) -> bool:
    """Whether a number has changed meanwhile, come or gone."""
    pair = before.get(name), after.get(name)
    return pair[0] is not pair[1] and any(map(_is_count, pair))


@contextlib.contextmanager
def unwatched() -> Iterator[None]:
    """Leave modules that now run as they are: those that transform data are not the model's."""
    told, _here.told = _here.told, ()
    try:
        yield
    finally:
        _here.told = told


def modules_behind(*things: Any) -> list[nn.Module]:
    """Return the modules that models and functions are, hold or mention, the nearest first.

    Those inside another are not listed apart from it.

    Example:
        >>> nets = {"encoder": nn.Linear(3, 2)}
        >>> modules_behind(lambda x: nets["encoder"](x))
        [Linear(in_features=3, out_features=2, bias=True)]
    """
    found = [thing for thing in _reachable(things) if _is(thing, nn.Module)]
    inside = {part for module in found for part in module.modules() if part is not module}
    return [module for module in found if module not in inside]


def tensor_behind(*things: Any) -> Tensor | None:
    """Return a floating tensor of models and functions: its device and dtype data should have.

    A parameter or buffer of the nearest module that has one, else a tensor outside of modules, else
    nothing.

    Example:
        >>> weight = torch.ones(3, 2, dtype=torch.float64)
        >>> tensor_behind(lambda x: x @ weight).dtype
        torch.float64
    """
    outside: Tensor | None = None
    for thing in _reachable(things):
        if _is(thing, nn.Module):
            inside = itertools.chain(thing.parameters(), thing.buffers())
            tensor = next((value for value in inside if value.is_floating_point()), None)
            if tensor is not None:
                return cast(Tensor, tensor.detach())
        elif outside is None and _is(thing, Tensor) and thing.is_floating_point():
            outside = thing.detach()
    return outside


@contextlib.contextmanager
def _watched(meet: Callable[[list[nn.Module]], None], things: tuple[Any, ...]) -> Iterator[None]:
    """Give each module to `meet` once: those behind `things`, and any other before it runs."""
    met: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def meet_new(modules: list[nn.Module]) -> None:
        parts = dict.fromkeys(part for module in modules for part in module.modules())
        new = [part for part in parts if part not in met]
        met.update(new)
        meet(new)

    def tell(module: nn.Module) -> None:
        if module not in met:
            meet_new([module])

    found = modules_behind(*things)
    with contextlib.ExitStack() as stack:
        if any("_orig_mod" in part._modules for module in found for part in module.modules()):
            # A compiled module warns of hooks that see it and its original: each is met once.
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global")
        stack.enter_context(_told(tell))
        meet_new(found)
        yield


@contextlib.contextmanager
def _told(tell: Callable[[nn.Module], None]) -> Iterator[None]:
    """Have a function called with each module that this thread is about to run."""
    hooks: Any = _hook.hooks_dict_ref()
    before = _here.told
    with _lock:
        _open.append(tell)
        hooks[_hook.id] = _about_to_run
    _here.told = (*before, tell)
    try:
        yield
    finally:
        _here.told = before
        with _lock:
            _open.remove(tell)
            if not _open:
                del hooks[_hook.id]


def _works(module: nn.Module) -> bool:
    """Whether a module computes or keeps numbers, and is no mere container of modules."""
    if not isinstance(module, (LatentModel, nn.ModuleList, nn.ModuleDict)):
        return True
    return bool(module._parameters) or bool(module._buffers)


def _reachable(things: tuple[Any, ...]) -> Iterator[Any]:
    """Yield what the things refer to, themselves first, then what is one step away, and so on."""
    queue = deque(things)
    met: dict[int, Any] = {}
    while queue and len(met) < MOST_OBJECTS:
        thing = queue.popleft()
        if id(thing) not in met:
            met[id(thing)] = thing
            yield thing
            queue.extend(part for part in _referred(thing) if not _is(part, _PLAIN))


def _referred(thing: Any) -> Iterator[Any]:
    """Yield what an object refers to and may be part of a model."""
    if _is(thing, Tensor):
        return
    if _is(thing, nn.Module):
        for part in thing.modules():
            yield type(part)
            yield from (value for name, value in vars(part).items() if name not in _OF_TORCH)
    elif _is(thing, types.FunctionType):
        # The cells of a closure hold the variables of the functions around.
        yield from gc.get_referents(*(thing.__closure__ or ()))
        yield from _mentioned(thing)
        yield from (thing.__defaults__, thing.__kwdefaults__, thing.__dict__)
    elif _is(thing, type):
        for base in thing.__mro__:
            if not _installed(base.__module__) and not str(base.__module__).startswith(_OURS):
                yield from vars(base).values()
    elif type(thing) in (list, tuple):
        yield from thing
    else:
        # Python's garbage collector knows what containers and instances of any kind hold.
        yield from gc.get_referents(thing)


def _mentioned(function: types.FunctionType) -> Iterator[Any]:
    """Yield the globals that a function names, and what it names of the user's own files."""
    if _installed(function.__module__):
        return
    # Both lists grow while they are gone through: by functions inside the function, and by files.
    codes, scopes = [function.__code__], [function.__globals__]
    for code in codes:
        codes += [inner for inner in code.co_consts if _is(inner, types.CodeType)]
    names = dict.fromkeys(name for code in codes for name in code.co_names)
    for scope in scopes:
        for name in names:
            value: Any = scope.get(name)
            if not _is(value, types.ModuleType):
                yield value
            elif not _installed(value.__name__) and all(vars(value) is not s for s in scopes):
                scopes.append(vars(value))


def _installed(module: Any) -> bool:
    """Whether a Python module, by its name, is a library's, whose globals are no one's model."""
    if not isinstance(module, str):
        return False
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return (
        module.partition(".")[0] in sys.stdlib_module_names
        or "site-packages" in file
        or "dist-packages" in file
    )


def _is(thing: Any, kinds: type | tuple[type, ...]) -> bool:
    # Not `isinstance`: it asks the object for its class, which makes a lazy one do its work.
    return issubclass(type(thing), kinds)
