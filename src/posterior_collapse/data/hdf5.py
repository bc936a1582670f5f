"""Arrays in .h5 and .hdf5 files, by the paths that they have in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from posterior_collapse.data.checking import check_size, unreadable
from posterior_collapse.errors import (
    CorruptFileError,
    MissingDependencyError,
    PosteriorCollapseError,
)

__all__ = ["Stored", "require_h5py"]


class Stored(Mapping[str, Any]):
    """The arrays of an HDF5 file by path, such as "x" or "train/x", each read when asked for.

    Args:
        path: The file.

    Raises:
        CorruptFileError: It is no such file.
        MissingDependencyError: h5py is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._h5py, self._path = require_h5py(), path
        self._names: list[str] = []

        def visit(name: str, stored: Any) -> None:  # of links to other files nothing is told
            if isinstance(stored, self._h5py.Dataset):
                self._names.append(name)

        try:
            with self._h5py.File(path, "r") as file:
                file.visititems(visit)
        except Exception as error:  # whatever it trips over in a damaged file
            raise self._unreadable(error) from error

    def __getitem__(self, name: str) -> Any:
        """Return an array.

        Raises:
            CorruptFileError: It is damaged, or its numbers lie in other files.
            DataError: It takes too much memory.
        """
        if name not in self._names:
            raise KeyError(name)
        try:
            with self._h5py.File(self._path, "r") as file:
                stored = file[name]
                if stored.is_virtual or stored.external:
                    raise ValueError("numbers that lie in other files")
                check_size(self._path, stored.size * stored.dtype.itemsize)
                return stored[()]
        except PosteriorCollapseError:
            raise
        except Exception as error:
            raise self._unreadable(error) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _unreadable(self, error: Exception) -> CorruptFileError:
        return unreadable(self._path, error, "an HDF5 file of numbers", "Write it again.")


def require_h5py() -> Any:
    """Return h5py.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError(
            "h5py", "no such package", "h5py, to read such files", "Run pip install h5py."
        ) from error
    return h5py
