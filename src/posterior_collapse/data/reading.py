"""How a source is to be read: its header, its columns, its labels, or which of several arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from posterior_collapse.errors import DataError, InvalidArgumentError, listed, nearest

LABEL = "label"
"""The column that holds the classes, if nobody says otherwise."""
TABLE = ("columns", "drop", "label_column")
"""What may be said of a table."""
TEXT = ("header", *TABLE)
"""What may be said of a table that is a text."""
HAVE = {
    "header": "only a .csv or .tsv file has one",
    **dict.fromkeys(TABLE, "only a table or an array has columns to choose from"),
    "key": "only a file of several arrays has names of them",
}


@dataclass(frozen=True)
class Reading:
    """How a source is to be read.

    Args:
        header: Whether the first row of a text is a header; None: told from the rows.
        columns: Names of the features, those of an array 1, 2, ...; none: all columns.
        drop: Names of columns that are left out.
        label_column: Name of the column of labels; None: `label`, if there is one and it is not
            among `columns`.
        key: Name of the array that is meant, of a file that has several.

    Example:
        >>> reading = Reading.of(columns="a, b", label_column="kind")
        >>> [name for name in ("a", "b", "c", "kind") if reading.keeps(name)]
        ['a', 'b']
        >>> reading.steps
        ("columns 'a', 'b' only", "labels from column 'kind'")
    """

    header: bool | None = None
    columns: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    label_column: str | None = None
    key: str | None = None

    @classmethod
    def of(
        cls,
        header: bool | None = None,
        columns: str | Sequence[Any] | None = None,
        drop: str | Sequence[Any] | None = None,
        label_column: object = None,
        key: str | None = None,
    ) -> Reading:
        """Return what is asked for; names are a list, or a text in which commas part them."""
        label = None if label_column is None else str(label_column)
        return cls(header, _names("columns", columns), _names("drop", drop), label, key)

    @property
    def label(self) -> str:
        """Name of the column of labels."""
        return self.label_column or LABEL

    @property
    def steps(self) -> tuple[str, ...]:
        """What was chosen, in words."""
        steps = []
        if self.columns:
            features = [name for name in self.columns if not self._is_label(name)]
            steps.append(f"{_column(features)} only" if features else "no column")
        if self.drop:
            steps.append(f"{_column(self.drop)} dropped")
        return (*steps, *self.labelled)

    @property
    def labelled(self) -> tuple[str, ...]:
        """Where the labels are from, in words, if that was chosen."""
        if self.label_column is None:
            return ()
        return (f"labels from column {self.label_column!r}",)

    def label_place(self, source: str, names: Sequence[str]) -> int | None:
        """Return which of a table's columns holds the labels; None: none that is wanted."""
        count = names.count(self.label)
        if count == 0 or self.label in self.drop or not self._is_label(self.label):
            return None
        if count > 1:
            raise DataError(
                source, f"{count} columns named {self.label!r}", "one", "Rename the others."
            )
        return names.index(self.label)

    def keeps(self, name: str) -> bool:
        """Say whether a column is a feature that is wanted."""
        if name in self.drop or self._is_label(name):
            return False
        return not self.columns or name in self.columns

    def _is_label(self, name: str) -> bool:
        return name == self.label and (self.label_column is not None or name not in self.columns)

    def check(self, source: str, names: Sequence[str]) -> None:
        """Refuse names that no column of a source has."""
        label = () if self.label_column is None else (self.label_column,)
        for option, asked in (
            ("columns", self.columns), ("drop", self.drop), ("label_column", label),
        ):  # fmt: skip
            for name in asked:
                if name not in names:
                    raise InvalidArgumentError(
                        option,
                        repr(name),
                        f"a column of {source}, {listed(list(names))}",
                        f"Pass one of its columns.{nearest(name, names)}",
                    )

    def only(self, takes: Sequence[str] = ()) -> None:
        """Refuse what cannot be said of a source, which takes these options alone."""
        for name, why in HAVE.items():
            value = getattr(self, name)
            if value not in (None, ()) and name not in takes:
                shown = listed(list(value)) if isinstance(value, tuple) else repr(value)
                raise InvalidArgumentError(name, shown, f"None: {why}", "Leave it out.")


PLAIN = Reading()
"""As it is found."""


def _names(option: str, names: Any) -> tuple[str, ...]:
    if names is None:
        return ()
    parts = names.split(",") if isinstance(names, str) else names
    if not isinstance(parts, Iterable):
        parts = [parts]  # a number
    found = tuple(dict.fromkeys(str(part).strip() for part in parts))
    if not found or not all(found):
        raise InvalidArgumentError(
            option, repr(names), "names of columns, separated by commas", "Pass e.g. 'a,b'."
        )
    return found


def _column(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:6])) + (f", ... ({len(names)} in all)" * (len(names) > 6))
    return f"column{'s' * (len(names) > 1)} {shown}"
