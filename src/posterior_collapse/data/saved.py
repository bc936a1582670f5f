"""Tensors that torch.save wrote, read without torch and without running anything.

Such a file is a zip archive: the numbers of each storage, and a pickle that says which tensors they
form. A pickle is a program that may call any function by its name. Here its instructions are
followed one by one (as in torch's own `weights_only` reader), and the names that it may use are
those of torch's kinds of numbers and of how torch puts a tensor together; the rest is refused.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.data.checking import check_size
from posterior_collapse.data.stored import StoredArrays, is_pickle, refuse_pickle

BFLOAT16 = np.dtype("V2")
"""Stands for torch's bfloat16, the upper half of a float32, which NumPy does not have."""
KINDS = {
    **{"DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "LongStorage": "i8"},
    **{"IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1"},
    **{"BoolStorage": "?", "ComplexFloatStorage": "c8", "ComplexDoubleStorage": "c16"},
    **{"uint16": "u2", "uint32": "u4", "uint64": "u8"},
}
"""Kinds of numbers by the names that torch gives them."""
STORAGES: dict[str, np.dtype[Any]] = {
    **{f"torch {name}": np.dtype(kind) for name, kind in KINDS.items()},
    "torch BFloat16Storage": BFLOAT16,
    "torch.storage UntypedStorage": np.dtype("u1"),
}
REBUILT = ("_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter")
CALLED = ("collections OrderedDict", *(f"torch._utils {name}" for name in REBUILT))
MOST_PICKLED = 1 << 20
"""Bytes of the pickle, which may take a hundred times as many in memory; that of a network of a
thousand layers has 0.3 MB."""
MOST_DIMENSIONS, MOST_LEVELS, LONGEST = 32, 8, 1_000
"""Of a tensor, of dicts within dicts, and characters of a name: beyond, a file is hostile."""


class Saved(StoredArrays):
    """The tensors of a file of torch.save by name.

    A tensor alone is called x. Of two, in a list or a tuple, the first is x; the second is labels
    if it is one number per row, else y. Several are numbered from 1. Those of a dict within a dict
    are called "outer.inner". What is no tensor is left out.

    Raises:
        DataError: It is a pickle without an archive around it, or names other things than tensors.
    """

    expected = "tensors that torch.save wrote"

    def _found(self) -> Mapping[str, _Tensor]:
        if is_pickle(self._path):
            refuse_pickle(self._path)
        if not zipfile.is_zipfile(self._path):
            raise ValueError("no zip archive, or a truncated one")
        with zipfile.ZipFile(self._path) as archive:
            names = {info.filename: info for info in archive.infolist()}
            (pickled,) = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
            self._folder = pickled.removesuffix("data.pkl")
            if names[pickled].file_size > MOST_PICKLED:
                raise ValueError(f"{names[pickled].file_size:,} bytes of names")
            order = f"{self._folder}byteorder"
            self._big = order in names and archive.open(order).read(3) == b"big"
            return dict(_named(_Machine(self._path).run(archive.read(pickled))))

    def _read(self, place: _Tensor) -> NDArray[Any]:
        kind = place.kind
        count = int(np.prod([int(n) for n in place.shape], dtype=object))
        check_size(self._path, count * kind.itemsize)
        last = place.start + sum((n - 1) * s for n, s in zip(place.shape, place.steps, strict=True))
        with zipfile.ZipFile(self._path) as archive:
            member = archive.getinfo(f"{self._folder}data/{place.key}")
            if count and (last + 1) * kind.itemsize > member.file_size:
                raise ValueError(f"{member.file_size:,} bytes for a tensor that needs more")
            check_size(self._path, member.file_size)
            stored = np.frombuffer(archive.read(member), np.uint8)
        if not count:
            return np.zeros(place.shape, "f4" if kind == BFLOAT16 else kind)
        values = stored[: len(stored) // kind.itemsize * kind.itemsize].view(
            "u2" if kind == BFLOAT16 else kind
        )
        if self._big:
            values = values.byteswap()
        steps = tuple(step * values.itemsize for step in place.steps)
        viewed = np.lib.stride_tricks.as_strided(
            values[place.start :], place.shape, steps, writeable=False
        )
        if kind == BFLOAT16:
            return (viewed.astype(np.uint32) << 16).view(np.float32)
        return np.ascontiguousarray(viewed).reshape(place.shape)


@dataclass(frozen=True, eq=False)
class _Tensor:
    """Where in the archive the numbers of a tensor are.

    Attributes:
        kind: Of its numbers.
        key: Name of its storage.
        start: Its first number's place in it.
        shape: Its shape.
        steps: Numbers between neighbours, along each dimension.
    """

    kind: np.dtype[Any]
    key: str
    start: int
    shape: tuple[int, ...]
    steps: tuple[int, ...]


class _Name(NamedTuple):
    """A name that a pickle used, of those that it may."""

    text: str


class _Machine:
    """Follows the instructions of a pickle, as far as tensors need them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, pickled: bytes) -> Any:
        """Return what the pickle describes: dicts, lists, tuples, tensors, numbers, texts."""
        for opcode, argument, _ in pickletools.genops(pickled):
            name = opcode.name
            if name in ("PROTO", "FRAME"):
                continue
            if name == "STOP":
                return self.stack.pop()
            if name in CONSTANTS:
                self.stack.append(CONSTANTS[name])
            elif name in EMPTY:
                self.stack.append(EMPTY[name]())
            elif name in LITERALS:
                self.stack.append(argument)
            elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
                self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                self.stack.append(self.memo[_of(int, argument)])
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
                self.marks.append(len(self.stack) - int(name[-1]))
                self.tuple()
            elif name in ("GLOBAL", "STACK_GLOBAL"):
                if argument is None:  # not put together before it is known to be text
                    argument = " ".join(_of(str, part) for part in self.stack[-2:])
                    del self.stack[-2:]
                self.stack.append(self.known(argument))
            else:
                if name not in INSTRUCTIONS:
                    refuse_pickle(self.path, f"the instruction {name}")
                getattr(self, name.lower())()
        raise ValueError("a pickle without an end")

    def known(self, text: str) -> _Name:
        """Return a name that may be used, or refuse it."""
        if text not in STORAGES and text not in CALLED:
            refuse_pickle(self.path, text.replace(" ", ".")[:100])
        return _Name(text)

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def above_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def tuple(self) -> None:
        self.stack.append(tuple(self.above_mark()))

    def append(self) -> None:
        item = self.stack.pop()
        _of(list, self.stack[-1]).append(item)

    def appends(self) -> None:
        items = self.above_mark()
        _of(list, self.stack[-1]).extend(items)

    def setitem(self) -> None:
        self.marks.append(len(self.stack) - 2)
        self.setitems()

    def setitems(self) -> None:
        items = self.above_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other keys, such as tuples in tuples, may recurse deeply when they are hashed.
            _of(dict, self.stack[-1])[key if isinstance(key, str) else str(_of(int, key))] = value

    def build(self) -> None:
        """Leave out what is set on a dict, such as the versions of a state dict's layers."""
        self.stack.pop()
        _of(dict, self.stack[-1])

    def binpersid(self) -> None:
        what, kind, key, _, _ = _of(tuple, self.stack.pop())
        if what != "storage":
            raise ValueError("something stored that is no tensor")
        self.stack.append((STORAGES[_of(_Name, kind).text], _of(str, key)))

    def reduce(self) -> None:
        arguments, name = _of(tuple, self.stack.pop()), _of(_Name, self.stack.pop()).text
        self.stack.append(_called(name, arguments))


INSTRUCTIONS = {
    *("MARK", "TUPLE", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD", "BINPERSID", "REDUCE"),
}
"""Those that are methods of the machine."""
CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
}
"""Instructions whose argument is the value."""


def _called(name: str, arguments: tuple[Any, ...]) -> Any:
    function = name.split(" ")[1]
    if function == "OrderedDict":
        return {}  # its entries are set afterwards
    if function == "_rebuild_parameter":
        return _of(_Tensor, arguments[0])
    (kind, key), start, shape, steps, *_ = arguments
    if function == "_rebuild_tensor_v3":
        kind = STORAGES[_of(_Name, arguments[6]).text]
    places = [_of(int, n) for n in (start, *_of(tuple, shape), *_of(tuple, steps))]
    if len(shape) != len(steps) or len(shape) > MOST_DIMENSIONS or min(places) < 0:
        raise ValueError("a tensor of an impossible shape")
    return _Tensor(kind, key, start, shape, steps)


def _of(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"a {type(value).__name__.strip('_')} in place of a {kind.__name__}")
    return value


def _named(found: Any) -> Iterator[tuple[str, _Tensor]]:
    """Yield the tensors of what a pickle describes; a dict or list is looked into once."""
    if isinstance(found, _Tensor):
        yield "x", found
        return
    looked_into: set[int] = set()
    ahead: list[tuple[tuple[str, ...], Any]] = [((), found)]
    while ahead:
        names, value = ahead.pop()
        if isinstance(value, _Tensor):
            yield ".".join(names), value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in looked_into:
            looked_into.add(id(value))
            inner = value if isinstance(value, dict) else dict(_numbered(value))
            if inner and (len(names) >= MOST_LEVELS or max(map(len, inner)) > LONGEST):
                raise ValueError("names that are too long, or too many within each other")
            ahead += [((*names, key), inner[key]) for key in reversed(inner)]


def _numbered(values: Any) -> Iterator[tuple[str, Any]]:
    if len(values) == 2 and all(isinstance(one, _Tensor) and one.shape for one in values):
        x, y = values
        yield "x", x
        yield ("labels" if len(y.shape) == 1 and y.shape[0] == x.shape[0] else "y"), y
        return
    yield from ((str(number), value) for number, value in enumerate(values, 1))
