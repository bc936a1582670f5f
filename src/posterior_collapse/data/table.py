"""Tables of text, perhaps gzipped: comma, semicolon or tab, decimal points or decimal commas."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.data import checking
from posterior_collapse.data.arrays import (
    ENCODE,
    IMPUTE,
    is_suspect,
    judged,
    numbers_rows,
    refuse_long,
)
from posterior_collapse.data.checking import check_size, opened
from posterior_collapse.data.dataset import Dataset
from posterior_collapse.data.reading import PLAIN, Reading
from posterior_collapse.data.spelling import (
    COMMA,
    POINTS,
    THOUSANDS,
    is_number,
    numbered,
    pointed,
    spelling,
)
from posterior_collapse.errors import CorruptFileError, DataError

MOST_ROWS, MOST_CELLS = 1_000, 200_000
"""That are looked at to tell a header of numbers from a sample."""
LINES = 20
"""That are looked at to tell what parts the cells."""
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
LEAST_COUNTED, LEAST_SPACED = 3, 8
"""Cells of a first row that counts from 0 or 1, or whose numbers are evenly spaced, from which it
is a header rather than a sample that happens to look like one."""
LEAST_BELOW = 8
"""Rows below the first from which it is known how far apart the numbers of a column are."""


def read_csv(path: Path, reading: Reading = PLAIN) -> Dataset:
    """Return the numbers of a table of text as float64, one row per sample.

    What parts the cells (comma, semicolon or tab) and whether commas are decimal is told from the
    first rows. The first row is a header when none of its cells is a number, or one stands above a
    column of numbers without being one, or its numbers count the columns and no other row's do, or
    they rise and each lies far from all that stand below it.
    Without a header the columns are called 1, 2, ... A column named ``label`` becomes the labels,
    which may be text. Columns that number the rows, as pandas and R write them, are left out.
    `Dataset.steps` says what was not certain.
    """
    with checking.reading(path, "an intact text in UTF-8", "Write it again as a CSV file."):
        return _read(_Layout.of(path, reading.header), reading)


def _read(layout: _Layout, reading: Reading) -> Dataset:
    path, names = layout.path, layout.names
    if next(layout.rows(), None) is None:
        raise DataError(path.name, "a header alone", "samples in rows", "Add the rows.")
    reading.check(path.name, names)
    place = reading.label_place(path.name, names)
    labelled = [] if place is None else [place]
    unwanted = {i for i, name in enumerate(names) if not reading.keeps(name)}
    suspects = [
        i
        for i, name in enumerate(names)
        if layout.has_header and is_suspect(name) and not reading.columns and i not in unwanted
    ]
    # Before the numbers, since only this pass sees a row that is too long.
    texts = layout.texts([*suspects, *labelled]) if suspects or unwanted else {}
    steps, index = list(layout.notes), set()
    for column in suspects:
        is_index, said = judged(names[column], texts[column], layout.shown(column))
        steps += said
        if is_index:
            index.add(column)
    alone = "no column but the label" if labelled else "an index alone"
    numbers = layout.numbers({*index, *unwanted}, alone)
    labels = _numbers_if_any(texts[labelled[0]]) if labelled else None
    kept = [name for i, name in enumerate(names) if i not in index | unwanted]
    called = tuple(kept) if layout.has_header else None
    return Dataset(path.name, numbers, labels=labels, steps=(*steps, *reading.steps), names=called)


def _numbers_if_any(texts: NDArray[Any]) -> NDArray[Any]:
    if any(re.match(r"\s*0\d", text) for text in texts):  # a code: 007 is not 7
        return texts
    for dtype in (np.int64, np.float64):
        try:
            return texts.astype(dtype)
        except (ValueError, OverflowError):
            continue
    return texts


@dataclass(frozen=True)
class _Layout:
    """How a file is to be read.

    Attributes:
        spelled: Gives the text of a cell as numbers are spelled; None where they are already.
        names: Of the columns; without a header their numbers, from 1.
        has_header: Whether the first row holds the names.
        notes: What was decided and might have been otherwise.
    """

    path: Path
    delimiter: str
    spelled: Callable[[str], str] | None
    names: tuple[str, ...]
    has_header: bool
    notes: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, header: bool | None) -> _Layout:
        unpacked = _unpacked(path)
        with _open(path) as file:
            lines = list(islice((line for line in file if line.strip()), LINES))
        single = _is_one_column(lines, tabbed=".tsv" in path.name.lower())
        delimiter = ";" if single else _delimiter(lines)
        with _open(path) as file:
            filled = (row for row in csv.reader(file, delimiter=delimiter) if _filled(row))
            first = next(filled, None)
            if first is None:
                raise CorruptFileError(str(path), "blank lines alone", "rows", "Write it again.")
            below = list(islice(filled, min(MOST_ROWS, 1 + MOST_CELLS // len(first))))
        cells = [cell for row in (first, *below) for cell in row]
        share = len(cells) / sum(len(cell) + 1 for cell in cells)
        check_size(path, int(8 * unpacked * share))
        titles, (spelled, said) = first, spelling(cells, delimiter)
        if spelled is not None:
            first, *below = ([spelled(cell) for cell in row] for row in (first, *below))
        has_header, notes = _header(first, below) if header is None else (header, ())
        names = [cell.strip() if has_header else str(i) for i, cell in enumerate(titles, 1)]
        if has_header and _has_row_names(names, below):
            names = ["", *names]
        if not single and delimiter != ("\t" if ".tsv" in path.name.lower() else ","):
            notes = (f"cells separated by {SEPARATORS[delimiter]}", *notes)
        return cls(path, delimiter, spelled, tuple(names), has_header, (*notes, *said))

    def shown(self, column: int) -> str:
        """What to call a column: its name, or its number if it has none."""
        return repr(self.names[column]) if self.names[column] else str(column + 1)

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield line number and cells of each row below the header, as text."""
        with _open(self.path) as file:
            self._skip_header(file)
            below = csv.reader(file, delimiter=self.delimiter)
            for line, row in enumerate(below, 1 + self.has_header):
                if len(row) <= 1 and not _filled(row):
                    continue
                if len(row) != len(self.names):
                    raise CorruptFileError(
                        str(self.path),
                        f"{len(row)} cells in row {line}",
                        f"{len(self.names)}, as in the first row",
                        "Mend the row.",
                    )
                yield line, row

    def numbers(self, without: Collection[int], alone: str) -> NDArray[np.float64]:
        features = [i for i in range(len(self.names)) if i not in without]
        if not features:
            raise DataError(self.path.name, alone, "at least one feature", "Add a column.")
        columns = features if len(features) < len(self.names) else None
        with _open(self.path) as file:
            self._skip_header(file)
            lines = (line for line in file if line.strip())
            if (spelled := self.spelled) is not None:  # the features alone
                texts = ([spelled(row[i]) for i in features] for _, row in self.rows())
                part = f'"{self.delimiter}"'  # a cell may hold what parts them
                lines, columns = (f'"{part.join(cells)}"' for cells in texts), None
            try:
                return np.loadtxt(
                    lines,
                    comments=None,
                    delimiter=self.delimiter,
                    usecols=columns,
                    ndmin=2,
                    quotechar='"',
                )
            except ValueError as error:
                if spelled is None:  # True and False may stand below the rows that were looked at
                    return replace(self, spelled=numbered).numbers(without, alone)
                self._name_the_cell(features)
                raise CorruptFileError(
                    str(self.path), f"'{error}'", "a table of numbers", "Check the file."
                ) from error

    def texts(self, columns: Sequence[int]) -> dict[int, NDArray[Any]]:
        """Return the cells of columns as they are written."""
        found: dict[int, list[str]] = {column: [] for column in columns}
        for line, row in self.rows():
            for column, cells in found.items():
                cells.append(row[column].strip())
                where = f" in row {line}"
                refuse_long(self.shown(column), self.path.name, len(cells[-1]), where)
        return {column: np.array(cells) for column, cells in found.items()}

    def _skip_header(self, file: TextIO) -> None:
        if self.has_header:
            next(row for row in csv.reader(file, delimiter=self.delimiter) if _filled(row))

    def _name_the_cell(self, features: list[int]) -> None:
        """Raise for the first cell that is not a number, in the words of the table."""
        for line, row in self.rows():
            for i in features:
                if not is_number(self.spelled(row[i]) if self.spelled else row[i]):
                    got = repr(row[i]) if row[i].strip() else "an empty cell"
                    action = IMPUTE if row[i].strip().lower() in MISSING else ENCODE
                    for mark, form in (("commas", THOUSANDS), ("points", POINTS)):
                        if form.fullmatch(row[i]):
                            action = f"Write it without {mark} between thousands."
                    if action is ENCODE and len(self.names) == 1:
                        action = "Separate cells by commas, semicolons or tabs."
                    raise DataError(
                        f"column {self.names[i]!r} of {self.path.name}",
                        f"{got} in row {line}",
                        "a number",
                        action,
                    )


def _open(path: Path) -> TextIO:
    # Spreadsheets begin their files with a mark, which this encoding drops.
    stream = opened(path, zipped=_is_zipped(path))
    return io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")


def _is_zipped(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _unpacked(path: Path) -> int:
    """Return the bytes of the text, found without holding more than a piece of it."""
    if not _is_zipped(path):
        return path.stat().st_size
    size = 0
    with opened(path, zipped=True) as file:
        while piece := file.read(1 << 20):
            size += len(piece)
            check_size(path, size)
    return size


def _delimiter(lines: Sequence[str]) -> str:
    """Return what parts the cells: of what occurs in the first line, what leaves most numbers.

    Example:
        >>> _delimiter(["a,b;c", "1,5;2,5"]), _delimiter(["a,b;c", "1,2"]), _delimiter(["1"])
        (';', ',', ',')
    """
    first = lines[0] if lines else ""
    candidates = [one for one in SEPARATORS if one in first]
    if len(candidates) < 2:
        return (candidates or [","])[0]

    def numeric(delimiter: str) -> tuple[float, int]:
        try:
            rows = list(csv.reader(lines, delimiter=delimiter))
        except csv.Error:  # a cell of more than 100,000 characters
            return -1, 0
        cells = [(cell, len(row)) for row in rows for cell in row]
        plain = [is_number(cell) or (n > 1 and is_number(pointed(cell))) for cell, n in cells]
        return sum(plain) / max(1, len(plain)), first.count(delimiter)

    return max(candidates, key=numeric)


def _is_one_column(lines: Sequence[str], *, tabbed: bool) -> bool:
    """Return whether the commas of a text are decimal ones, in one column.

    They are where some rows have none; where a header has one cell, and the rows do not begin with
    names that count them, as R writes them; where tabs would part the cells; or where what stands
    behind a comma begins with a zero, as no whole number does.

    Example:
        >>> found = [["x", "1,5", "1,7"], ["1,05", "2,5"], ["1,5", "2,5"], ["x", "1,5", "2,6"]]
        >>> [_is_one_column(lines, tabbed=False) for lines in found]
        [True, True, False, False]
    """
    first = lines[0].strip() if lines else ""
    has_header = not (is_number(first) or COMMA.fullmatch(first))
    below = [line.strip() for line in lines[has_header:]]
    found = [match for line in below if (match := COMMA.fullmatch(line))]
    others = [line for line in below if not COMMA.fullmatch(line)]
    if not found or not all(map(is_number, others)) or (has_header and "," in first):
        return False
    if others or tabbed or any(match[1][0] == "0" < match[1] for match in found):
        return True
    return has_header and not _counts([line.split(",")[0] for line in below])


MISSING = ("", "na", "n/a", "#n/a", "<na>", "null", "none", "?", "-")
"""What a cell without a value holds, in small letters."""


def _filled(row: Sequence[str]) -> bool:
    return any(cell.strip() for cell in row)


def _header(first: list[str], below: list[list[str]]) -> tuple[bool, tuple[str, ...]]:
    """Return whether the first row is a header, and what to say where that is not certain."""
    if not any(is_number(cell) for cell in first):
        return True, ()
    beside_index = not first[0].strip()
    if beside_index:
        index = [row[0].strip() for row in below]
        named = all(index) and not any(map(is_number, index))
        if len(index) > 1 and (named or _counts(index)):
            return True, ()  # as pandas writes a data frame
        first, below = first[1:], [row[1:] for row in below]
    mixed = any(_names_numbers(i, cell, below) for i, cell in enumerate(first))
    if not mixed and not all(is_number(cell) for cell in first):
        return False, ()
    counts, spaced = _counts(first), _is_spaced(first)
    far, rises = _apart(first, below)
    if counts and beside_index:
        return True, ()
    if not (counts or spaced or mixed or far):
        return False, ()
    enough = LEAST_COUNTED if counts else LEAST_SPACED
    whole = any(cell.strip().lstrip("+-").isdigit() for row in below for cell in row)
    alike = any(_counts(sorted(row, key=_value)) or _is_spaced(row) for row in below)
    taken = mixed or ((len(first) >= enough or (counts and not whole)) and not alike)
    taken |= rises and len(first) >= LEAST_COUNTED
    ends = first[0].strip() + (f" to {first[-1].strip()}" if len(first) > 1 else "")
    if taken:
        how = "--no-header or header=False if it is a sample"
        return True, (f"the first row, {ends}, taken for a header ({how})",)
    how = "--header or header=True if it is a header"
    return False, (f"the first row, {ends}, taken for a sample ({how})",)


def _names_numbers(column: int, cell: str, below: list[list[str]]) -> bool:
    """Whether a cell is text and all that stands below it are numbers."""
    if not cell.strip() or is_number(cell) or not below:
        return False
    return all(len(row) > column and is_number(row[column]) for row in below)


def _counts(cells: Sequence[str]) -> bool:
    """Whether the cells are 0, 1, ... or 1, 2, ..., written as whole numbers."""
    plain = [cell.strip() for cell in cells]
    return any(plain == [str(i + start) for i in range(len(plain))] for start in (0, 1))


def _is_spaced(cells: Sequence[str]) -> bool:
    """Whether the cells are so many numbers at equal distances, as years and wavelengths are."""
    if len(cells) < LEAST_SPACED or not all(map(is_number, cells)):
        return False
    numbers = np.array([float(cell) for cell in cells])
    if not np.isfinite(numbers).all():
        return False
    steps = np.diff(numbers)
    return bool(steps[0] != 0 and np.allclose(steps, steps[0], rtol=1e-6, atol=0))


def _apart(first: list[str], below: list[list[str]]) -> tuple[bool, bool]:
    """Whether each number of a first row is farther from all below than these are from each other.

    And whether it besides rises from left to right, as years and masses do, and most rows do not,
    as those of the least, the mean and the greatest of something would.
    """
    rows = [row for row in below if len(row) == len(first) and all(map(is_number, row))]
    if len(rows) < LEAST_BELOW or not all(map(is_number, first)):
        return False, False
    numbers, values = np.array(first, float), np.array(rows, float)
    least, most = values.min(0), values.max(0)
    with np.errstate(invalid="ignore", over="ignore"):  # inf is refused later, by its place
        far = bool((np.maximum(numbers - most, least - numbers) > most - least).all())
        far &= bool((most > least).any())  # of nothing but zeros nothing is far
        rises, alike = (np.diff(numbers) > 0).all(), (np.diff(values) > 0).all(1).mean()
    return far, bool(far and rises and alike < 0.5)


def _has_row_names(names: list[str], below: list[list[str]]) -> bool:
    """Whether each row begins with a name for which R writes no header."""
    if not below or any(len(row) != len(names) + 1 for row in below):
        return False
    return numbers_rows("", np.array([row[0].strip() for row in below]))


def _value(cell: str) -> float:
    return float(cell) if is_number(cell) else np.inf
