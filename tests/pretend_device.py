"""A device "gpu" that computes on the CPU, and refuses what a GPU would refuse.

A tensor on it holds one of the CPU. Every operation of torch passes through `_run`, which raises
where tensors of two devices meet or a generator is elsewhere, and counts what makes the host wait.
Private names of torch 2.13 make it; it changes the process for good, so it gets one of its own.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
NAME = "gpu"
READS = (aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default)
MOVES = (aten._to_copy.default, aten.copy_.default)
INDICES = (aten.index.Tensor, aten.index_put_.default)
seeded: list[str] = []
"""Each global seeding of the device."""
reads: Counter[str] = Counter()
"""How often the host waited for the device, by operation."""


class _Module:
    """What torch asks of a device's Python module."""

    @staticmethod
    def is_available() -> bool:
        return True

    is_initialized = is_available

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16]

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        seeded.append("manual_seed_all")

    manual_seed = manual_seed_all


_setup_privateuseone_for_python_backend(NAME, _Module())
_library = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
_library.fallback(torch.library.fallthrough_kernel)
DEVICE = torch.device(NAME, 0)


class OnDevice(torch.Tensor):
    """A tensor of the pretend device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=DEVICE,
        )  # fmt: skip

    def __init__(self, held: Tensor) -> None:
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copy = OnDevice(self.held.clone())
        if isinstance(self, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, self.requires_grad)
        memo[id(self)] = copy
        return copy

    def __repr__(self) -> str:
        return f"OnDevice({self.held})"


class Generator(torch._C.Generator):
    """One that may be on the pretend device; its numbers are the CPU's."""

    _devices: dict[int, torch.device] = {}  # noqa: RUF012

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls, "cpu")
        cls._devices[made._cdata] = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._devices[self._cdata]


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


def _run(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if op.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
        with _Mode():
            return op.decompose(*args, **kwargs)
    leaves, structure = tree_flatten((args, kwargs))
    here = [leaf for leaf in leaves if isinstance(leaf, OnDevice)]
    asked = kwargs.get("device")
    there = bool(here) if asked is None else torch.device(asked).type == NAME
    if op is aten.copy_.default:
        there = isinstance(args[0], OnDevice)
    _check(op, leaves, there)
    if here and (op in READS or (op in MOVES and not there)):
        reads[op.__name__] += 1
    held = [leaf.held if isinstance(leaf, OnDevice) else leaf for leaf in leaves]
    plain_args, plain_kwargs = tree_unflatten(held, structure)
    if asked is not None:
        plain_kwargs["device"] = "cpu"
    results, shape = tree_flatten(op(*plain_args, **plain_kwargs))
    # What was changed in place is what it was before.
    same = {id(inner): leaf for inner, leaf in zip(held, leaves, strict=True)}
    for i, result in enumerate(results):
        if isinstance(result, Tensor):
            new = OnDevice(result) if there else result
            results[i] = same.get(id(result), new)
    return tree_unflatten(results, shape)


def _check(op: Any, leaves: list[Any], there: bool) -> None:
    """Refuse tensors of two devices, and a generator of another one."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    host = [t for t in tensors if not isinstance(t, OnDevice) and t.dim() > 0]
    two = host and any(isinstance(tensor, OnDevice) for tensor in tensors)
    if two and op not in (*MOVES, *INDICES):
        raise RuntimeError(f"{op}: a tensor on {DEVICE} meets one on the CPU")
    for leaf in leaves:
        if isinstance(leaf, torch._C.Generator):
            kind = Generator._devices.get(leaf._cdata, torch.device("cpu")).type
            if kind != (NAME if there else "cpu"):
                raise RuntimeError(f"{op}: a generator of {kind} draws for another device")


def pretend() -> Any:
    """Return the context in which the device is there."""
    torch.Generator = Generator  # type: ignore[misc]
    torch._C._set_only_lift_cpu_tensors(True)
    # `module.double()` makes new parameters: `parameter.data = ...` would leave what is held.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    return _Mode()
