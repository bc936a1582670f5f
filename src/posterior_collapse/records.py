"""What every result has in common: plain values, copies, tables, and the way to its views."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from posterior_collapse.errors import needing

R = TypeVar("R", bound="Record")


class Record:
    """Mixin of frozen dataclasses, which gives results and descriptions the same few verbs.

    A subclass names in `derived` the properties that `to_dict` shows beside its public fields.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Point(Record):
        ...     x: float
        ...     y: float
        >>> Point(1.0, 2.0).replace(y=3.0).to_dict()
        {'x': 1.0, 'y': 3.0}
    """

    derived: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values; infinities and NaN stay floats."""
        fields = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        shown = (*self.derived, *(name for name in fields if not name.startswith("_")))
        return {name: plain(getattr(self, name)) for name in shown}

    def replace(self: R, **changes: Any) -> R:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def to_frame(self) -> Any:
        """Return a pandas DataFrame: of levels a row per unit, else what the class says.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        with needing("pandas", "pandas for a table", "Run pip install pandas."):
            import pandas as pd
        return pd.DataFrame(list(self._rows()))

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        """Yield the rows of `to_frame`: one, unless the class has something to list."""
        yield {name: v for name, v in self.to_dict().items() if not isinstance(v, (list, dict))}


class Seen:
    """Mixin of what can be looked at.

    Figures and pages are drawn by a room above those that make results, so a result only knows the
    way there: `views`, which the package sets when it is imported, and the name of its `view`.
    """

    views: ClassVar[Any]
    view: ClassVar[str]
    _about: Any  # of the data: an `About`, which a room above makes

    def plot(self, ax: Any = None, *, panel: str | None = None) -> Any:
        """Return a matplotlib figure, or draw into axes; see `posterior_collapse.plot`."""
        return self.views().plot(self, ax, panel=panel)

    def to_html(self, path: str | os.PathLike[str], **about: Any) -> Path:
        """Write one self-contained HTML page; see `posterior_collapse.report.write_page`."""
        written: Path = self.views().write_page(self, path, **about)
        return written

    def _repr_html_(self) -> str:
        return str(self.views().html(self))


class Viewed(Seen, Record):
    """A record that can be looked at."""


def plain(value: Any) -> Any:
    """Return a value made of dicts, lists, words and numbers only.

    Example:
        >>> import numpy as np
        >>> plain({"a": (np.arange(2), np.float64(0.5), None)})
        {'a': [[0, 1], 0.5, None]}
    """
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if hasattr(value, "tolist"):
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def unit_rows(levels: Sequence[Record], units: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield a row per level and unit, both counted from 1, with all that is known of each unit.

    Args:
        levels: Records whose fields hold one entry per unit, or one for the whole level (left out).
        units: Number of units of each level.
    """
    for number, (level, n) in enumerate(zip(levels, units, strict=True), 1):
        fields = level.to_dict().items()
        per_unit = {name: v for name, v in fields if isinstance(v, list) and len(v) == n}
        for unit in range(n):
            values = {name: column[unit] for name, column in per_unit.items()}
            yield {"level": number, "unit": unit + 1, **values}
