"""Arrays in .h5 and .hdf5 files, by the paths that they have in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posterior_collapse.data.checking import check_size
from posterior_collapse.data.stored import StoredArrays
from posterior_collapse.errors import needing

__all__ = ["InHDF5", "require_h5py"]


class InHDF5(StoredArrays):
    """The arrays of an HDF5 file by path, such as "x" or "train/x"."""

    expected = "an HDF5 file of numbers"

    def _found(self) -> Mapping[str, str]:
        h5py = require_h5py()
        names: list[str] = []

        def visit(name: str, stored: Any) -> None:  # of links to other files nothing is told
            if isinstance(stored, h5py.Dataset):
                names.append(name)

        with h5py.File(self._path, "r") as file:
            file.visititems(visit)
        return {name: name for name in names}

    def _read(self, place: str) -> Any:
        with require_h5py().File(self._path, "r") as file:
            stored = file[place]
            if stored.is_virtual or stored.external:
                raise ValueError("numbers that lie in other files")
            check_size(self._path, stored.size * stored.dtype.itemsize)
            return stored[()]


def require_h5py() -> Any:
    """Return h5py.

    Raises:
        MissingDependencyError: It is not installed.
    """
    with needing("h5py", "h5py, to read such files", "Run pip install h5py."):
        import h5py

    return h5py
