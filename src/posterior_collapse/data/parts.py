"""A folder of .parquet files, as clusters write a long table: each is read where it is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.data.checking import unreadable
from posterior_collapse.data.dataset import Dataset
from posterior_collapse.data.reading import Reading
from posterior_collapse.errors import (
    DataError,
    MissingDependencyError,
    PosteriorCollapseError,
)

__all__ = ["parts_of", "read_parts"]

Read = Callable[[Path, Reading], Dataset]


def parts_of(folder: Path) -> list[Path]:
    """Return the .parquet files in a folder and below, in the order of their names.

    Those whose name, or a folder's, begins with a dot or an underscore are no data, as for Spark.
    """
    found = (path.relative_to(folder) for path in folder.rglob("*.parquet"))
    kept = [path for path in found if not any(part[0] in "._" for part in path.parts)]
    return [folder / path for path in sorted(kept)]


def read_parts(folder: Path, paths: list[Path], reading: Reading, read: Read) -> Dataset:
    """Return the rows of several files as one dask array, a block per file.

    Only what says how many rows and columns there are is read now, and the first file, to know
    which of its columns are features.

    Args:
        folder: Their folder.
        paths: The files.
        reading: How each is to be read.
        read: Reads one.

    Raises:
        CorruptFileError: A file is none of its kind.
        DataError: A file has other columns than the first one.
        MissingDependencyError: Dask or pyarrow is not installed.
    """
    try:
        from dask import array
        from dask.delayed import delayed
    except ImportError as error:
        raise MissingDependencyError(
            "dask", "no such library", "dask, to read a folder of .parquet files",
            "Run pip install 'posterior-collapse[dask,parquet]'.",
        ) from error  # fmt: skip
    # Workers run in folders of their own, where a relative name is another file.
    paths = [path.resolve() for path in paths]
    first = read(paths[0], reading)
    heights = _heights(paths)
    # A column of whole numbers is read as floats in those files where a value is missing.
    kind = first.x.dtype if first.x.dtype.kind == "f" else np.dtype(np.float64)
    width = first.x.shape[1]
    make: Any = array
    blocks = [
        make.from_delayed(delayed(_block)(read, path, reading, width, kind), (rows, width), kind)
        for path, rows in zip(paths, heights, strict=True)
        if rows
    ]
    x: Any = make.concatenate(blocks) if blocks else first.x
    several = f"{len(paths):,} files"
    return replace(first, name=folder.name, x=x, labels=None, steps=(several, *first.steps))


def _heights(paths: list[Path]) -> list[int]:
    """Return the number of rows of each file, all of which have the same columns."""
    from pyarrow import parquet

    heights, names = [], None
    for path in paths:
        try:
            found = parquet.read_metadata(path)
        except Exception as error:  # whatever a reader trips over in a damaged file
            raise unreadable(path, error, "a .parquet file", "Write it again.") from error
        columns = [column.name for column in found.schema.to_arrow_schema()]
        names = columns if names is None else names
        if columns != names:
            other = next(iter(set(columns) ^ set(names)), "another order")
            raise DataError(
                str(path),
                f"other columns than {paths[0].name} ({other})",
                "the same in all files of a folder",
                "Write them with the same columns, or pass one file.",
            )
        heights.append(found.num_rows)
    return heights


def _block(
    read: Read, path: Path, reading: Reading, width: int, kind: np.dtype[Any]
) -> NDArray[Any]:
    try:
        found = read(path, reading)
    except PosteriorCollapseError as error:
        if str(path) in error.argument:
            raise
        raise type(error)(
            f"{error.argument} of {path}", error.got, error.expected, error.action
        ) from error
    if found.x.shape[1] != width:
        raise DataError(
            str(path),
            f"{found.x.shape[1]} features",
            f"{width}, as in the first file",
            "Say which columns are features: --columns, columns=.",
        )
    return found.x.astype(kind, copy=False)
