"""Files of several arrays: each is read and checked when it is asked for by its name.

.npz, .safetensors and .h5 files; how a sparse matrix is put together from its arrays; and .npy
files, which stay on disk. Those of torch.save have a reader of their own, `saved`.
"""

from __future__ import annotations

import abc
import contextlib
import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.data.checking import check_size, reading
from posterior_collapse.errors import (
    CorruptFileError,
    DataError,
    listed,
    needing,
)

PICKLES = (".pkl", ".pickle", ".joblib")
"""Files that may run code when they are read."""
MOST_DIMENSIONS = 32
"""More than any data have, and than older versions of NumPy can hold."""


class StoredArrays(Mapping[str, Any]):
    """The arrays of a file by name.

    Attributes:
        expected: What the file must be, for errors.
        action: What to do about one that is not.

    Raises:
        CorruptFileError: It is no such file.
        MissingDependencyError: The library that reads such files is not installed.
    """

    expected: ClassVar[str]
    action: ClassVar[str] = "Write it again."

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._reading():
            self._places = self._found()

    def __getitem__(self, name: str) -> Any:
        """Return an array, once it is known to fit the memory."""
        place = self._places[name]
        with self._reading():
            return self._read(place)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    @abc.abstractmethod
    def _found(self) -> Mapping[str, Any]:
        """Return where in the file each array is, by its name."""

    @abc.abstractmethod
    def _read(self, place: Any) -> Any:
        """Return the array at a place, once it is known to fit the memory."""

    def _reading(self) -> contextlib.AbstractContextManager[None]:
        return reading(self._path, self.expected, self.action)


class Archive(StoredArrays):
    """The arrays of an .npz file by name."""

    expected = "an .npz file of numbers"
    action = "Write it with numpy.savez(path, name=...)."

    def _found(self) -> Mapping[str, str]:
        with zipfile.ZipFile(self._path) as archive:
            members = [info.filename for info in archive.infolist()]
        return {m.removesuffix(".npy"): m for m in members if m.endswith(".npy")}

    def _read(self, place: str) -> NDArray[Any]:
        with zipfile.ZipFile(self._path) as archive:
            with archive.open(place) as stream:
                size = archive.getinfo(place).file_size
                check_size(self._path, _declared(self._path, stream, size))
            with archive.open(place) as stream:
                array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
                stream.read(1)  # at the end of a member its checksum is compared
                return array


class Tensors(StoredArrays):
    """The tensors of a .safetensors file, which holds numbers and nothing that is run."""

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


class InHDF5(StoredArrays):
    """The arrays of an .h5 or .hdf5 file by path in it, such as "x" or "train/x"."""

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
            return read_stored(self._path, stored)


def require_h5py() -> Any:
    """Return h5py, or say that it is not installed."""
    with needing("h5py", "h5py, to read such files", "Run pip install h5py."):
        import h5py

    return h5py


def read_stored(path: Path, stored: Any) -> NDArray[Any]:
    """Return an array of h5py's, once it is known to fit the memory."""
    check_size(path, stored.size * stored.dtype.itemsize)
    values: NDArray[Any] = stored[()]
    return values


def is_pickle(path: Path) -> bool:
    """Say whether a file begins as pickles do that Python has written by default since 2008."""
    with path.open("rb") as file:
        head = file.read(2)
    return len(head) == 2 and head[0] == 0x80 and head[1] <= pickle.HIGHEST_PROTOCOL


def refuse_pickle(path: Path, names: str = "") -> NoReturn:
    """Refuse a file that may run code when it is read, and say how to write its numbers instead.

    If it is known what it names that is no tensor, that is said too.
    """
    raise DataError(
        str(path),
        "a pickle, which may run code when it is read" + (f": it names {names}" if names else ""),
        "numbers alone, in a .npy or .safetensors file",
        "Write them with numpy.save('x.npy', x.numpy()), where x is the tensor in "
        "torch.load(path, weights_only=True); of a model call pc.diagnose(model, data).",
    )


def mapped(path: Path) -> NDArray[Any]:
    """Return the array of an .npy file, which stays on disk."""
    with reading(path, "an .npy file of numbers", "Write it again with NumPy."):
        with path.open("rb") as stream:
            _declared(path, stream, path.stat().st_size)
        return np.lib.format.open_memmap(path, mode="r")


def _declared(path: Path, stream: IO[bytes], size: int) -> int:
    """Return the bytes of values that the header of an .npy stream of `size` bytes announces."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_2_0
    shape, _, dtype = (np.lib.format.read_array_header_1_0 if version == (1, 0) else read)(stream)
    if dtype.hasobject:
        raise ValueError("Python objects (a pickle), which are never loaded")
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape)
    if not whole or len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"an array of shape {listed(shape)}")
    needed, there = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if needed > there:
        raise CorruptFileError(
            str(path),
            f"{there:,} bytes of values",
            (f"{needed:,}" if needed < 1e18 else "more than 1e18") + " bytes, as its header says",
            "Write or download it again.",
        )
    return needed


COMPRESSED = ("data", "indices", "indptr")
PARTS = {
    **dict.fromkeys(("csr", "csc", "bsr"), COMPRESSED),
    "coo": ("data", "row", "col"),
    "dia": ("data", "offsets"),
}
"""The arrays of each kind of sparse matrix, by the names that scipy.sparse.save_npz gives them."""


def stored_sparse(path: Path, kind: str, shape: Any, arrays: Mapping[str, Any]) -> Any:
    """Return a matrix of scipy.sparse, once its arrays are known to fit.

    Args:
        path: The file, for errors.
        kind: Such as "csr".
        shape: Of the matrix, two whole numbers.
        arrays: Of numbers or of h5py, by the names of `PARTS`; read once their size is known.
    """
    from scipy import sparse

    if kind not in PARTS:
        raise ValueError(f"a matrix of kind {kind[:20]!r}")
    rows, columns = (int(n) for n in shape)
    # Whatever is done with a matrix takes a number per row and per column.
    check_size(path, 8 * (rows + columns))
    stored = {name: arrays[name] for name in PARTS[kind]}
    check_size(path, sum(part.size * part.dtype.itemsize for part in stored.values()))
    data, *places = (part[()] for part in stored.values())
    if any(place.dtype.kind not in "iu" for place in places):
        raise ValueError("places that are no whole numbers")
    if kind == "dia" and any(not -rows <= place <= columns for place in places[0].ravel()):
        raise ValueError("a diagonal beyond the matrix")  # SciPy would take some for others
    given = (data, tuple(places)) if kind == "coo" else (data, *places)
    matrix: Any = getattr(sparse, f"{kind}_matrix")(given, shape=(rows, columns))
    if PARTS[kind] is COMPRESSED:
        matrix.check_format(full_check=True)  # an index beyond would be written beyond the matrix
    return matrix.tocoo() if kind == "dia" else matrix
