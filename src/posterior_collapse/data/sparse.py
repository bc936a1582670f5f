"""Sparse matrices in files: their arrays become the matrix again, once they are known to fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posterior_collapse.data.checking import check_size

__all__ = ["PARTS", "is_stored_sparse", "stored_sparse"]

COMPRESSED = ("data", "indices", "indptr")
PARTS = {
    **dict.fromkeys(("csr", "csc", "bsr"), COMPRESSED),
    "coo": ("data", "row", "col"),
    "dia": ("data", "offsets"),
}
"""The arrays of each kind of matrix, by the names that scipy.sparse.save_npz gives them."""


def is_stored_sparse(arrays: Mapping[str, Any]) -> bool:
    """Say whether arrays of a file are those that scipy.sparse.save_npz writes."""
    return {"format", "shape", "data"} <= arrays.keys() and "x" not in arrays


def stored_sparse(path: Path, kind: str, shape: Any, arrays: Mapping[str, Any]) -> Any:
    """Return a matrix of scipy.sparse.

    Args:
        path: The file, for errors.
        kind: Such as "csr".
        shape: Of the matrix, two whole numbers.
        arrays: Of numbers or of h5py, by the names of `PARTS`; read once their size is known.

    Raises:
        ValueError: They are no such matrix.
        DataError: They take too much memory.
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
