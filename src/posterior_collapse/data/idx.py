"""The IDX format of the MNIST files (http://yann.lecun.com/exdb/mnist), plain or gzipped."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.data import sniff
from posterior_collapse.errors import CorruptFileError

__all__ = ["read_idx"]

DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
AGAIN = "Download it again."


def read_idx(path: Path) -> NDArray[Any]:
    """Return the array of an IDX file, in the machine's byte order.

    The header is two zero bytes, one for the type, one for the number of dimensions, and each
    dimension as a big-endian 32-bit number; the values follow, last dimension fastest.

    Raises:
        MissingFileError: The file is not there.
        CorruptFileError: A web page, a truncated gzip, a wrong magic number, or a length that
            does not match the header.
    """
    content = _content(path)
    dtype, shape, offset = _header(path, content)
    expected = offset + dtype.itemsize * math.prod(shape)
    if len(content) != expected:
        size = " x ".join(map(str, shape))
        raise CorruptFileError(
            str(path), f"{len(content):,} bytes", f"{expected:,} bytes for {size} values", AGAIN
        )
    values = np.frombuffer(content, dtype, offset=offset).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)


def _content(path: Path) -> bytes:
    head = sniff.check(path)
    if not head.startswith(b"\x1f\x8b"):
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except EOFError as error:
        raise CorruptFileError(
            str(path), "a truncated gzip file", "a complete one", AGAIN
        ) from error
    except (OSError, zlib.error) as error:
        raise CorruptFileError(
            str(path), f"a damaged gzip file ({error})", "an intact one", AGAIN
        ) from error


def _header(path: Path, content: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    magic = content[:4]
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES:
        raise CorruptFileError(
            str(path),
            f"the magic number 0x{magic.hex()}",
            "an IDX file, which begins with 0x0000, a type and a number of dimensions",
            "Check that it is an IDX file.",
        )
    offset = 4 + 4 * magic[3]
    if len(content) < offset:
        raise CorruptFileError(str(path), "a truncated header", f"{offset} bytes of it", AGAIN)
    return np.dtype(DTYPES[magic[2]]), struct.unpack_from(f">{magic[3]}I", content, 4), offset
