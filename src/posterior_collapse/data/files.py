"""Data files by suffix: arrays, tables of text, .parquet, tensors, .h5ad, folders of pictures."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.data.annotated import read_annotated
from posterior_collapse.data.arrays import (
    LONGEST,
    as_labels,
    as_samples,
    chosen,
    from_array,
    from_columns,
    is_suspect,
    refuse_column,
    refuse_key,
    same_length,
)
from posterior_collapse.data.checking import check_file, check_size, unreadable
from posterior_collapse.data.dataset import Dataset
from posterior_collapse.data.hdf5 import Stored
from posterior_collapse.data.images import read_folder
from posterior_collapse.data.parts import parts_of, read_parts
from posterior_collapse.data.reading import PLAIN, TABLE, TEXT, Reading
from posterior_collapse.data.saved import Saved
from posterior_collapse.data.sparse import is_stored_sparse, stored_sparse
from posterior_collapse.data.table import read_csv
from posterior_collapse.data.tensors import PICKLES, Tensors, refuse_pickle
from posterior_collapse.errors import (
    CorruptFileError,
    DataError,
    MissingDependencyError,
    PosteriorCollapseError,
    first_line,
    listed,
)

__all__ = [
    "SUFFIXES",
    "TEXTS",
    "Arrays",
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
            return read_parts(path, parts, reading, _read_parquet)
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


class Arrays(Mapping[str, NDArray[Any]]):
    """The arrays of an .npz file by name, each read and checked when it is asked for.

    Args:
        path: The file.

    Raises:
        CorruptFileError: It is no .npz file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if not zipfile.is_zipfile(path):
            raise CorruptFileError(
                str(path),
                "no .npz archive, or a truncated one",
                "an .npz file of numbers",
                "Write it with numpy.savez(path, name=...).",
            )
        with self._opened() as archive:
            members = [info.filename for info in archive.infolist()]
        self._members = {m.removesuffix(".npy"): m for m in members if m.endswith(".npy")}

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return an array.

        Raises:
            CorruptFileError: It is damaged, encrypted, or holds Python objects.
            DataError: It takes too much memory.
        """
        member = self._members[name]
        try:
            with self._opened() as archive, archive.open(member) as stream:
                size = archive.getinfo(member).file_size
                check_size(self._path, _declared(self._path, stream, size))
            with self._opened() as archive, archive.open(member) as stream:
                array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
                stream.read(1)  # at the end of a member its checksum is compared
                return array
        except PosteriorCollapseError:
            raise
        except Exception as error:  # whatever a reader trips over in a damaged file
            raise _unreadable(self._path, error) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def _opened(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self._path)
        except Exception as error:
            raise _unreadable(self._path, error) from error


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
    if suffix == ".safetensors":
        return Tensors(path)
    if suffix in TORCH:
        return Saved(path)
    return Stored(path) if suffix in HDF5 else Arrays(path)


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


def _read_npy(path: Path, reading: Reading) -> Dataset:
    try:
        with path.open("rb") as stream:
            _declared(path, stream, path.stat().st_size)
        array = np.lib.format.open_memmap(path, mode="r")
    except PosteriorCollapseError:
        raise
    except Exception as error:  # whatever a reader trips over in a damaged file
        raise _unreadable(path, error) from error
    return from_array(path.name, array, reading)


def _unreadable(path: Path, error: Exception) -> CorruptFileError:
    reason = _reason(error)
    if "object" in reason.lower() or "pickle" in reason.lower():
        reason = "Python objects (a pickle), which are never loaded"
    return CorruptFileError(
        str(path), reason, f"a {path.suffix} file of numbers", "Write it again with NumPy."
    )


def _reason(error: Exception) -> str:
    """The first line of what a reader says, if it says it in words."""
    if isinstance(error, (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile)):
        return first_line(error) or type(error).__name__
    return f"a damaged file ({type(error).__name__})"


def _read_npz(path: Path, reading: Reading) -> Dataset:
    arrays = Arrays(path)
    if reading.key is not None or not is_stored_sparse(arrays):
        return from_arrays(path.name, arrays, reading)
    try:
        kind = arrays["format"].astype("U").item()
        matrix = stored_sparse(path, kind, arrays["shape"], arrays)
    except PosteriorCollapseError:
        raise
    except Exception as error:  # whatever a reader trips over in a damaged file
        expected = "a matrix that scipy.sparse.save_npz wrote"
        raise unreadable(path, error, expected, "Write it again.") from error
    x, _ = as_samples(path.name, matrix)
    return chosen(Dataset(path.name, x), reading)


def _read_safetensors(path: Path, reading: Reading) -> Dataset:
    return from_arrays(path.name, Tensors(path), reading)


def _read_hdf5(path: Path, reading: Reading) -> Dataset:
    return from_arrays(path.name, Stored(path), reading)


def _read_saved(path: Path, reading: Reading) -> Dataset:
    return from_arrays(path.name, Saved(path), reading)


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


def _read_parquet(path: Path, reading: Reading) -> Dataset:
    try:
        from pyarrow import parquet, types
    except ImportError as error:
        raise MissingDependencyError(
            "pyarrow",
            "no such package",
            "pyarrow, to read .parquet files",
            "Install it with `pip install 'posterior-collapse[parquet]'`.",
        ) from error
    is_number = (types.is_integer, types.is_floating, types.is_boolean)
    try:
        schema = parquet.read_schema(path)
        reading.check(path.name, schema.names)
        label = reading.label if reading.has_label(schema.names) else None
        coded = None if label is None else [label]
        with parquet.ParquetFile(path, read_dictionary=coded) as file:
            index = _pandas_index(schema.pandas_metadata or {})
            wanted = {name for name in schema.names if name == label or reading.keeps(name)}
            index = [n for n in index if n in wanted and n != label and n not in reading.columns]
            names = [name for name in schema.names if name in wanted and name not in index]
            for name, kind in ((name, schema.field(name).type) for name in names):
                judged_later = name == label or (is_suspect(name) and not reading.columns)
                if not judged_later and not any(test(kind) for test in is_number):
                    refuse_column(path.name, name, str(kind))
            # As columns, and as the matrix that they become.
            check_size(path, 2 * file.metadata.num_rows * len(names) * 8)
            table = file.read(columns=names)
        columns = [(name, _values(path, name, table.column(i))) for i, name in enumerate(names)]
    except PosteriorCollapseError:
        raise
    except Exception as error:  # whatever a reader trips over in a damaged file
        raise CorruptFileError(
            str(path), f"'{_reason(error)}'", "a .parquet file", "Write it again."
        ) from error
    return from_columns(path.name, columns, index, reading)


def _values(path: Path, name: str, column: Any) -> NDArray[Any]:
    """Return a column as an array; of texts, each is there once however often it occurs.

    Raises:
        DataError: A text is too long to be a label.
    """
    if not hasattr(column.type, "index_type"):
        values: NDArray[Any] = column.to_numpy()
        return values
    coded = column.unify_dictionaries().combine_chunks()
    known = np.array([None, *coded.dictionary.to_pylist()], dtype=object)
    longest = max((len(text) for text in known[1:] if isinstance(text, (str, bytes))), default=0)
    if longest > LONGEST:
        raise DataError(
            f"column {name!r} of {path.name}",
            f"a text of {longest:,} characters",
            f"at most {LONGEST:,}",
            "Remove or shorten it.",
        )
    labels: NDArray[Any] = known[coded.indices.fill_null(-1).to_numpy() + 1]
    return labels


def _pandas_index(metadata: Mapping[str, Any]) -> list[str]:
    """Names of the columns that a data frame's index became; a range becomes none."""
    return [name for name in metadata.get("index_columns", ()) if isinstance(name, str)]


TORCH, HDF5 = (".pt", ".pth"), (".h5", ".hdf5")
SEVERAL = ("key", *TABLE)
"""What may be said of a file of several arrays."""
TEXTS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
READERS: dict[str, tuple[Callable[[Path, Reading], Dataset], tuple[str, ...]]] = {
    ".npy": (_read_npy, TABLE),
    ".npz": (_read_npz, SEVERAL),
    **dict.fromkeys(TEXTS, (read_csv, TEXT)),
    ".parquet": (_read_parquet, TABLE),
    ".safetensors": (_read_safetensors, SEVERAL),
    **dict.fromkeys(TORCH, (_read_saved, SEVERAL)),
    **dict.fromkeys(HDF5, (_read_hdf5, SEVERAL)),
    ".h5ad": (read_annotated, SEVERAL),
}
"""Reader of a file, and what may be said of how to read it, by suffix."""
SUFFIXES = ", ".join(READERS)
MOST_DIMENSIONS = 32
"""More than any data have, and than older versions of NumPy can hold."""
