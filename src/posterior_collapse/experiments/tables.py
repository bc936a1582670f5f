"""Tables of what was measured: aggregated over seeds, as CSV and as Markdown."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeAlias

from posterior_collapse import files
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.records import Record

Cell: TypeAlias = "str | float | dict[str, float | None] | None"
"""A word, a number, nothing, or `{"mean": ..., "std": ...}` over seeds (std None for one seed)."""

BY_THEORY = "by theory"
"""Ending of columns with what theory says beside what was measured."""


@dataclass(frozen=True)
class Table(Record):
    """Columns and rows of plain values.

    Attributes:
        columns: Headings, with their units.
        rows: Cells; see `Cell`.

    Raises:
        InvalidArgumentError: A row with more or fewer cells than columns.

    Example:
        >>> table = Table(["beta", "NLL (nats)"], [[0.5, {"mean": 101.26, "std": 1.234}]])
        >>> print(table.markdown())
        | beta | NLL (nats) |
        |---:|---:|
        | 0.5 | 101.3 ± 1.2 |
        >>> table.csv().splitlines()
        ['beta,NLL (nats),NLL (nats) std', '0.5,101.26,1.234']
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise InvalidArgumentError(
                    f"rows[{number}]",
                    f"{len(row)} cells",
                    f"one per column, {len(self.columns)}",
                    "Pass None where there is nothing.",
                )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Table:
        """Return the table whose `to_dict` this is."""
        return cls(values["columns"], values["rows"])

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]]) -> Table:
        """Return a table of records with the same entries, a row per record.

        Example:
            >>> Table.of([{"beta": 1, "KL": 2.0}, {"beta": 2, "KL": 1.0}])
            Table(columns=['beta', 'KL'], rows=[[1, 2.0], [2, 1.0]])
        """
        return cls(list(records[0]), [list(record.values()) for record in records])

    def records(self) -> list[dict[str, Any]]:
        """Return the rows by column, of which `of` would make the table again."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    @classmethod
    def over_seeds(
        cls, records: Sequence[Mapping[str, Any]], by: Sequence[str], measures: Sequence[str]
    ) -> Table:
        """Return mean and std over the records (one per seed) that agree in the columns `by`.

        The std is that of a sample, with n - 1. Groups keep the order of their first record; a
        measure that a record lacks, or that is None, does not count. What theory says has no
        spread: a measure named "... by theory" is the first record's.

        Example:
            >>> runs = [{"beta": 1, "seed": 1, "KL": 2.0}, {"beta": 1, "seed": 2, "KL": 4.0}]
            >>> Table.over_seeds(runs, ["beta"], ["KL"]).rows
            [[1, {'mean': 3.0, 'std': 1.4142135623730951}]]
        """
        groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
        for record in records:
            groups.setdefault(tuple(record[name] for name in by), []).append(record)

        def cell(group: Sequence[Mapping[str, Any]], name: str) -> Cell:
            values = [record.get(name) for record in group]
            return values[0] if name.endswith(BY_THEORY) else _spread(values)

        rows = [[*key, *(cell(group, m) for m in measures)] for key, group in groups.items()]
        return cls([*by, *measures], rows)

    def beside(self, name: str, cells: Sequence[Cell], after: str | None = None) -> Table:
        """Return the table with one more column, the last or the one after another.

        Example:
            >>> Table(["beta", "KL"], [[1, 0.5]]).beside("seeds", [3], after="beta").columns
            ['beta', 'seeds', 'KL']
        """
        columns = list(self.columns)
        place = len(columns) if after is None else columns.index(after) + 1
        rows = [
            [*row[:place], cell, *row[place:]] for row, cell in zip(self.rows, cells, strict=True)
        ]
        return Table([*columns[:place], name, *columns[place:]], rows)

    def csv(self) -> str:
        """Return the table as CSV; a column with spread is followed by one with its std."""
        names, columns = zip(*self._plain_columns(), strict=True)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(zip(*columns, strict=True))
        return text.getvalue()

    def _plain_columns(self) -> Iterator[tuple[str, list[Any]]]:
        for name, cells in zip(self.columns, self._columns(), strict=True):
            if any(isinstance(cell, Mapping) for cell in cells):
                spread = [c if isinstance(c, Mapping) else {"mean": c, "std": None} for c in cells]
                yield name, [cell["mean"] for cell in spread]
                yield f"{name} std", [cell["std"] for cell in spread]
            else:
                yield name, cells

    def _columns(self) -> list[list[Any]]:
        return [[row[i] for row in self.rows] for i in range(len(self.columns))]

    def markdown(self) -> str:
        """Return the table as GitHub's Markdown, numbers rounded for reading."""
        words = [any(isinstance(cell, str) for cell in cells) for cells in self._columns()]
        lines = [self.columns, *([format_cell(cell) for cell in row] for row in self.rows)]
        text = [f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines]
        text.insert(1, f"|{'|'.join('---' if word else '---:' for word in words)}|")
        return "\n".join(text)

    def save(self, folder: str | os.PathLike[str], name: str) -> Path:
        """Write `name`.csv into a folder that is there."""
        path = Path(folder) / f"{name}.csv"
        files.write(path, self.csv().encode())
        return path


def format_cell(cell: Any) -> str:
    """Return a cell for reading: four digits, or mean ± std to two digits of the std.

    Of losses and NLLs of hundreds of nats tenths and hundredths count too.

    Example:
        >>> [format_cell(c) for c in (None, "relu", 16, 0.123456, 554.102, 123456.7, 1e-12, True)]
        ['', 'relu', '16', '0.1235', '554.10', '123457', '1e-12', 'yes']
        >>> format_cell({"mean": 0.51234, "std": 0.0321})
        '0.512 ± 0.032'
        >>> format_cell({"mean": 723.4, "std": 218.0})
        '720 ± 220'
    """
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, Mapping):
        return _with_spread(cell["mean"], cell["std"])
    if isinstance(cell, float):
        return _number(cell)
    return str(cell)


def _with_spread(mean: float | None, std: float | None) -> str:
    if mean is None or std is None or not (math.isfinite(mean) and math.isfinite(std)):
        return format_cell(mean)
    if std == 0:
        return f"{_number(mean)} ± 0"
    decimals = 1 - math.floor(math.log10(std))
    if decimals < 0:  # two digits of the std are tens or more
        return f"{round(mean, decimals):.0f} ± {round(std, decimals):.0f}"
    if decimals > 6:
        return f"{_number(mean)} ± {std:.2g}"
    return f"{mean:.{decimals}f} ± {std:.{decimals}f}"


def _number(value: float) -> str:
    if 100 <= abs(value) < 1e9:
        return f"{value:.2f}" if abs(value) < 1e4 else f"{value:.0f}"
    return f"{value:.4g}"


def _spread(values: Sequence[float | None]) -> dict[str, float | None] | None:
    there = [float(value) for value in values if value is not None]
    if not there:
        return None
    return {"mean": fmean(there), "std": stdev(there) if len(there) > 1 else None}


def _escaped(cell: str) -> str:
    return " ".join(cell.replace("|", "\\|").split())
