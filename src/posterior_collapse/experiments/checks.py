"""What deliverables give back, and how what was measured is held against what was expected."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from posterior_collapse.experiments.figures import Chart
from posterior_collapse.experiments.grids import Member
from posterior_collapse.experiments.tables import Table
from posterior_collapse.runs import Record

__all__ = [
    "CONSISTENT",
    "NOT_MEASURED",
    "Check",
    "Deliverable",
    "Part",
    "Result",
    "Way",
    "agreement",
    "along_lines",
    "by_grid",
    "by_labels",
    "direction",
    "follows",
    "monotone",
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
    what: str, name: str, points: Sequence[tuple[float, float]], expected: Way, slack: float
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
    return _check(found, expected, f"{what} {found} with {name} ({numbers})")


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
    found: str = "neither rises nor falls"
    if abs(correlation) >= CONSISTENT:
        found = "rises" if correlation > 0 else "falls"
    text = f"{what} {found} with {name} (mean rank correlation {correlation:.2f})"
    return _check(found, expected, text)


def _check(found: str, expected: Way, text: str) -> Check:
    agrees = found == expected
    return Check(agrees, f"{text}." if agrees else f"{text}; expected: {expected}.")


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
    if any(result.record.run.settings.convention == "reference" for result in results):
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
