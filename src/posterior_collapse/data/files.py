"""Data files by suffix: arrays, tables of text, .parquet, tensors, .h5ad, folders of pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from posterior_collapse.arrays import as_samples, same_length
from posterior_collapse.data import checking
from posterior_collapse.data.annotated import read_annotated
from posterior_collapse.data.arrays import (
    as_labels,
    chosen,
    from_array,
    refuse_key,
)
from posterior_collapse.data.checking import check_file
from posterior_collapse.data.dataset import Dataset
from posterior_collapse.data.hdf5 import InHDF5
from posterior_collapse.data.images import read_folder
from posterior_collapse.data.numpy_files import Archive, mapped
from posterior_collapse.data.parquet import parts_of, read_parquet, read_parts
from posterior_collapse.data.reading import PLAIN, TABLE, TEXT, Reading
from posterior_collapse.data.saved import Saved
from posterior_collapse.data.sparse import is_stored_sparse, stored_sparse
from posterior_collapse.data.stored import StoredArrays
from posterior_collapse.data.table import read_csv
from posterior_collapse.data.tensors import PICKLES, Tensors, refuse_pickle
from posterior_collapse.errors import DataError, listed

__all__ = [
    "SUFFIXES",
    "TEXTS",
    "from_arrays",
    "read_arrays",
    "read_file",
    "suffix_of",
]


def read_file(path: Path, reading: Reading = PLAIN) -> Dataset:
    """Return the data of a file, as they are.

    Args:
        path: The file.
        reading: How it is to be read.

    Raises:
        MissingFileError: The file is not there.
        CorruptFileError: It is not what its suffix says.
        DataError: Its numbers cannot be used or take too much memory, or the suffix is unknown.
        InvalidArgumentError: What is asked for cannot be said of such a file, or is not in it.
        MissingDependencyError: The library that reads such files is not installed.
    """
    reader, takes = READERS.get(suffix_of(path), (None, ()))
    if os.path.isdir(path):
        if parts := parts_of(path):
            reading.only(TABLE)
            return read_parts(path, parts, reading)
        reading.only()
        return read_folder(path)
    check_file(path, "a data file, or a folder of pictures or of .parquet files")
    if path.suffix.lower() in PICKLES:
        refuse_pickle(path)
    if reader is None:
        raise DataError(
            str(path), f"the suffix '{path.suffix}'", f"one of {SUFFIXES}", "Convert the file."
        )
    reading.only(takes)
    return reader(path, reading)


def suffix_of(path: Path) -> str:
    """Return the suffix that says what a file holds, in small letters.

    Example:
        >>> suffix_of(Path("a.b.CSV")), suffix_of(Path("a.b.tsv.gz"))
        ('.csv', '.tsv.gz')
    """
    return "".join(path.suffixes[-2 if path.suffix.lower() == ".gz" else -1 :]).lower()


def read_arrays(path: Path, expected: str = "a file") -> Mapping[str, Any]:
    """Return the arrays of a file of several by name, as they are.

    Args:
        path: The file.
        expected: What may lie there, if nothing does.

    Raises:
        MissingFileError: The file is not there.
        CorruptFileError: It is no such file; later: an array is damaged or holds Python objects.
        DataError: It may run code when it is read.
        MissingDependencyError: The library that reads such files is not installed.
    """
    check_file(path, expected)
    suffix = suffix_of(path)
    if suffix in PICKLES:
        refuse_pickle(path)
    return ARCHIVES.get(suffix, Archive)(path)


def _read_npy(path: Path, reading: Reading) -> Dataset:
    return from_array(path.name, mapped(path), reading)


def _read_archive(path: Path, reading: Reading) -> Dataset:
    arrays = ARCHIVES[suffix_of(path)](path)
    if reading.key is None and is_stored_sparse(arrays):
        return _read_sparse(path, arrays, reading)
    return from_arrays(path.name, arrays, reading)


def _read_sparse(path: Path, arrays: Mapping[str, Any], reading: Reading) -> Dataset:
    with checking.reading(path, "a matrix that scipy.sparse.save_npz wrote", "Write it again."):
        kind = arrays["format"].astype("U").item()
        matrix = stored_sparse(path, kind, arrays["shape"], arrays)
    x, _ = as_samples(path.name, matrix)
    return chosen(Dataset(path.name, x), reading)


def from_arrays(name: str, arrays: Mapping[str, Any], reading: Reading = PLAIN) -> Dataset:
    """Return the data of a file of several arrays: the one that is meant, or x, y and labels.

    Raises:
        DataError: It is not clear which array is meant, or one cannot be used.
        InvalidArgumentError: None has the name that is asked for, or no column has one.
    """
    known, key = sorted(arrays), reading.key
    if key is not None and key not in arrays:
        refuse_key(key, f"an array of {name}", known)
    if key is None and "x" not in arrays and len(arrays) == 1:
        (key,) = known
    if key is None and "x" not in arrays:
        raise DataError(
            name,
            f"the arrays {listed(known)}",
            "x, and optionally y and labels",
            "Say which is meant: --key NAME, key=NAME." if known else "Write it again, with x.",
        )
    main = "x" if key is None else key
    x, image_shape = as_samples(f"{main} of {name}", arrays[main])
    y = labels = None
    if key is None and "y" in arrays:
        y, _ = as_samples(f"y of {name}", arrays["y"])
        same_length("x", len(x), f"y of {name}", len(y))
    if main == "x" and "labels" in arrays:
        labels = as_labels(f"labels of {name}", arrays["labels"], len(x))
    steps = (f"array {key!r} of {len(arrays)}",) if key is not None and len(arrays) > 1 else ()
    return chosen(Dataset(name, x, y, labels, image_shape, steps=steps), reading)


ARCHIVES: dict[str, type[StoredArrays]] = {
    ".npz": Archive,
    ".safetensors": Tensors,
    **dict.fromkeys((".pt", ".pth"), Saved),
    **dict.fromkeys((".h5", ".hdf5"), InHDF5),
}
"""Files of several arrays, by suffix."""
SEVERAL = ("key", *TABLE)
"""What may be said of a file of several arrays."""
TEXTS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
READERS: dict[str, tuple[Callable[[Path, Reading], Dataset], tuple[str, ...]]] = {
    ".npy": (_read_npy, TABLE),
    ".npz": (_read_archive, SEVERAL),
    **dict.fromkeys(TEXTS, (read_csv, TEXT)),
    ".parquet": (read_parquet, TABLE),
    **dict.fromkeys(ARCHIVES, (_read_archive, SEVERAL)),
    ".h5ad": (read_annotated, SEVERAL),
}
"""Reader of a file, and what may be said of how to read it, by suffix."""
SUFFIXES = ", ".join(READERS)
