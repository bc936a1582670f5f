"""Tables of text: a header or none, comma, semicolon or tab, and a column ``label`` if wanted."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.data.dataset import Dataset
from posterior_collapse.errors import CorruptFileError, DataError

__all__ = ["read_csv"]


def read_csv(path: Path) -> Dataset:
    """Return the numbers of a CSV file as float64, one row per sample.

    The first row is a header when none of its cells is a number. A column named ``label``
    becomes the labels, which may be text.

    Raises:
        CorruptFileError: It is not text, or a row is longer or shorter than the first.
        DataError: A cell is not a number (the column and row are named), or there are no rows.
    """
    try:
        layout = _Layout.of(path)
        if next(layout.rows(), None) is None:
            raise DataError(path.name, "a header alone", "samples in rows", "Add the rows.")
        # Before the numbers, since only this pass sees a row that is too long.
        labels = layout.labels() if "label" in layout.names else None
        return Dataset(path.name, layout.numbers(), labels=labels)
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorruptFileError(
            str(path), f"'{error}'", "text in UTF-8", "Save it as a CSV file."
        ) from error


@dataclass(frozen=True)
class _Layout:
    path: Path
    delimiter: str
    names: tuple[str, ...]
    has_header: bool

    @classmethod
    def of(cls, path: Path) -> _Layout:
        with _open(path) as file:
            line = next((line for line in file if line.strip()), "")
            delimiter = max(",;\t", key=line.count)
            first = next(csv.reader([line], delimiter=delimiter))
        has_header = not any(_is_number(cell) for cell in first)
        names = [cell.strip() if has_header else str(i) for i, cell in enumerate(first, 1)]
        return cls(path, delimiter, tuple(names), has_header)

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield line number and cells of each row below the header, as text."""
        with _open(self.path) as file:
            self._skip_header(file)
            lines_above = self.has_header
            for number, row in enumerate(csv.reader(file, delimiter=self.delimiter), 1):
                if row:
                    self._check_length(number + lines_above, row)
                    yield number + lines_above, row

    def numbers(self) -> NDArray[np.float64]:
        features = [i for i, name in enumerate(self.names) if name != "label"]
        if not features:
            raise DataError(
                self.path.name, "no column but the label", "at least one feature", "Add a column."
            )
        columns = features if len(features) < len(self.names) else None
        with _open(self.path) as file:
            self._skip_header(file)
            try:
                return np.loadtxt(
                    file,
                    comments=None,
                    delimiter=self.delimiter,
                    usecols=columns,
                    ndmin=2,
                    quotechar='"',
                )
            except ValueError as error:
                self._name_the_cell(features)
                raise CorruptFileError(
                    str(self.path), f"'{error}'", "a table of numbers", "Check the file."
                ) from error

    def labels(self) -> NDArray[Any]:
        column = self.names.index("label")
        texts = np.array([row[column].strip() for _, row in self.rows()])
        for dtype in (np.int64, np.float64):
            try:
                return texts.astype(dtype)
            except ValueError:
                continue
        return texts

    def _skip_header(self, file: TextIO) -> None:
        if self.has_header:
            next(row for row in csv.reader(file, delimiter=self.delimiter) if row)

    def _check_length(self, line: int, row: list[str]) -> None:
        if len(row) != len(self.names):
            raise CorruptFileError(
                str(self.path),
                f"{len(row)} cells in row {line}",
                f"{len(self.names)}, as in the first row",
                "Mend the row.",
            )

    def _name_the_cell(self, features: list[int]) -> None:
        """Raise for the first cell that is not a number, in the words of the table."""
        for line, row in self.rows():
            for i in features:
                if not _is_number(row[i]):
                    got = repr(row[i]) if row[i].strip() else "an empty cell"
                    raise DataError(
                        f"column {self.names[i]!r} of {self.path.name}",
                        f"{got} in row {line}",
                        "a number",
                        "Remove or encode the column, or name it 'label'.",
                    )


def _open(path: Path) -> TextIO:
    # Spreadsheets begin their files with a mark, which this encoding drops.
    return path.open(encoding="utf-8-sig", newline="")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
