"""Arrays and columns of data frames -> a data set, without columns that number the rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from numbers import Real
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.arrays import SparseRows, as_samples, same_length
from posterior_collapse.data.checking import check_room
from posterior_collapse.data.dataset import Dataset
from posterior_collapse.data.reading import PLAIN, TABLE, Reading
from posterior_collapse.errors import DataError, InvalidArgumentError, listed, nearest

LONGEST = 1_000
"""Characters of a label; an array of texts gives each the room of the longest."""


def as_labels(name: str, values: Any, samples: int) -> NDArray[Any]:
    """Return one label per sample."""
    labels = np.asarray(values)
    if labels.ndim != 1:
        raise DataError(name, f"shape {labels.shape}", "one label per sample", "Flatten it.")
    same_length("x", samples, name, len(labels))
    return labels


def from_array(name: str, values: Any, reading: Reading = PLAIN) -> Dataset:
    """Return a data set of an array, a list, a tensor or a data frame.

    Example:
        >>> from_array("array", [[1, 2], [3, 4]])
        <Dataset 'array': 2 x 2 int64, used as they are>
    """
    if is_frame(values):
        reading.only(TABLE)
        columns = [(key, _column(series)) for key, series in _series(values)]
        reading.check(name, [key for key, _ in columns])
        return from_columns(name, columns, reading=reading)
    if hasattr(values, "obs") and hasattr(values, "X"):  # an AnnData
        return _from_annotated(name, values, reading)
    reading.only(TABLE)
    x, image_shape = as_samples("x" if name == "array" else name, values)
    return chosen(Dataset(name, x, image_shape=image_shape), reading)


def is_frame(values: Any) -> bool:
    """Say whether values are a data frame, of pandas or polars."""
    # In this order: a lazy frame of polars warns when its columns are asked for.
    return hasattr(values, "to_numpy") and hasattr(values, "columns")


def feature_names(frame: Any) -> tuple[str, ...]:
    """Return what the columns of a data frame are called that `from_array` takes for features."""
    return tuple(
        name
        for name, series in _series(frame)
        if PLAIN.keeps(name) and not (is_suspect(name) and judged(name, _column(series), name)[0])
    )


def _series(frame: Any) -> Iterator[tuple[str, Any]]:
    """Yield the columns of a data frame with their names, which pandas may have several times."""
    for i, name in enumerate(frame.columns):
        yield str(name), frame.iloc[:, i] if hasattr(frame, "iloc") else frame[name]


def chosen(dataset: Dataset, reading: Reading, names: Sequence[str] | None = None) -> Dataset:
    """Return the columns of an array that are wanted; without names they are called 1, 2, ...

    Example:
        >>> found = chosen(Dataset("x", np.array([[1.5, 2, 0]])), Reading.of(drop=2))
        >>> found.x.tolist(), found.note
        ([[1.5, 0.0]], "1 x 2 float64, column '2' dropped")
    """
    if not reading.steps:
        return dataset
    x = dataset.x
    names = [str(number) for number in range(1, x.shape[1] + 1)] if names is None else names
    reading.check(dataset.name, names)
    kept = [place for place, name in enumerate(names) if reading.keeps(name)]
    if not kept:
        raise DataError(
            dataset.name, "no column that is kept", "at least one feature", "Keep a column."
        )
    if reading.label_column is not None:
        column = np.asarray(x[:, [names.index(reading.label_column)]])
        dataset = replace(dataset, labels=as_labels(reading.label, column[:, 0], len(x)))
    if isinstance(x, SparseRows):
        x, _ = as_samples(dataset.name, x.matrix[:, kept])
    else:
        check_room(dataset.name, len(x) * len(kept) * x.dtype.itemsize)
        x = x[:, kept]
    said = (*dataset.steps, *reading.steps)
    called = dataset.names and tuple(dataset.names[place] for place in kept)
    return replace(dataset, x=x, image_shape=None, steps=said, names=called)


def _from_annotated(name: str, values: Any, reading: Reading) -> Dataset:
    reading.only(("key", *TABLE))
    matrix = values.X if reading.key is None else layer(name, values.layers, reading.key)
    x, _ = as_samples("x", matrix)
    names = tuple(map(str, values.var_names))
    labels = annotation(name, values.obs, getattr(values.obs, "columns", ()), reading)
    return annotated(Dataset(name, x, names=names), labels, reading)


def annotated(dataset: Dataset, labels: Any, reading: Reading) -> Dataset:
    """Return what is wanted of an AnnData's matrix, X or a layer, with its labels, if any."""
    if labels is not None:
        labels = as_labels(reading.label, labels, len(dataset))
    steps = () if reading.key is None else (f"layer {reading.key!r}",)
    dataset = replace(dataset, labels=labels, steps=(*steps, *reading.labelled))
    if not (reading.columns or reading.drop):
        return dataset
    return chosen(dataset, replace(reading, label_column=None), dataset.names)


def layer(name: str, layers: Mapping[str, Any], key: str) -> Any:
    """Return a layer of an AnnData, or refuse a name that none has."""
    if key not in layers:
        refuse_key(key, f"a layer of {name}", list(layers))
    return layers[key]


def annotation(name: str, obs: Any, columns: Iterable[Any], reading: Reading) -> Any:
    """Return the column of an AnnData's `obs`, of these names, that holds the labels, if any."""
    names = list(map(str, columns))
    Reading(label_column=reading.label_column).check(name, names)
    return obs[reading.label] if reading.label in names else None


def refuse_key(key: str, what: str, known: Sequence[str]) -> NoReturn:
    """Refuse the name of an array that is not there; `what` is such as "a layer of x.h5ad"."""
    raise InvalidArgumentError(
        "key",
        repr(key),
        f"{what}, {listed(known)}",
        f"Pass one of these, or none.{nearest(key, known)}",
    )


def _column(series: Any) -> NDArray[Any]:
    """Return a column: numbers kept as objects, one of which may be lacking, as numbers."""
    values: NDArray[Any] = series.to_numpy()
    if values.dtype.kind != "O":
        return values
    lacking = getattr(series.dtype, "kind", "O") in "biuf"  # of pandas' own types of numbers
    return np.asarray(series, np.float64) if lacking else as_numbers(values)


def as_numbers(values: NDArray[Any]) -> NDArray[Any]:
    """Return objects that are numbers, or lacking, as float64, and others as they are."""
    numbers = all(v is None or isinstance(v, (Real, Decimal, np.bool_)) for v in values)
    return values.astype(np.float64) if numbers else values


def from_columns(
    name: str,
    columns: Sequence[tuple[str, NDArray[Any]]],
    index: Sequence[str] = (),
    reading: Reading = PLAIN,
) -> Dataset:
    """Return a data set of named columns; one called ``label``, or as is said, holds the labels.

    Columns that number the rows, as pandas writes them, are left out, and `Dataset.steps` says so;
    likewise those of `index`, which the source itself calls so.

    Example:
        >>> from_columns("toy", [("a", np.arange(3)), ("label", np.array(["u", "v", "u"]))])
        <Dataset 'toy': 3 x 1 int64, used as they are; labels u, v>
        >>> from_columns("toy", [("Unnamed: 0", np.arange(3)), ("a", np.arange(3.0))]).note
        "3 x 1 float64, column 'Unnamed: 0' left out, an index (name it to keep it)"
    """
    place = reading.label_place(name, [key for key, _ in columns])
    called: list[str] = []
    of_file = "column {!r} left out, which the file calls an index (reset it to keep it)"
    features, steps = [], [of_file.format(key) for key in index]
    for key, values in columns:
        if not reading.keeps(key):
            continue
        if is_suspect(key) and not reading.columns:
            is_index, said = judged(key, values, repr(key))
            steps += said
            if is_index:
                continue
        if values.dtype.kind not in "biuf":
            refuse_column(name, key, _kind(values))
        if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
            row = int(finite.argmin())
            raise DataError(
                f"column {key!r} of {name}", f"{values[row]} at row {row}", "finite numbers",
                IMPUTE,
            )  # fmt: skip
        features.append(values)
        called.append(key)
    if not features:
        raise DataError(name, "no column of numbers", "at least one feature", "Add a column.")
    x, _ = as_samples(name, np.column_stack(features))
    return Dataset(
        name,
        x,
        labels=None if place is None else as_labels(reading.label, columns[place][1], len(x)),
        steps=(*steps, *reading.steps),
        names=tuple(called),
    )


def _kind(values: NDArray[Any]) -> str:
    """What the values of a column are that is not of numbers, such as "text" or "date"."""
    if values.dtype.kind == "O":
        others = (type(v).__name__ for v in values if not isinstance(v, (Real, type(None))))
        name = next(others, "object")
        return "text" if name == "str" else name
    return "text" if values.dtype.kind in "US" else str(values.dtype)


IMPUTE = "Impute it, drop the row, or leave the column out by drop='NAME'."
ENCODE = (
    "Encode the column, leave it out by drop='NAME', or take it for the label by "
    "label_column='NAME'."
)


def refuse_column(name: str, column: str, kind: str) -> NoReturn:
    """Refuse a column of a data set whose values, of a kind such as "string", are no numbers."""
    raise DataError(
        f"column {column!r} of {name}",
        "text" if kind in ("text", "string", "large_string", "string_view") else f"{kind} values",
        "numbers",
        ENCODE,
    )


def refuse_long(column: str, name: str, length: int, where: str = "") -> None:
    """Refuse a text of a column that is too long to be a label."""
    if length > LONGEST:
        raise DataError(
            f"column {column} of {name}",
            f"a text of {length:,} characters{where}",
            f"at most {LONGEST:,}",
            "Remove or shorten it.",
        )


UNNAMED = re.compile(r"|Unnamed: \d+(\.\d+)?|__index_level_\d+__")
"""Names of an index without a name: in a CSV file, read from one and written again, in parquet."""
RESET = re.compile(r"index|level_\d+")
"""Names that `DataFrame.reset_index` gives, and people too: an index if it counts from 0."""


def is_suspect(name: str) -> bool:
    """Say whether a column of this name may be an index.

    Example:
        >>> [is_suspect(name) for name in ("", "Unnamed: 0", "index", "height")]
        [True, True, True, False]
    """
    return bool(UNNAMED.fullmatch(name) or RESET.fullmatch(name))


def judged(name: str, values: NDArray[Any], shown: str) -> tuple[bool, list[str]]:
    """Return whether a column of a suspect name is no feature, and what is to be said of it."""
    unnamed = bool(UNNAMED.fullmatch(name))
    if values.dtype.kind == "U" and (values == "").all():
        return True, [f"column {shown}, which is empty, left out"]
    if numbers_rows(name, values):
        action = "name it" if unnamed else "give it another name"
        return True, [f"column {shown} left out, an index ({action} to keep it)"]
    kept = f"column {shown} has no name and does not number the rows: kept as a feature"
    return False, [kept] * unnamed


def numbers_rows(name: str, values: NDArray[Any]) -> bool:
    """Say whether a column of a suspect name numbers or names the rows, rather than measures them.

    An index is text, whole numbers that are all different or that count up (perhaps from 0 anew,
    where tables were put below each other), or numbers that rise or fall from row to row.

    Example:
        >>> [numbers_rows("", np.array(v)) for v in ([0, 1, 2], ["b", "a"], [0.3, 0.1, 0.2])]
        [True, True, False]
    """
    if values.dtype.kind == "U":
        values = np.where(values == "", "nan", values)
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError):
        return not RESET.fullmatch(name)
    if RESET.fullmatch(name):
        return bool(np.array_equal(numbers, np.arange(len(numbers))))
    steps = np.diff(numbers)
    whole = bool((numbers == np.floor(numbers)).all())
    if whole and (len(np.unique(numbers)) == len(numbers) or _counts(numbers, steps)):
        return True
    return bool((steps > 0).all() or (steps < 0).all())


def _counts(numbers: NDArray[np.float64], steps: NDArray[np.float64]) -> bool:
    return bool(((steps == 1) | (numbers[1:] == 0)).all())
