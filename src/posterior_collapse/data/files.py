"""Data files by suffix: arrays, tables of text, .parquet, tensors, .h5ad, folders of pictures.

Also which of a file's arrays are the numbers of a posterior, by the names people give them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.arrays import as_samples, same_length
from posterior_collapse.data import checking
from posterior_collapse.data.arrays import (
    annotated,
    annotation,
    as_labels,
    chosen,
    from_array,
    layer,
    refuse_key,
)
from posterior_collapse.data.checking import check_file
from posterior_collapse.data.dataset import Dataset
from posterior_collapse.data.images import read_folder
from posterior_collapse.data.parquet import parts_of, read_parquet, read_parts
from posterior_collapse.data.reading import PLAIN, TABLE, TEXT, Reading
from posterior_collapse.data.saved import Saved
from posterior_collapse.data.stored import (
    PICKLES,
    Archive,
    InHDF5,
    StoredArrays,
    Tensors,
    mapped,
    read_stored,
    refuse_pickle,
    require_h5py,
    stored_sparse,
)
from posterior_collapse.data.table import read_csv
from posterior_collapse.errors import DataError, listed, nearest


def read_file(path: Path, reading: Reading = PLAIN) -> Dataset:
    """Return the data of a file, as they are; see `load` for what is refused."""
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
        write = "numpy.save('x.npy', x)"
        if ".mtx" in path.suffixes:
            write = "scipy.sparse.save_npz('x.npz', x), where x is scipy.io.mmread(path)"
        raise DataError(
            str(path),
            f"the suffix '{path.suffix}'",
            f"one of {SUFFIXES}",
            f"Read it in Python, and write its numbers by {write}. Rows are samples.",
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
    """Return the arrays of a file of several by name, as they are; each is checked when it is read.

    If nothing lies there, it is said what was expected.
    """
    check_file(path, expected)
    suffix = suffix_of(path)
    if suffix in PICKLES:
        refuse_pickle(path)
    return ARCHIVES.get(suffix, Archive)(path)


def _read_archive(path: Path, reading: Reading) -> Dataset:
    arrays = ARCHIVES[suffix_of(path)](path)
    of_scipy = {"format", "shape", "data"} <= arrays.keys() and "x" not in arrays
    if reading.key is not None or not of_scipy:
        return from_arrays(path.name, arrays, reading)
    with checking.reading(path, "a matrix that scipy.sparse.save_npz wrote", "Write it again."):
        kind = arrays["format"].astype("U").item()
        matrix = stored_sparse(path, kind, arrays["shape"], arrays)
    x, _ = as_samples(path.name, matrix)
    return chosen(Dataset(path.name, x), reading)


def from_arrays(name: str, arrays: Mapping[str, Any], reading: Reading = PLAIN) -> Dataset:
    """Return the data of a file of several arrays: the one that is meant, or x, y and labels."""
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
            "Say which is meant: key='NAME'." if known else "Write it again, with x.",
        )
    main = "x" if key is None else key
    x, image_shape = as_samples(f"{main} of {name}", arrays[main])
    y = labels = None
    if key is None and "y" in arrays:
        y = arrays["y"]
        if "labels" not in arrays and np.ndim(y) == 1:  # one per row, as everywhere
            y, labels = None, as_labels(f"y of {name}", y, len(x))
        else:
            y, _ = as_samples(f"y of {name}", y)
            same_length("x", len(x), f"y of {name}", len(y))
    if main == "x" and "labels" in arrays:
        labels = as_labels(f"labels of {name}", arrays["labels"], len(x))
    steps = (f"array {key!r} of {len(arrays)}",) if key is not None and len(arrays) > 1 else ()
    return chosen(Dataset(name, x, y, labels, image_shape, steps=steps), reading)


def _read_annotated(path: Path, reading: Reading) -> Dataset:
    """Return the matrix of an .h5ad file, X or a layer, which stays sparse if it is."""
    h5py = require_h5py()
    with (
        checking.reading(path, "an .h5ad file", "Write it again with AnnData."),
        h5py.File(path, "r") as file,
    ):
        key, obs = reading.key, file["obs"]
        stored = file["X"] if key is None else layer(path.name, file.get("layers", {}), key)
        x, _ = as_samples(path.name, _matrix(path, stored))
        columns = list(obs.dtype.names or ()) if hasattr(obs, "dtype") else list(obs)
        column = annotation(path.name, obs, columns, reading)
        labels = None if column is None else _labels(path, column)
        names = tuple(_features(path, file["var"])) if "var" in file else None
        if names is not None and len(names) != x.shape[1]:
            raise ValueError(f"{x.shape[1]} columns and {len(names)} names")
        return annotated(Dataset(path.name, x, names=names), labels, reading)


def _matrix(path: Path, stored: Any) -> Any:
    if not hasattr(stored, "keys"):
        return read_stored(path, stored)
    attributes = dict(stored.attrs)
    kind = str(attributes.get("encoding-type", attributes.get("h5sparse_format")))
    shape = attributes.get("shape", attributes.get("h5sparse_shape"))
    return stored_sparse(path, kind[:3], shape, stored)


def _features(path: Path, var: Any) -> list[str]:
    """Return the names of the columns of X, as older and newer files hold them."""
    older = hasattr(var, "dtype")
    index = var.dtype.names[0] if older else var.attrs.get("_index", "_index")
    return [str(name) for name in _labels(path, var[index])]


def _labels(path: Path, stored: Any) -> NDArray[Any]:
    if hasattr(stored, "keys") and "mask" in stored:  # numbers or texts, some of which may lack
        found, lacking = _labels(path, stored["values"]), read_stored(path, stored["mask"])
        if lacking.any():
            found = found.astype(object)
            found[lacking] = None
        return found
    if hasattr(stored, "keys"):  # a category: its names, and a number for each row
        names, codes = _labels(path, stored["categories"]), _labels(path, stored["codes"])
        named: NDArray[Any] = np.array([*names.astype(object), None], dtype=object)[codes]
        return named
    values = read_stored(path, stored)
    if values.dtype.kind in "OS":
        values = np.array([v.decode() if isinstance(v, bytes) else v for v in values], object)
    return np.asarray(values)


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
    ".npy": (lambda path, reading: from_array(path.name, mapped(path), reading), TABLE),
    ".npz": (_read_archive, SEVERAL),
    **dict.fromkeys(TEXTS, (read_csv, TEXT)),
    ".parquet": (read_parquet, TABLE),
    **dict.fromkeys(ARCHIVES, (_read_archive, SEVERAL)),
    ".h5ad": (_read_annotated, SEVERAL),
}
"""Reader of a file, and what may be said of how to read it, by suffix."""
SUFFIXES = ", ".join(READERS)

ARRAYS = ("mean", "std", "log_var", "prior_mean", "prior_std", "data")
SPREADS = ("std", "log_var", "variance")
SYNONYMS = {
    **dict.fromkeys(
        ("mu", "mus", "loc", "means", "z_mean", "z_mu", "mean_z", "mu_z", "q_mean", "qz_mean"),
        "mean",
    ),
    **dict.fromkeys(("z_std", "stds", "q_std"), "std"),
    **dict.fromkeys(("var", "variance", "z_var", "q_var", "qz_var"), "variance"),
    **dict.fromkeys(
        ("logvar", "logvars", "log_variance", "z_log_var", "z_logvar", "logvar_z", "q_logvar"),
        "log_var",
    ),
}
"""What else the arrays of a posterior are called, where the name says which they are."""
OF_PRIOR = {
    **dict.fromkeys(("prior_log_var", "prior_logvar", "pz_log_var", "pz_logvar"), "log_var"),
    **dict.fromkeys(("prior_var", "prior_variance", "pz_var"), "variance"),
}
"""What the spread of a prior may be given by instead of `prior_std`."""
UNCLEAR = {
    **dict.fromkeys(("sigma", "scale"), "std, if it is no variance"),
    **dict.fromkeys(("x", "inputs"), "data"),
}
"""Names that may mean something else, which are not taken."""


def read_posterior(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the arrays of a file by the names of `ARRAYS`, and what they are called in it."""
    found = read_arrays(path, "the folder of a run or a sweep, or a file with mean and std")
    called = {name: name for name in ARRAYS if name in found}
    groups = [group for group in (("mean",), SPREADS) if not called.keys() & set(group)]
    for name in found:
        meant = SYNONYMS.get(name.lower(), "")
        if any(meant in group for group in groups):
            if meant in called:
                raise DataError(
                    str(path), f"{called[meant]} and {name}", f"one {meant}", "Leave one out."
                )
            called[meant] = name
    for name in found:
        if name.lower() in OF_PRIOR:
            if "prior_std" in called:
                got = f"{called['prior_std']} and {name}"
                raise DataError(str(path), got, "one spread of the prior", "Leave one out.")
            called["prior_std"] = name
    spreads = [name for name in SPREADS if name in called]
    if "mean" not in called or len(spreads) != 1:
        raise DataError(
            str(path),
            f"the arrays {listed(sorted(found))}",
            "mean, and one of std and log_var (or var)",
            _how_to_mend(list(found)),
        )
    arrays = {name: found[own] for name, own in called.items()}
    if "variance" in arrays:
        arrays["std"] = _std(path, called["variance"], "variance", arrays.pop("variance"))
    if of := OF_PRIOR.get(called.get("prior_std", "").lower()):
        arrays["prior_std"] = _std(path, called["prior_std"], of, arrays["prior_std"])
    own_names = {name: called[name] for name in (*ARRAYS, "variance") if name in called}
    return {name: arrays[name] for name in ARRAYS if name in arrays}, own_names


def _how_to_mend(names: list[str]) -> str:
    if any(name.rpartition(".")[2] in ("weight", "bias") for name in names):
        return "These are a model's weights: build it, and call pc.diagnose(model, data)."
    unclear = [f"{name} to {UNCLEAR[name]}" for name in names if name in UNCLEAR]
    hint = f" Rename {', '.join(unclear)}." if unclear else ""
    others = [name for name in names if name not in (*ARRAYS, *SYNONYMS, *UNCLEAR)]
    hint += "".join(nearest(name, ARRAYS) for name in others)
    return f"Write it with numpy.savez(path, mean=..., std=...).{hint}"


def _std(path: Path, name: str, of: str, values: Any) -> Any:
    """Return the std of a variance or a log-variance, or refuse what is neither."""
    what = f"{of.replace('_var', '-variance')}s"
    if values.dtype.kind not in "biuf":
        raise DataError(f"{name} of {path}", f"dtype {values.dtype}", what, "Write numbers.")
    if of == "log_var":
        with np.errstate(over="ignore"):  # infinity is refused later, by its place
            return np.exp(0.5 * values)
    if (values < 0).any():
        action = "A log-variance is log_var."
        raise DataError(f"{name} of {path}", "negative values", what, action)
    return np.sqrt(values)
