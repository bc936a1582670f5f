"""IDX files, in which the image sets are published."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.data.checking import check_file, check_size
from posterior_collapse.errors import CorruptFileError

__all__ = ["read_idx"]

DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
AGAIN = "Download it again."
MOST_IDX_DIMENSIONS = 8


def read_idx(path: Path) -> NDArray[Any]:
    """Return the array of an IDX file, in the machine's byte order.

    The header is two zero bytes, one for the type, one for the number of dimensions, and each
    dimension as a big-endian 32-bit number; the values follow, last dimension fastest. No more is
    unpacked than the header announces.

    Raises:
        MissingFileError: The file is not there.
        CorruptFileError: A web page, a truncated gzip, a wrong magic number, or a length that
            does not match the header.
        DataError: The values take too much memory.
    """
    head = check_file(path)
    zipped = head.startswith(b"\x1f\x8b")
    try:
        with cast(IO[bytes], gzip.open(path) if zipped else path.open("rb")) as stream:
            dtype, shape, offset = _header(path, stream)
            needed = dtype.itemsize * math.prod(shape)
            if zipped:
                check_size(path, needed)
            else:
                _check_length(path, path.stat().st_size, offset + needed, shape)
            content = stream.read(needed)
            there = offset + len(content) + len(stream.read(1))
            _check_length(path, there, offset + needed, shape)
    except EOFError as error:
        raise CorruptFileError(
            str(path), "a truncated gzip file", "a complete one", AGAIN
        ) from error
    except (OSError, zlib.error) as error:
        raise CorruptFileError(
            str(path), f"a damaged gzip file ({error})", "an intact one", AGAIN
        ) from error
    values = np.frombuffer(content, dtype).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)


def _header(path: Path, stream: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES:
        raise CorruptFileError(
            str(path),
            f"the magic number 0x{magic.hex()}",
            "an IDX file, which begins with 0x0000, a type and a number of dimensions",
            "Check that it is an IDX file.",
        )
    dims, offset = stream.read(4 * magic[3]), 4 + 4 * magic[3]
    if 4 + len(dims) < offset:
        raise CorruptFileError(str(path), "a truncated header", f"{offset} bytes of it", AGAIN)
    if magic[3] > MOST_IDX_DIMENSIONS:
        raise CorruptFileError(str(path), f"{magic[3]} dimensions", "images or labels", AGAIN)
    return np.dtype(DTYPES[magic[2]]), struct.unpack(f">{magic[3]}I", dims), offset


def _check_length(path: Path, there: int, needed: int, shape: tuple[int, ...]) -> None:
    if there != needed:
        beyond = "at least " * (there > needed)
        size = " x ".join(map(str, shape))
        raise CorruptFileError(
            str(path), f"{beyond}{there:,} bytes", f"{needed:,} bytes for {size} values", AGAIN
        )
