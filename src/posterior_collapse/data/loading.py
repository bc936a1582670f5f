"""The one door of this room."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from posterior_collapse.data.arrays import from_array, same_length
from posterior_collapse.data.dataset import TASKS, Dataset
from posterior_collapse.data.files import READERS, read_file
from posterior_collapse.data.published import expanded
from posterior_collapse.data.registry import canonical, from_registry, unknown
from posterior_collapse.errors import DataError, InvalidArgumentError, nearest

__all__ = ["load"]


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
    progress: bool = False,
) -> Dataset:
    """Turn a name, a file or an array into samples in rows.

    Numbers are used as they are (uint8 stays uint8, a .npy file stays on disk), but for the
    named image sets, whose pixels are divided by their largest value. `Dataset.note` says so.

    Args:
        source: ``"digits"``, ``"mnist"``, ``"fashion-mnist"``, ``"pairs:KIND"`` (see `pairs`);
            a .npy, .npz, .csv or .parquet file; an array, a data frame or a `Dataset`. Images
            of shape (samples, height, width) are flattened row by row.
        split: ``"train"`` or ``"test"``, for the data sets that have them.
        data_dir: Folder to look in before ``$POSTERIOR_COLLAPSE_DATA`` and the user's cache.
        task: ``"quarter"`` or ``"half"``: cut images into a condition x and a target y.
        given: The condition x, of any kind that ``source`` may be; ``source`` is then the
            target y.
        label: Keep the samples of one class only.
        scale: Multiply every number that is read, of ``source`` and ``given``, by this instead.
        header: Whether the first row of a .csv file is a header; None: told from the rows, and
            `Dataset.note` says so where it could be otherwise.
        progress: Show a bar while downloading.

    Raises:
        UnknownDatasetError: No data set and no file has that name.
        MissingFileError: The file or the folder is not there.
        CorruptFileError: A file is not what its name says.
        DownloadError: A data set is nowhere, and no mirror delivered it.
        DataError: The numbers cannot be used: empty, text, complex, counts that do not match,
            more than the memory holds.
        InvalidArgumentError: An unknown split or task, a scale that is not positive, or a header
            of what is no .csv file.
        MissingDependencyError: A .parquet file, and pyarrow is not installed.

    Example:
        >>> load("digits", task="half", label=3)
        <Dataset 'digits': x 183 x 32 float64, y 183 x 32 float64, pixels divided by 16, ...>
        >>> load([[0.5], [1.5]], given=[[1, 2], [3, 4]])
        <Dataset 'array': x 2 x 2 int64, y 2 x 1 float64, used as they are>
    """
    if task is not None and task not in TASKS:
        raise InvalidArgumentError(
            "task", repr(task), f"one of {list(TASKS)}", f"Pass one.{nearest(str(task), TASKS)}"
        )
    if task is not None and given is not None:
        raise InvalidArgumentError(
            "task", f"{task!r} beside `given`", "one of the two", "Leave one away."
        )
    options = (split, data_dir, scale, progress)
    both = [part for part in (source, given) if part is not None]
    if header is not None and not any(map(_is_csv, both)):
        raise InvalidArgumentError(
            "header", header, "None: only a .csv file has one", "Leave it away."
        )
    dataset, *condition = (
        _read(part, *options, header if _is_csv(part) else None) for part in both
    )
    if condition:
        dataset = _conditioned(dataset, condition[0])
    if label is not None:
        dataset = dataset.select(label)
    return dataset if task is None else TASKS[task](dataset)


def _read(
    source: Any,
    split: str,
    data_dir: str | os.PathLike[str] | None,
    scale: float | None,
    progress: bool,
    header: bool | None,
) -> Dataset:
    name = canonical(source) if isinstance(source, str) else None
    if name is not None:
        return from_registry(name, split, data_dir, scale, progress)
    if split != "train":
        raise InvalidArgumentError(
            "split", repr(split), "'train': only named data sets have others", "Leave it away."
        )
    if isinstance(source, Dataset):
        dataset = source
    elif isinstance(source, (str, os.PathLike)):
        dataset = _from_path(source, header)
    else:
        dataset = from_array("array", source)
    return dataset if scale is None else dataset.scaled(scale)


def _is_csv(source: Any) -> bool:
    return isinstance(source, (str, os.PathLike)) and str(source).lower().endswith(".csv")


def _from_path(source: str | os.PathLike[str], header: bool | None) -> Dataset:
    if not os.fspath(source):
        raise InvalidArgumentError(
            "data", "an empty name", "a name or a file", "See `collapse data list`."
        )
    path = expanded("data", source)
    bare_name = isinstance(source, str) and path.name == source
    if bare_name and path.suffix.lower() not in READERS and not os.path.exists(path):
        raise unknown(str(source))
    return read_file(path, header)


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
    return replace(target, x=condition.x, y=target.x, steps=steps, image_shape=None)
