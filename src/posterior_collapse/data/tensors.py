"""Tensors in .safetensors files, which hold numbers and nothing that is run."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from posterior_collapse.data.checking import check_size
from posterior_collapse.data.stored import StoredArrays
from posterior_collapse.errors import DataError, needing

__all__ = ["PICKLES", "Tensors", "is_pickle", "refuse_pickle"]

PICKLES = (".pkl", ".pickle", ".joblib")
"""Files that may run code when they are read."""


def is_pickle(path: Path) -> bool:
    """Say whether a file begins as pickles do that Python has written by default since 2008."""
    with path.open("rb") as file:
        head = file.read(2)
    return len(head) == 2 and head[0] == 0x80 and head[1] <= pickle.HIGHEST_PROTOCOL


def refuse_pickle(path: Path, names: str = "") -> NoReturn:
    """Refuse a file that may run code when it is read, and say how to write its numbers instead.

    Args:
        path: The file.
        names: What it names that is no tensor, if that is known.

    Raises:
        DataError: Always.
    """
    raise DataError(
        str(path),
        "a pickle, which may run code when it is read" + (f": it names {names}" if names else ""),
        "numbers alone, in a .npy or .safetensors file",
        "Write them with numpy.save('x.npy', x.numpy()), where x is the tensor in "
        "torch.load(path, weights_only=True); of a model call pc.diagnose(model, data).",
    )


class Tensors(StoredArrays):
    """The tensors of a .safetensors file by name."""

    expected = "a .safetensors file of numbers that NumPy has"
    action = "Write it again, bfloat16 as float32."

    def _found(self) -> Mapping[str, str]:
        how = "Run pip install safetensors."
        with needing("safetensors", "safetensors, to read .safetensors files", how):
            from safetensors import safe_open
        opened: Any = safe_open  # its methods have no types
        self._file = opened(self._path, framework="numpy")
        return {name: name for name in self._file.keys()}  # noqa: SIM118 - it is no mapping

    def _read(self, place: str) -> Any:
        check_size(self._path, self._path.stat().st_size)
        return self._file.get_tensor(place)
