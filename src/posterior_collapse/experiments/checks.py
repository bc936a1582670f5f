"""Finished runs, what is made of them, and how they are held against what was expected."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from posterior_collapse.experiments.figures import Chart
from posterior_collapse.experiments.tables import Table
from posterior_collapse.runs import Record, Run

__all__ = [
    "Check",
    "Deliverable",
    "Part",
    "Result",
    "Setting",
    "Way",
    "agreement",
    "along_lines",
    "by_grid",
    "direction",
    "follows",
    "monotone",
    "of_level",
    "some_active",
]


class Result(NamedTuple):
    """A finished run of a row.

    Attributes:
        grid: Title of its grid.
        labels: The values that it has there.
        record: What it left behind.
    """

    grid: str
    labels: Mapping[str, Any]
    record: Record

    @property
    def run(self) -> Run:
        """Its description."""
        return self.record.run

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.run.settings.seed

    @property
    def depth(self) -> int:
        """How many levels of latents its model has."""
        return len(self.run.spec.dims)

    @property
    def measured(self) -> dict[str, Any]:
        """Its numbers."""
        return self.record.measured

    @property
    def exact(self) -> dict[str, Any]:
        """Those of a linear model, the noise integrated out."""
        found: dict[str, Any] = self.measured["exact"]
        return found

    @property
    def theory(self) -> dict[str, Any]:
        """Those of the closed form; empty where there is none."""
        return self.record.forecast or {}

    def active(self, level: int) -> int:
        """Return the number of units of a level, from 1, that know of the data."""
        return int(self.measured["levels"][level - 1]["n_active"])

    def active_by_theory(self, level: int) -> int | None:
        """Return the same by the closed form; None where there is none."""
        return int(self.theory["levels"][level - 1]["n_active"]) if self.theory else None


@dataclass(frozen=True)
class Setting:
    """The results of one setting of a grid, one per seed."""

    results: Sequence[Result]

    @property
    def first(self) -> Result:
        """The result of the first seed."""
        return self.results[0]

    @property
    def labels(self) -> Mapping[str, Any]:
        """The values of the setting in its grid."""
        return self.first.labels

    @property
    def text(self) -> str:
        """The values in words.

        Example:
            >>> each = {"beta": 0.5}, {"name": "pairs:1/2"}, {"label": 3}
            >>> [Setting([Result("", labels, None)]).text for labels in each]
            ['beta = 0.5', '1/2', 'digit 3']
        """
        words = []
        for name, value in self.labels.items():
            if name == "label":
                words.append(f"digit {value}")
            elif name == "name":
                words.append(str(value).removeprefix("pairs:"))
            else:
                words.append(f"{name} = {value:g}")
        return ", ".join(words)

    def mean(self, measure: Callable[[Result], float]) -> float:
        """Return the mean of a measure over the seeds."""
        return float(np.mean([measure(result) for result in self.results]))


def by_grid(results: Iterable[Result]) -> dict[str, list[Setting]]:
    """Return the settings of each grid, by its title, in order."""
    grids: dict[str, dict[tuple[Any, ...], list[Result]]] = {}
    for result in results:
        settings = grids.setdefault(result.grid, {})
        settings.setdefault(tuple(result.labels.values()), []).append(result)
    return {title: [Setting(seeds) for seeds in grid.values()] for title, grid in grids.items()}


def some_active(settings: Iterable[Setting], level: int) -> bool:
    """Return whether any unit of a level, from 1, is active in any run; else none can collapse."""
    return any(result.active(level) for setting in settings for result in setting.results)


def of_level(number: int, depth: int) -> str:
    """Return how to say of which level a measure is: nothing where there is only one.

    Example:
        >>> f"KL{of_level(2, 2)}", f"KL{of_level(1, 1)}"
        ('KL of z2', 'KL')
    """
    return f" of z{number}" if depth > 1 else ""


NOT_MEASURED = "not measured"


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
    """What one deliverable adds to a row.

    Attributes:
        tables: By name.
        charts: By name, each with its caption.
        checks: Against theory and against the paper's claim.
        notes: What a reader must know besides; sentences.
    """

    tables: Mapping[str, Table] = field(default_factory=dict)
    charts: Mapping[str, tuple[Chart, str]] = field(default_factory=dict)
    checks: Sequence[Check] = ()
    notes: Sequence[str] = ()


Deliverable: TypeAlias = Callable[[Sequence[Result]], Part]

Way: TypeAlias = Literal["rises", "falls", "hardly changes", "rises and falls"]
CONSISTENT = 0.5
"""Mean rank correlation over the lines of a grid from which values count as moving together."""


def direction(values: Sequence[float], slack: float) -> Way:
    """Return which way values go, in order.

    Args:
        values: One per setting.
        slack: What a step may go the other way, and what start and end have to differ by.

    Example:
        >>> [direction(v, 0.1) for v in ([1, 2, 1.95, 3], [3, 2, 2, 1], [1, 1.02], [1, 3, 2])]
        ['rises', 'falls', 'hardly changes', 'rises and falls']
    """
    steps = np.diff(values)
    up, down = float(steps.max(initial=0.0)) > slack, float(steps.min(initial=0.0)) < -slack
    if up and down:
        return "rises and falls"
    change = values[-1] - values[0]
    if abs(change) <= slack:
        return "hardly changes"
    return "rises" if change > 0 else "falls"


def monotone(
    what: str, name: str, points: Iterable[tuple[float, float]], expected: Way, slack: float
) -> Check:
    """Return whether a measure goes the expected way; the sentence says which way it goes.

    Args:
        what: The measure.
        name: The setting.
        points: Pairs of setting and measure.
        expected: By claim and theory.
        slack: As in `direction`.

    Example:
        >>> monotone("KL", "beta", [(2, 1.5), (1, 3.0)], "falls", 0.1).text
        'KL falls with beta (1: 3, 2: 1.5).'
    """
    ordered = sorted(points)
    found = direction([value for _, value in ordered], slack)
    numbers = ", ".join(f"{at:g}: {value:.4g}" for at, value in ordered)
    return _held(found, expected, f"{what} {found} with {name} ({numbers})")


def along_lines(grid: ArrayLike) -> float:
    """Return the rank correlation along the last axis, averaged over lines; 0 for constant ones.

    Within a line nothing else varies, so that a weaker influence is not hidden by a stronger one.

    Example:
        >>> along_lines([[1, 2, 3], [10, 20, 30]]), along_lines([[1, 1], [2, 1]])
        (1.0, -0.5)
    """
    ranks = np.apply_along_axis(rankdata, -1, np.asarray(grid, dtype=float))
    places = np.arange(ranks.shape[-1]) - (ranks.shape[-1] - 1) / 2
    ranks -= ranks.mean(-1, keepdims=True)
    size = np.sqrt((ranks**2).sum(-1) * (places**2).sum())
    return float(np.mean(ranks @ places / np.where(size > 0, size, 1.0)))


def follows(what: str, name: str, correlation: float, expected: Way) -> Check:
    """Return whether a measure follows a setting over a grid, by `along_lines`.

    Example:
        >>> follows("Error", "beta_2", 0.11, "rises").text
        'Error neither rises nor falls with beta_2 (mean rank correlation 0.11); expected: rises.'
    """
    found = "neither rises nor falls"
    if abs(correlation) >= CONSISTENT:
        found = "rises" if correlation > 0 else "falls"
    said = f"{what} {found} with {name} (mean rank correlation {correlation:.2f})"
    return _held(found, expected, said)


def _held(found: str, expected: Way, said: str) -> Check:
    agrees = found == expected
    return Check(agrees, f"{said}." if agrees else f"{said}; expected: {expected}.")


NUMBERS = r"\d+\.\d+(e-?\d+)?|\d\d+"
"""Those that differ from run to run, not the number of a level."""


def agreement(parts: Sequence[Part], results: Sequence[Result]) -> dict[str, Any]:
    """Return `verdict`, `text`, `checks` (verdict and sentence of each) and `notes` of a row.

    The verdict is that of all checks where they have one in common, else "partly"; but what
    differs or was not measured alone does not agree in part.
    """
    checks = [check for part in parts for check in part.checks]
    verdicts = {check.verdict for check in checks}
    if "agrees" in verdicts:
        verdict = "agrees" if len(verdicts) == 1 else "partly"
    else:
        verdict = "differs" if "differs" in verdicts else NOT_MEASURED
    return {
        "verdict": verdict,
        "text": " ".join(check.text for check in checks),
        "checks": [[check.verdict, check.text] for check in checks],
        "notes": [*(note for part in parts for note in part.notes), *_cautions(results)],
    }


def _cautions(results: Sequence[Result]) -> Iterator[str]:
    """What limits the theory's numbers, each caution once."""
    if any(result.run.settings.convention == "reference" for result in results):
        yield (
            "In the published loss of non-linear models every beta counts half. Betas are named as "
            "published; theory's numbers are those of half the beta."
        )
    told: dict[str, list[str]] = {}
    for note in dict.fromkeys(n for r in results for n in r.theory.get("notes", ())):
        told.setdefault(re.sub(NUMBERS, "#", note), []).append(note)
    for first, *others in told.values():
        elsewhere = " (other runs: other numbers)" if others else ""
        yield f"{first[0].upper()}{first[1:]}{elsewhere}."
