"""Data files by suffix: .npy, .npz, .csv, .parquet."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.data import sniff
from posterior_collapse.data.arrays import (
    as_labels,
    as_samples,
    from_array,
    from_columns,
    same_length,
)
from posterior_collapse.data.dataset import Dataset
from posterior_collapse.data.table import read_csv
from posterior_collapse.errors import CorruptFileError, DataError, MissingDependencyError

__all__ = ["SUFFIXES", "read_arrays", "read_file"]


def read_file(path: Path) -> Dataset:
    """Return the data of a file, as they are.

    Raises:
        MissingFileError: The file is not there.
        CorruptFileError: It is not what its suffix says.
        DataError: Its numbers cannot be used, or the suffix is unknown.
        MissingDependencyError: A .parquet file, and pyarrow is not installed.
    """
    reader = READERS.get(path.suffix.lower())
    if path.is_dir():
        raise DataError(str(path), "a folder", f"a file, {SUFFIXES}", "Name the file in it.")
    if reader is None:
        raise DataError(
            str(path), f"the suffix '{path.suffix}'", f"one of {SUFFIXES}", "Convert the file."
        )
    sniff.check(path)
    return reader(path)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file by name, as they are.

    Raises:
        MissingFileError: The file is not there.
        CorruptFileError: It is no .npz file, or holds Python objects.
    """
    sniff.check(path)
    if not zipfile.is_zipfile(path):
        raise CorruptFileError(
            str(path),
            "no .npz archive, or a truncated one",
            "an .npz file of numbers",
            "Write it with numpy.savez(path, name=...).",
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error


def _read_npy(path: Path) -> Dataset:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise _unreadable(path, error) from error
    return from_array(path.name, array)


def _unreadable(path: Path, error: Exception) -> CorruptFileError:
    reason = str(error).splitlines()[0]
    if "object" in reason.lower() or "pickle" in reason.lower():
        reason = "Python objects (a pickle), which are never loaded"
    return CorruptFileError(
        str(path), reason, f"a {path.suffix} file of numbers", "Write it again with NumPy."
    )


def _read_npz(path: Path) -> Dataset:
    arrays = read_arrays(path)
    if "x" not in arrays and len(arrays) == 1:
        return from_array(path.name, next(iter(arrays.values())))
    if "x" not in arrays:
        raise DataError(
            path.name,
            f"the arrays {sorted(arrays)}",
            "x, and optionally y and labels",
            "Write it with numpy.savez(path, x=...).",
        )
    x, image_shape = as_samples(f"x of {path.name}", arrays["x"])
    y = labels = None
    if "y" in arrays:
        y, _ = as_samples(f"y of {path.name}", arrays["y"])
        same_length("x", len(x), f"y of {path.name}", len(y))
    if "labels" in arrays:
        labels = as_labels(f"labels of {path.name}", arrays["labels"], len(x))
    return Dataset(path.name, x, y, labels, image_shape)


def _read_parquet(path: Path) -> Dataset:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependencyError(
            "pyarrow",
            "no such package",
            "pyarrow, to read .parquet files",
            "Install it with `pip install 'posterior-collapse[parquet]'`.",
        ) from error
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise CorruptFileError(
            str(path), f"'{str(error).splitlines()[0]}'", "a .parquet file", "Write it again."
        ) from error
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    return from_columns(path.name, columns)


READERS: dict[str, Callable[[Path], Dataset]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": read_csv,
    ".parquet": _read_parquet,
}
SUFFIXES = ", ".join(READERS)
