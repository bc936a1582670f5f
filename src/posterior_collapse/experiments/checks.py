"""Finished runs, what is made of them, and how they are held against what was expected."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, Literal, NamedTuple, TypeAlias

from posterior_collapse.errors import count_of
from posterior_collapse.experiments.figures import Chart
from posterior_collapse.experiments.tables import Table
from posterior_collapse.runs import Record, Run


class Result(NamedTuple):
    """A finished run of a row: the title of its grid, its values there, and what it left behind."""

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
    def diverged(self) -> bool:
        """Whether it ended at a loss that is no number."""
        ended = self.record.stopped.startswith("non-finite")
        return ended or self.measured.get("conclusion") == "diverged"

    @property
    def depth(self) -> int:
        """How many levels of latents its model has."""
        return len(self.run.spec.dims)

    @property
    def measured(self) -> Mapping[str, Any]:
        """Its numbers."""
        return self.record.measured

    @property
    def exact(self) -> dict[str, Any]:
        """Those of a linear model, the noise integrated out."""
        found: dict[str, Any] = self.measured["exact"]
        return found

    @property
    def theory(self) -> Mapping[str, Any]:
        """Those of the closed form; empty where there is none."""
        return self.record.forecast or {}

    @property
    def halved(self) -> bool:
        """Whether its loss is the published one, in which a beta counts half."""
        return self.run.settings.convention == "reference"

    @property
    def gain(self) -> float:
        """Nats that the units bring: the loss of total collapse less the run's own."""
        return float(self.measured["collapsed_loss"]) - float(self.measured["loss"])

    def active(self, level: int) -> int:
        """Return the number of units of a level, from 1, that know of the data."""
        return int(self.measured["levels"][level - 1]["n_active"])

    def active_by_theory(self, level: int) -> int | None:
        """Return the same by the closed form; None where there is none."""
        return int(self.theory["levels"][level - 1]["n_active"]) if self.theory else None


class Pair(NamedTuple):
    """What was measured at a setting, the mean over its seeds, and what the linear optimum has."""

    at: str
    found: float
    theory: float


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

    @property
    def at(self) -> str:
        """The values in words; of a grid of one setting its title."""
        return self.text or self.first.grid

    @property
    def has_theory(self) -> bool:
        """Whether there is a closed form whose numbers can be compared."""
        return "kl" in self.first.theory

    def mean(self, measure: Callable[[Result], float]) -> float:
        """Return the mean of a measure over the seeds."""
        return fmean(measure(result) for result in self.results)  # to the last digit as in tables

    def active(self, level: int) -> Pair:
        """Return the number of units of a level, from 1, that know of the data."""
        found = self.mean(lambda result: result.active(level))
        return Pair(self.at, found, float(self.first.active_by_theory(level) or 0))


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


def way_of_training(grid: str) -> str:
    """Return how the runs of a grid were trained, where its title says so behind a comma.

    Example:
        >>> way_of_training("beta, warm-up of 10 epochs"), way_of_training("beta")
        (' (warm-up of 10 epochs)', '')
    """
    _, _, how = grid.partition(", ")
    return f" ({how})" if how else ""


NOT_MEASURED = "not measured"
Kind: TypeAlias = Literal["direction", "numbers"]


@dataclass(frozen=True)
class Check:
    """One comparison of what was measured with what was expected.

    Attributes:
        agrees: Whether they agree; None: the runs do not show what was to be compared.
        text: What was compared, with its numbers; a sentence.
        kind: `"direction"`: which way a measure goes, or what orders what; `"numbers"`: how near
            it comes to the number that theory gives.
        exact: Whether the models were trained to the end whatever the profile, on moments.
    """

    agrees: bool | None
    text: str
    kind: Kind = "direction"
    exact: bool = False

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
        charts: By name, each with its caption.
        checks: Against theory and against the paper's claim.
        notes: What a reader must know besides; sentences.
    """

    tables: Mapping[str, Table] = field(default_factory=dict)
    charts: Mapping[str, tuple[Chart, str]] = field(default_factory=dict)
    checks: Sequence[Check] = ()
    notes: Sequence[str] = ()


ONE_UNIT = 1.0
"""What the number of active units of a network may differ from that of the best linear model: one
that is near its threshold counts or not by chance."""
KL_SHARE, KL_LEAST = 0.1, 0.1
"""The same for its KL, as a share of the linear one, or in nats where that is more. A unit has
1/2 log t nats, often about one: then each signal t is right within a fifth, or that of one unit."""


def near_count(what: str, pairs: Iterable[Pair]) -> Check:
    """Hold numbers of units against theory's, setting by setting.

    Example:
        >>> pairs = [Pair("beta = 1", 5.2, 6), Pair("beta = 2", 0, 3)]
        >>> near_count("Active units", pairs).text
        'Active units: within 1 of theory at 1 of 2 settings; farthest at beta = 2: 0, theory 3.'
    """
    return _near(what, "1", [(abs(p.found - p.theory) / ONE_UNIT, p) for p in pairs])


def near_kl(what: str, pairs: Iterable[Pair]) -> Check:
    """Hold KLs against theory's, setting by setting.

    Example:
        >>> near_kl("KL", [Pair("beta = 1", 5.2, 5.5), Pair("beta = 2", 0.02, 0.0)]).text
        'KL: within 10% (or 0.1 nats) of theory at 2 of 2 settings.'
    """
    off = [(_off(p.found, p.theory), p) for p in pairs]
    return _near(what, f"{KL_SHARE:.0%} (or {KL_LEAST:g} nats)", off)


NEAR = 0.05
"""Share by which a measured onset may miss the predicted one and still agree."""


def near_onset(last: float, first: float, theory: float = 1.0) -> bool:
    """Return whether theory's beta of total collapse is that of runs, as far as their betas tell.

    Args:
        last: The last beta at which units live.
        first: The first at which none does.
        theory: Agrees between these two, and where both are within 5% of it.

    Example:
        >>> near_onset(4.4, 5.5, theory=5), near_onset(0.95, 0.97), near_onset(0.92, 0.95)
        (True, True, False)
    """
    both = all(abs(beta / theory - 1) <= NEAR + 1e-9 for beta in (last, first))
    return both or last <= theory <= first


def missed(last: float, first: float, theory: float = 1.0) -> str:
    """Return between which shares of the predicted onset the error lies: a grid tells no more.

    Example:
        >>> missed(4.4, 5.5, theory=5), missed(0.5, 0.75), missed(0.999, 1.01)
        ('-12% to +10%', '-50% to -25%', '0% to +1%')
    """
    ends = (f"{beta / theory - 1:+.0%}" for beta in (last, first))
    return " to ".join("0%" if int(end[:-1]) == 0 else end for end in ends)


def is_near_kl(found: float, theory: float) -> bool:
    """Return whether the KL of a network agrees with theory's.

    Example:
        >>> is_near_kl(5.2, 5.5), is_near_kl(0.2, 0.0)
        (True, False)
    """
    return _off(found, theory) <= 1


def _off(found: float, theory: float) -> float:
    return abs(found - theory) / max(KL_SHARE * abs(theory), KL_LEAST)


ROUNDING = 1e-9
"""Below it is what rounding leaves of none, of numbers between 0.001 and 1000."""


def rounded(value: float) -> float:
    """Return a value, or 0 where it is only what rounding leaves of none.

    Example:
        >>> rounded(2.8e-16), rounded(0.25)
        (0.0, 0.25)
    """
    return 0.0 if abs(value) < ROUNDING else value


def _told(value: float) -> str:
    return f"{rounded(value):.4g}"


def _near(what: str, within: str, off: Sequence[tuple[float, Pair]]) -> Check:
    good = sum(far <= 1 for far, _ in off)
    text = f"{what}: within {within} of theory at {good} of {count_of(len(off), 'setting')}"
    if good < len(off):
        _, worst = max(off, key=lambda pair: pair[0])
        text += f"; farthest at {worst.at}: {_told(worst.found)}, theory {_told(worst.theory)}"
    return Check(good == len(off), f"{text}.", "numbers")


QUICKLY = (
    "In the quick profile nets are barely trained, a few epochs on small data: what they show is "
    "no verdict on the row."
)
BARELY = 0.1
"""Share of the planned passes up to which nets are no more than begun."""
NUMBERS = r"\d+\.\d+(e-?\d+)?|\d\d+|\b\d(?=,? )"
"""Those that differ from run to run, not the number of a level."""


def agreement(
    parts: Sequence[Part],
    results: Sequence[Result],
    *,
    quick: bool = False,
    trained: float = 1.0,
) -> dict[str, Any]:
    """Return what a row's checks say.

    A verdict is that of all checks where they have one in common, else "partly"; but what
    differs or was not measured alone does not agree in part. In the quick profile, and where nets
    were no more than begun, only models that are trained exactly are judged: a row of others is
    "not measured".

    Args:
        parts: What the deliverables found.
        results: The row's.
        quick: Whether it was run in the quick profile.
        trained: The least share of the planned passes over the data that nets were trained for.

    Returns:
        `verdict`; `direction` and `numbers`, the verdicts of the checks of these kinds, None where
        there are none; `text`, `checks` (verdict and sentence of each), `kinds` and `notes`.
    """
    checks = sorted((c for part in parts for c in part.checks), key=lambda c: c.kind)
    notes = [note for part in parts for note in part.notes]
    if (quick or trained <= BARELY) and not all(check.exact for check in checks):
        exact = [check for check in checks if check.exact]
        unjudged = [replace(c, agrees=None, text=f"Barely trained: {c.text}") for c in checks]
        begun = (
            f"Nets were trained for {trained:.0%} of the planned passes over the data: what they "
            "show is no verdict on the row."
        )
        checks, notes = exact or unjudged, [QUICKLY if quick else begun, *notes]
    return {
        "verdict": _verdict(checks) or NOT_MEASURED,
        "direction": _verdict([check for check in checks if check.kind == "direction"]),
        "numbers": _verdict([check for check in checks if check.kind == "numbers"]),
        "text": " ".join(check.text for check in checks),
        "checks": [[check.verdict, check.text] for check in checks],
        "kinds": [check.kind for check in checks],
        "notes": [*dict.fromkeys(notes), *_cautions(results)],
    }


def _verdict(checks: Sequence[Check]) -> str | None:
    verdicts = {check.verdict for check in checks}
    if "agrees" in verdicts:
        return "agrees" if len(verdicts) == 1 else "partly"
    if "differs" in verdicts:
        return "differs"
    return NOT_MEASURED if checks else None


def _cautions(results: Sequence[Result]) -> Iterator[str]:
    """What limits the theory's numbers, each caution once, and of what where not of all."""
    if any(result.halved for result in results):
        yield (
            "In the published loss of non-linear models every beta counts half. Betas are named as "
            "published; theory's numbers are those of half the beta."
        )
    names = [f"{r.run.data.title}, {r.run.spec.likelihood}" for r in results]
    told: dict[tuple[str, str], list[str]] = {}
    for name, result in zip(names, results, strict=True):
        for note in result.theory.get("notes", ()):
            told.setdefault((name, re.sub(NUMBERS, "#", note)), []).append(note)
    lines: dict[str, list[str]] = {}
    for (name, _), notes in told.items():
        first, *others = dict.fromkeys(notes)
        elsewhere = " (other runs: other numbers)" if others else ""
        lines.setdefault(f"{first[0].upper()}{first[1:]}{elsewhere}.", []).append(name)
    for line, own in lines.items():
        of = f"{own[0][0].upper()}{'; '.join(own)[1:]}: " if len(own) < len(set(names)) else ""
        yield f"{of}{line}"
