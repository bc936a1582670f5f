"""Images in files: IDX, in which the named sets are published, and a folder of pictures."""

from __future__ import annotations

import contextlib
import math
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.data.checking import check_file, check_size, opened, reading
from posterior_collapse.data.dataset import Dataset
from posterior_collapse.errors import CorruptFileError, DataError, count_of, needing

DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
AGAIN = "Download it again."
MOST_IDX_DIMENSIONS = 8


def read_idx(path: Path) -> NDArray[Any]:
    """Return the array of an IDX file, in the machine's byte order.

    The header is two zero bytes, one for the type, one for the number of dimensions, and each
    dimension as a big-endian 32-bit number; the values follow, last dimension fastest. No more is
    unpacked than the header announces.
    """
    head = check_file(path)
    zipped = head.startswith(b"\x1f\x8b")
    with (
        reading(path, "an intact file", AGAIN),
        opened(path, zipped=zipped) as stream,
    ):
        dtype, shape, offset = _idx_header(path, stream)
        needed = dtype.itemsize * math.prod(shape)
        if zipped:
            check_size(path, needed)
        else:
            _check_length(path, path.stat().st_size, offset + needed, shape)
        content = stream.read(needed)
        there = offset + len(content) + len(stream.read(1))
        _check_length(path, there, offset + needed, shape)
    values = np.frombuffer(content, dtype).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)


def _idx_header(path: Path, stream: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...], int]:
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


PICTURES = (".png", ".jpg", ".jpeg")
GREY = {"1": "L", "L": "L", "LA": "L", "I;16": "I;16", "I;16B": "I;16", "I": "I"}
"""Pillow's names of pictures of one channel, and what they are read as; others are read as RGB."""
DEPTHS = {"L": "8 bits", "RGB": "8 bits", "I;16": "16 bits", "I": "32 bits"}


def read_folder(folder: Path) -> Dataset:
    """Return the pictures of a folder in the order of their names, pixels as they are.

    Grey ones have shape (height, width), coloured ones (3, height, width); transparency is left
    out. Where the pictures lie in folders of the folder, the names of these are the labels. All
    must be of one size and depth.
    """
    paths, looked_at = _pictures(folder), [folder]
    labels = None
    if not paths:
        looked_at = _folders(folder)
        found = [(path, one.name) for one in looked_at for path in _pictures(one)]
        paths, labels = [path for path, _ in found], np.array([name for _, name in found])
    if not paths:
        raise DataError(
            str(folder),
            "a folder without pictures",
            "a file, or a folder of .png or .jpg images",
            "Name the file in it.",
        )
    (width, height), kind, transparent = _in_common(paths)
    shape = (3, height, width) if kind == "RGB" else (height, width)
    dtype = np.dtype({"I;16": "u2", "I": "i4"}.get(kind, "u1"))
    packed = sum(path.stat().st_size for path in paths)
    check_size(folder, len(paths) * int(np.prod(shape)) * dtype.itemsize, packed)
    x = np.empty((len(paths), *shape), dtype)
    for i, path in enumerate(paths):
        with _opened(path) as image:
            pixels = np.asarray(image if image.mode == kind else image.convert(kind))
        x[i] = np.moveaxis(pixels, -1, 0) if kind == "RGB" else pixels
    steps = [f"{count_of(len(paths), 'picture')} of {width} x {height} pixels"]
    if kind == "RGB":
        steps[0] += " in colour"
        if all(bool((one == one[:1]).all()) for one in x):
            steps.append("all three channels alike, as of grey pictures saved in colour")
    with contextlib.suppress(OSError):  # of a folder that may not be read nothing is said
        below = (one for inner in looked_at for one in _folders(inner) if one not in looked_at)
        if any(map(_pictures, below)):
            steps.append("pictures in folders below left out")
    if transparent:
        steps.append("transparency left out")
    if labels is not None:
        steps.append("labels from the names of the folders")
    return Dataset(
        folder.resolve().name,
        x.reshape(len(x), -1),
        labels=labels,
        image_shape=shape,
        steps=tuple(steps),
    )


def _in_common(paths: Sequence[Path]) -> tuple[tuple[int, int], str, bool]:
    """Return the pictures' size, what all are read as, and whether any is transparent.

    Raises:
        DataError: A picture of another size or depth than the first.
    """
    sizes, kinds, transparent = [], [], False
    for path in paths:
        check_file(path)
        with _opened(path) as image:
            sizes.append(image.size)
            kinds.append(_kind(image))
            transparent |= "a" in image.mode.lower()
        if sizes[-1] != sizes[0]:
            raise DataError(
                str(path),
                "{} x {} pixels".format(*sizes[-1]),
                "{} x {}, as {} has".format(*sizes[0], paths[0].name),
                "Resize or crop the pictures to one size.",
            )
        if DEPTHS[kinds[-1]] != DEPTHS[kinds[0]]:
            raise DataError(
                str(path),
                f"pixels of {DEPTHS[kinds[-1]]}",
                f"{DEPTHS[kinds[0]]}, as {paths[0].name} has",
                "Save the pictures with one depth.",
            )
    return sizes[0], kinds[0] if len(set(kinds)) == 1 else "RGB", transparent


def _kind(image: Any) -> str:
    """Return as what a picture is read; numbered colours may be shades of grey only."""
    if image.mode != "P":
        return GREY.get(image.mode, "RGB")
    colours = np.reshape(image.getpalette("RGB"), (-1, 3))
    return "L" if (colours == colours[:, :1]).all() else "RGB"


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _pictures(folder: Path) -> Sequence[Path]:
    return [
        folder / name
        for name in sorted(os.listdir(folder))
        if name.lower().endswith(PICTURES) and not name.startswith(".")
    ]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a picture, of which the header alone is read until its pixels are asked for."""
    with needing("Pillow", "Pillow, to read pictures", "Run pip install pillow."):
        from PIL import Image
    with (
        reading(path, "a picture, .png or .jpg", "Write it again, or take it away."),
        Image.open(path, formats=("PNG", "JPEG")) as image,
    ):
        yield image
