"""Tensors in .safetensors files, which hold numbers and nothing that is run."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from posterior_collapse.data.checking import check_size, unreadable
from posterior_collapse.errors import CorruptFileError, DataError, MissingDependencyError

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


class Tensors(Mapping[str, Any]):
    """The tensors of a .safetensors file by name, each read when it is asked for.

    Args:
        path: The file.

    Raises:
        CorruptFileError: It is no .safetensors file.
        MissingDependencyError: safetensors is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            from safetensors import safe_open
        except ImportError as error:
            raise MissingDependencyError(
                "safetensors",
                "no such package",
                "safetensors, to read .safetensors files",
                "Run pip install safetensors.",
            ) from error
        self._path = path
        opened: Any = safe_open  # its methods have no types
        try:
            self._file = opened(path, framework="numpy")
            self._names = list(self._file.keys())
        except Exception as error:  # whatever it trips over in a damaged file
            raise self._unreadable(error) from error

    def __getitem__(self, name: str) -> Any:
        """Return an array.

        Raises:
            CorruptFileError: Its numbers are of a kind that NumPy does not have.
            DataError: It takes too much memory.
        """
        if name not in self._names:
            raise KeyError(name)
        check_size(self._path, self._path.stat().st_size)
        try:
            return self._file.get_tensor(name)
        except Exception as error:
            raise self._unreadable(error) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _unreadable(self, error: Exception) -> CorruptFileError:
        return unreadable(
            self._path,
            error,
            "a .safetensors file of numbers that NumPy has",
            "Write it again, bfloat16 as float32.",
        )
