"""A .parquet file, or a folder of them, as clusters write a long table: read where it is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.data import checking
from posterior_collapse.data.arrays import (
    as_numbers,
    from_columns,
    is_suspect,
    refuse_column,
    refuse_long,
)
from posterior_collapse.data.checking import check_size
from posterior_collapse.data.dataset import Dataset
from posterior_collapse.data.reading import Reading
from posterior_collapse.errors import DataError, PosteriorCollapseError, count_of, needing


def read_parquet(path: Path, reading: Reading) -> Dataset:
    """Return the columns of a .parquet file that are wanted."""
    how = "Install it with `pip install 'posterior-collapse[parquet]'`."
    with needing("pyarrow", "pyarrow, to read .parquet files", how):
        from pyarrow import parquet, types
    is_number = (types.is_integer, types.is_floating, types.is_boolean)
    with checking.reading(path, "a .parquet file", "Write it again."):
        schema = parquet.read_schema(path)
        reading.check(path.name, schema.names)
        label = None if reading.label_place(path.name, schema.names) is None else reading.label
        coded = None if label is None else [label]
        with parquet.ParquetFile(path, read_dictionary=coded) as file:
            wanted = {name for name in schema.names if name == label or reading.keeps(name)}
            # Columns that a data frame's index became: a range is told by a dict, and has none.
            index = [
                name
                for name in (schema.pandas_metadata or {}).get("index_columns", ())
                if isinstance(name, str) and name in wanted - {label, *reading.columns}
            ]
            names = [name for name in schema.names if name in wanted and name not in index]
            for name, kind in ((name, schema.field(name).type) for name in names):
                judged_later = name == label or (is_suspect(name) and not reading.columns)
                if not judged_later and not any(test(kind) for test in is_number):
                    refuse_column(path.name, name, str(kind))
            # As columns, and as the matrix that they become.
            check_size(path, 2 * file.metadata.num_rows * len(names) * 8)
            table = file.read(columns=names)
        columns = [(name, _values(path, name, table.column(i))) for i, name in enumerate(names)]
    return from_columns(path.name, columns, index, reading)


def _values(path: Path, name: str, column: Any) -> NDArray[Any]:
    """Return a column as an array; of texts, each is there once however often it occurs."""
    if not hasattr(column.type, "index_type"):
        values: NDArray[Any] = column.to_numpy()
        return as_numbers(values) if values.dtype.kind == "O" else values
    coded = column.unify_dictionaries().combine_chunks()
    known = np.array([None, *coded.dictionary.to_pylist()], dtype=object)
    longest = max((len(text) for text in known[1:] if isinstance(text, (str, bytes))), default=0)
    refuse_long(repr(name), path.name, longest)
    labels: NDArray[Any] = known[coded.indices.fill_null(-1).to_numpy() + 1]
    return labels


def parts_of(folder: Path) -> list[Path]:
    """Return the .parquet files in a folder and below, in the order of their names.

    Those whose name, or a folder's, begins with a dot or an underscore are no data, as for Spark.
    """
    found = (path.relative_to(folder) for path in folder.rglob("*.parquet"))
    kept = [path for path in found if not any(part[0] in "._" for part in path.parts)]
    return [folder / path for path in sorted(kept)]


def read_parts(folder: Path, paths: list[Path], reading: Reading) -> Dataset:
    """Return the rows of several files as one dask array, a block per file.

    Only what says how many rows and columns there are is read now, and the first file, to know
    which of its columns are features.
    """
    how = "Run pip install 'posterior-collapse[dask,parquet]'."
    with needing("dask", "dask, to read a folder of .parquet files", how):
        from dask import array
        from dask.delayed import delayed
    # Workers run in folders of their own, where a relative name is another file.
    paths = [path.resolve() for path in paths]
    first = read_parquet(paths[0], reading)
    heights = _heights(paths)
    # A column of whole numbers is read as floats in those files where a value is missing.
    kind = first.x.dtype if first.x.dtype.kind == "f" else np.dtype(np.float64)
    width = first.x.shape[1]
    make: Any = array
    blocks = [
        make.from_delayed(delayed(_block)(path, reading, width, kind), (rows, width), kind)
        for path, rows in zip(paths, heights, strict=True)
        if rows
    ]
    x: Any = make.concatenate(blocks) if blocks else first.x
    several = count_of(len(paths), "file")
    steps = [step for step in first.steps if step not in reading.labelled]  # they are left out
    return replace(first, name=folder.name, x=x, labels=None, steps=(several, *steps))


def _heights(paths: list[Path]) -> list[int]:
    """Return the number of rows of each file, all of which have the same columns."""
    from pyarrow import parquet

    heights, names = [], None
    for path in paths:
        with checking.reading(path, "a .parquet file", "Write it again."):
            found = parquet.read_metadata(path)
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


def _block(path: Path, reading: Reading, width: int, kind: np.dtype[Any]) -> NDArray[Any]:
    try:
        found = read_parquet(path, reading)
    except PosteriorCollapseError as error:
        where = error.argument
        if str(path) not in where:
            named = path.name in where
            where = where.replace(path.name, str(path)) if named else f"{where} of {path}"
        raise type(error)(where, error.got, error.expected, error.action) from error
    if found.x.shape[1] != width:
        raise DataError(
            str(path),
            f"{found.x.shape[1]} features",
            f"{width}, as in the first file",
            "Say which columns are features: columns='A,B'.",
        )
    return found.x.astype(kind, copy=False)
