"""The one door of this room."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from posterior_collapse import checks
from posterior_collapse.arrays import chunks, is_lazy, same_length
from posterior_collapse.data.arrays import from_array
from posterior_collapse.data.dataset import TASKS, Dataset
from posterior_collapse.data.files import READERS, TEXTS, read_file, suffix_of
from posterior_collapse.data.published import Folder, expanded
from posterior_collapse.data.reading import Reading
from posterior_collapse.data.registry import DIVISORS, absolute, canonical, from_registry, unknown
from posterior_collapse.errors import DataError, InvalidArgumentError


def load(
    source: Any,
    *,
    split: str = "train",
    data_dir: str | os.PathLike[str] | None = None,
    task: str | None = None,
    given: Any = None,
    label: object = None,
    scale: float | None = None,
    header: bool | None = None,
    columns: str | Sequence[Any] | None = None,
    drop: str | Sequence[Any] | None = None,
    label_column: object = None,
    key: str | None = None,
    standardize: bool = False,
    progress: bool = False,
) -> Dataset:
    """Turn a name, a file or an array into samples in rows.

    Numbers are used as they are (uint8 stays uint8, a .npy file stays on disk), but for the
    named image sets, whose pixels are divided by their largest value. `Dataset.note` says so.

    Args:
        source: ``"digits"``, ``"mnist"``, ``"fashion-mnist"``, ``"pairs:KIND"`` (see `pairs`);
            a .npy, .npz, .safetensors, .pt, .h5, .parquet, .h5ad, .csv or .tsv file (the last two
            perhaps gzipped; of a .pt file tensors alone are read, by torch; a .npz file may
            also hold the matrix that `scipy.sparse.save_npz` wrote); a folder of .png
            or .jpg pictures of one size, or of .parquet files, which become one dask array; an
            array, a data frame, an AnnData or a `Dataset`. Images of shape (samples, height,
            width) are flattened row by row.
        split: ``"train"`` or ``"test"``, for the data sets that have them.
        data_dir: Folder to look in before ``$POSTERIOR_COLLAPSE_DATA`` and the user's cache.
        task: ``"quarter"`` or ``"half"``: cut images into a condition x and a target y.
        given: The condition x, of any kind that ``source`` may be; ``source`` is then the
            target y.
        label: Keep the samples of one class only.
        scale: Multiply every number that is read, of ``source`` and ``given``, by this instead.
        header: Whether the first row of a .csv or .tsv file is a header; None: told from the
            rows, and `Dataset.note` says so where it could be otherwise.
        columns: Features of the table or array ``source``, by name ("a,b" or a list); None: all
            columns. Those of an array, or of a text without a header, are called 1, 2, ...
        drop: Columns that are left out.
        label_column: Column of the labels, which are no feature (of an AnnData, one of `obs`);
            None: "label", if there is one.
        key: The array that is meant, of a file ``source`` with several (.npz, .safetensors, .pt,
            .h5); the layer of an AnnData.
        standardize: Bring every column to mean 0 and std 1, those of a split to what the training
            data have; `eta_dec` is then in stds.
        progress: Show a bar while downloading.

    Raises:
        UnknownDatasetError: No data set and no file has that name.
        MissingFileError: The file or the folder is not there.
        CorruptFileError: A file is not what its name says.
        DownloadError: A data set is nowhere, and no mirror delivered it.
        DataError: The numbers cannot be used: empty, text, complex, counts that do not match,
            more than the memory holds.
        InvalidArgumentError: An unknown split, task, column or array, a scale that is not
            positive, or an option of another kind of source.
        MissingDependencyError: The library that reads such a file is not installed.

    Example:
        >>> load("digits", task="half", label=3)
        <Dataset 'digits': x 183 x 32 float64, y 183 x 32 float64, pixels divided by 16, ...>
        >>> load([[0.5], [1.5]], given=[[1, 2], [3, 4]])
        <Dataset 'array': x 2 x 2 int64, y 2 x 1 float64, used as they are>
    """
    if task is not None:
        checks.one_of("task", task, list(TASKS), "Pass one.")
    if task is not None and given is not None:
        raise InvalidArgumentError(
            "task", f"{task!r} beside `given`", "one of the two", "Leave one out."
        )
    reading = Reading.of(header, columns, drop, label_column, key)
    beside = Reading(header if _is_text(given) else None)
    if _is_text(given) and not _is_text(source):  # it is of the one of both that may have a header
        reading = replace(reading, header=None)
    options = (split, data_dir, scale, progress)
    dataset = _read(source, *options, reading)
    if given is not None:
        dataset = _conditioned(dataset, _read(given, *options, beside))
    if label is not None:
        dataset = dataset.select(label)
    if task is not None:
        dataset = TASKS[task](dataset)
    asked = _again(
        name=source, split=split, data_dir=data_dir, task=task, given=given, label=label,
        scale=scale, header=header, columns=columns, drop=drop, label_column=label_column, key=key,
        standardize=standardize,
    )  # fmt: skip
    if not checks.flag("standardize", standardize):
        if dataset is not source:
            dataset = replace(dataset, asked=asked)
        return dataset if scale is not None else _hinted(dataset)
    if scale is not None:
        raise InvalidArgumentError(
            "standardize", "True beside `scale`", "one of the two", "Leave one out."
        )
    like = None
    if split != "train":
        like = load(source, data_dir=data_dir, task=task, given=given, label=label)
    return replace(dataset.standardized(like), asked=asked)


def _again(**asked: Any) -> dict[str, Any] | None:
    """Return arguments that read data again, wherever from; None: values were passed."""
    for name in ("name", "given", "data_dir"):
        if isinstance(asked[name], (str, os.PathLike)):
            asked[name] = absolute(os.fspath(asked[name]))
        elif asked[name] is not None:
            return None
    return asked


def _hinted(dataset: Dataset) -> Dataset:
    """Return data whose note says so where what is decoded looks like bytes of pixels."""
    values = dataset.x if dataset.y is None else dataset.y
    if not values.size or is_lazy(values):
        return dataset
    first = np.asarray(next(chunks(values))[1][0])  # enough, and all may be long to read
    least, most = first.min(), first.max()
    if not (least >= 0 and 127 < most <= 255):
        return dataset
    if first.dtype != np.uint8:
        many = dataset.image_shape is not None or first.shape[1] >= LEAST_PIXELS
        if not many or most <= 250 or not (first == np.floor(first)).all():
            return dataset
    hint = (
        f"values from {least:g} to {most:g}: scale them by 0.00392 (--scale, scale=) to [0, 1], "
        "or give eta_dec in grey levels"
    )
    steps = dataset.steps if hint in dataset.steps else (*dataset.steps, hint)
    return replace(dataset, steps=steps)


LEAST_PIXELS = 16
"""Features of a table from which whole numbers up to 255 are taken for those of an image."""


def _read(
    source: Any, split: str, data_dir: Folder, scale: float | None, progress: bool, reading: Reading
) -> Dataset:
    name = canonical(source) if isinstance(source, str) else None
    if name is not None:
        reading.only()
        dataset = from_registry(name, split, data_dir, progress)
    elif split != "train":
        raise InvalidArgumentError(
            "split", repr(split), "'train': only named data sets have others", "Leave it out."
        )
    elif isinstance(source, Dataset):
        reading.only()
        dataset = source
    elif isinstance(source, (str, os.PathLike)):
        dataset = _from_path(source, reading)
    else:
        dataset = from_array("array", source, reading)
    if scale is not None:
        return dataset.scaled(scale)
    return dataset.divided(DIVISORS[name]) if name in DIVISORS else dataset


def _is_text(source: Any) -> bool:
    return isinstance(source, (str, os.PathLike)) and suffix_of(Path(source)) in TEXTS


def _from_path(source: str | os.PathLike[str], reading: Reading) -> Dataset:
    if not os.fspath(source):
        raise InvalidArgumentError(
            "data", "an empty name", "a name or a file", "See `collapse data list`."
        )
    path = expanded("data", source)
    bare_name = isinstance(source, str) and path.name == source
    if bare_name and suffix_of(path) not in READERS and not os.path.exists(path):
        raise unknown(str(source))
    return read_file(path, reading)


def _conditioned(target: Dataset, condition: Dataset) -> Dataset:
    """Return ``target`` as y and ``condition`` as x."""
    for part in (target, condition):
        if part.y is not None:
            raise DataError(
                part.name,
                "a target of its own",
                "one array",
                "Leave `given` away, or pass an array.",
            )
    same_length("the target", len(target), "given", len(condition))
    own = [(part.name, step) for part in (target, condition) for step in part.steps]
    steps = tuple(f"{name}: {step}" for name, step in own)
    return replace(
        target, x=condition.x, y=target.x, steps=steps, image_shape=None, names=condition.names
    )
