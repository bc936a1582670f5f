"""Tensors that torch.save wrote, by torch's own reader that runs nothing.

Such a file is a zip archive: the numbers of each storage, and a pickle that says which tensors they
form. A pickle is a program that may call any function by its name; `torch.load(weights_only=True)`
follows it only as far as tensors need. Here is what it leaves open: how much memory a file may
take, and whether its numbers are those that were written.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from posterior_collapse.arrays import as_array
from posterior_collapse.data.checking import check_size
from posterior_collapse.data.stored import StoredArrays, is_pickle, refuse_pickle
from posterior_collapse.errors import needing

MOST_PICKLED = 1 << 20
"""Bytes of the pickle, which may take a hundred times as many in memory; that of a network of a
thousand layers has 0.3 MB."""
MOST_LEVELS, LONGEST = 8, 1_000
"""Dicts within dicts, and characters of a name: beyond, a file is hostile."""


class Saved(StoredArrays):
    """The tensors of a file of torch.save by name.

    A tensor alone is called x. Of two, in a list or a tuple, the first is x; the second is labels
    if it is one number per row, else y. Several are numbered from 1. Those of a dict within a dict
    are called "outer.inner". What is no tensor is left out. The numbers stay on disk until they are
    used.
    """

    expected = "tensors that torch.save wrote"
    action = "Write it again with torch.save(tensor, path)."

    def _found(self) -> Mapping[str, Any]:
        self._check_archive()
        how = "Run pip install 'posterior-collapse[torch]'."
        with needing("torch", "torch, to read what torch.save wrote", how):
            import torch
        try:
            if named := torch.serialization.get_unsafe_globals_in_checkpoint(self._path):
                refuse_pickle(self._path, ", ".join(sorted(named))[:100])
            found = torch.load(self._path, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError as error:  # torch says at length how to read it unsafely
            raise ValueError("a pickle that torch.load(weights_only=True) does not read") from error
        return dict(_named(found, torch.Tensor))

    def _check_archive(self) -> None:
        """Refuse what is no archive of torch's, damaged, or takes far more memory than disk."""
        if is_pickle(self._path):
            refuse_pickle(self._path)
        with zipfile.ZipFile(self._path) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("a compressed archive, which torch.save never writes")
            if damaged := archive.testzip():
                raise ValueError(f"Bad CRC-32 for {damaged}")
            for member in members:
                if not member.filename.endswith("data.pkl"):
                    continue
                if member.file_size > MOST_PICKLED:
                    raise ValueError(f"{member.file_size:,} bytes of names")
                if b"\nbytearray\n" in archive.read(member):  # torch would make one of any length
                    refuse_pickle(self._path, "builtins.bytearray")

    def _read(self, place: Any) -> Any:
        check_size(self._path, place.numel() * place.element_size())
        return as_array(self._path.name, place)


def _named(found: Any, kind: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of what a pickle describes; a dict or list is looked into once."""
    if isinstance(found, kind):
        yield "x", found
        return
    looked_into: set[int] = set()
    ahead: list[tuple[tuple[str, ...], Any]] = [((), found)]
    while ahead:
        names, value = ahead.pop()
        if isinstance(value, kind):
            yield ".".join(names), value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in looked_into:
            looked_into.add(id(value))
            inner = _members(value, kind)
            if inner and (len(names) >= MOST_LEVELS or max(map(len, inner)) > LONGEST):
                raise ValueError("names that are too long, or too many within each other")
            ahead += [((*names, key), inner[key]) for key in reversed(inner)]


def _members(values: Any, kind: Any) -> dict[str, Any]:
    if isinstance(values, dict):
        return {str(key): one for key, one in values.items() if isinstance(key, (str, int))}
    if len(values) == 2 and all(isinstance(one, kind) and one.ndim for one in values):
        x, y = values
        return {"x": x, "labels" if y.shape == x.shape[:1] else "y": y}
    return {str(number): one for number, one in enumerate(values, 1)}
