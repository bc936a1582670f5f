"""NumPy's own files: .npy, which stays on disk, and .npz, which may hold a sparse matrix too."""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.data.checking import check_size
from posterior_collapse.data.stored import StoredArrays
from posterior_collapse.errors import (
    CorruptFileError,
    PosteriorCollapseError,
    first_line,
    listed,
)

__all__ = ["Archive", "mapped", "reason"]

MOST_DIMENSIONS = 32
"""More than any data have, and than older versions of NumPy can hold."""


class Archive(StoredArrays):
    """The arrays of an .npz file by name."""

    def _found(self) -> Mapping[str, str]:
        if not zipfile.is_zipfile(self._path):
            raise CorruptFileError(
                str(self._path),
                "no .npz archive, or a truncated one",
                "an .npz file of numbers",
                "Write it with numpy.savez(path, name=...).",
            )
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

    def _reading(self) -> contextlib.AbstractContextManager[None]:
        return _reading(self._path)


def mapped(path: Path) -> NDArray[Any]:
    """Return the array of an .npy file, which stays on disk.

    Raises:
        CorruptFileError: It is damaged, or holds Python objects.
    """
    with _reading(path):
        with path.open("rb") as stream:
            _declared(path, stream, path.stat().st_size)
        return np.lib.format.open_memmap(path, mode="r")


def _declared(path: Path, stream: IO[bytes], size: int) -> int:
    """Return the bytes of values that the header of an .npy stream of `size` bytes announces.

    Raises:
        CorruptFileError: The stream is too short for them, or they are Python objects.
    """
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_2_0
    shape, _, dtype = (np.lib.format.read_array_header_1_0 if version == (1, 0) else read)(stream)
    if dtype.hasobject:
        raise ValueError("Python objects")
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


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except PosteriorCollapseError:
        raise
    except Exception as error:  # whatever a reader trips over in a damaged file
        said = reason(error)
        if "object" in said.lower() or "pickle" in said.lower():
            said = "Python objects (a pickle), which are never loaded"
        raise CorruptFileError(
            str(path), said, f"a {path.suffix} file of numbers", "Write it again with NumPy."
        ) from error


def reason(error: Exception) -> str:
    """Return the first line of what a reader says, if it says it in words."""
    if isinstance(error, (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile)):
        return first_line(error) or type(error).__name__
    return f"a damaged file ({type(error).__name__})"
