"""What deliverables are made from, a row's finished runs, and what they give back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posterior_collapse.experiments.figures import Chart
from posterior_collapse.experiments.grids import Member
from posterior_collapse.experiments.tables import Table
from posterior_collapse.runs import Record

__all__ = [
    "NOT_MEASURED",
    "Check",
    "Deliverable",
    "Part",
    "Result",
    "by_grid",
    "by_labels",
    "one_seed",
    "some_active",
    "text",
]

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Result:
    """A run of a row, finished.

    Attributes:
        member: Its place in the row.
        record: What it left behind.
    """

    member: Member
    record: Record

    @property
    def labels(self) -> Mapping[str, Any]:
        """The values that it has in its grid."""
        return self.member.labels

    @property
    def measured(self) -> dict[str, Any]:
        """Its numbers."""
        return self.record.measured

    @property
    def theory(self) -> dict[str, Any]:
        """Those of the closed form; empty where there is none."""
        return self.record.forecast or {}

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.record.run.settings.seed


@dataclass(frozen=True)
class Check:
    """One comparison of what was measured with what was expected.

    Attributes:
        agrees: Whether they agree; None: the runs do not show what was to be compared.
        text: What was compared, with its numbers; a sentence.
    """

    agrees: bool | None
    text: str

    @property
    def verdict(self) -> str:
        """In words."""
        if self.agrees is None:
            return NOT_MEASURED
        return "agrees" if self.agrees else "differs"


@dataclass(frozen=True)
class Part:
    """What one deliverable gives.

    Attributes:
        tables: By file stem.
        charts: By file stem, each with its caption.
        checks: Against theory and against the paper's claim.
        notes: What a reader must know besides; sentences.
    """

    tables: Mapping[str, Table] = field(default_factory=dict)
    charts: Mapping[str, tuple[Chart, str]] = field(default_factory=dict)
    checks: Sequence[Check] = ()
    notes: Sequence[str] = ()


Deliverable = Callable[[Sequence[Result]], Part]


def by_grid(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the results of each grid, by its title, in order."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.member.grid, []).append(result)
    return found


def by_labels(results: Sequence[Result]) -> Iterator[tuple[Mapping[str, Any], list[Result]]]:
    """Yield the values of each setting of a grid, with its results, one per seed."""
    found: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        found.setdefault(tuple(result.labels.values()), []).append(result)
    for seeds in found.values():
        yield seeds[0].labels, seeds


def one_seed(results: Sequence[Result]) -> list[Result]:
    """Return the first seed's result of each setting."""
    return [seeds[0] for _, seeds in by_labels(results)]


def some_active(results: Sequence[Result], level: int) -> bool:
    """Return whether any unit of a level is active in any run; without, nothing can collapse.

    Args:
        results: The runs.
        level: Of the latents, from 1.
    """
    return any(result.measured["levels"][level - 1]["n_active"] for result in results)


def text(labels: Mapping[str, Any]) -> str:
    """Return the values in words.

    Example:
        >>> text({"beta": 0.5}), text({"name": "pairs:1/2"}), text({"label": 3})
        ('beta = 0.5', '1/2', 'digit 3')
    """
    words = []
    for name, value in labels.items():
        if name == "label":
            words.append(f"digit {value}")
        elif name == "name":
            words.append(str(value).removeprefix("pairs:"))
        else:
            words.append(f"{name} = {value:g}")
    return ", ".join(words)
