"""Linear models over beta: what exact and minibatch training find, with theory overlaid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from posterior_collapse.experiments import figures
from posterior_collapse.experiments.checks import Check, Part, Result, by_grid, one_seed
from posterior_collapse.experiments.measuring import ACTIVE_MODE
from posterior_collapse.experiments.tables import Table

__all__ = ["theory_sweep"]

CLOSE = 1e-4
"""Nats within which exact training has to meet the theory."""
FAINT = 0.01
"""Nats from which a mode trained by minibatches counts as active: their noise never dies out."""
Values = dict[tuple[str, str], float]


def theory_sweep(results: Sequence[Result]) -> Part:
    """Draw loss, reconstruction, KL and active modes; check exact training, state the gap."""
    grids = {title: one_seed(members) for title, members in by_grid(results).items()}
    exact, *others = grids.values()
    variable = next(iter(exact[0].labels))
    theory = _panels([_theory(r) for r in exact], exact, variable)
    measured = {
        title: _panels([_measured(r) for r in members], members, variable)
        for title, members in grids.items()
    }
    chart = figures.sweep(theory, measured, variable=variable)
    rows = [row for title, members in grids.items() for row in _rows(title, members, variable)]
    columns = [
        "training", variable, *(f"{_name(key)}{of}" for key in _theory(exact[0])
                                for of in ("", " by theory")),
    ]  # fmt: skip
    return Part(
        {"sweep": Table(columns, rows)},
        {"sweep": (chart, f"Linear models against {variable}: theory (lines) and training.")},
        _checks(exact),
        [note for members in others for note in _gap(members, variable)],
    )


def _theory(result: Result) -> Values:
    return _values(result.theory)


def _measured(result: Result) -> Values:
    values = _values(result.measured["exact"])
    if result.record.run.method == "minibatch":
        levels = result.measured["exact"]["levels"]
        counts = [key for key in values if key[0] == "active modes"]
        for key, level in zip(counts, levels, strict=True):
            values[key] = sum(known >= FAINT for known in level["information"])
    return values


def _values(found: dict[str, Any]) -> Values:
    values: Values = {
        ("loss (nats)", ""): found["loss"],
        ("reconstruction (nats)", ""): found["reconstruction"],
    }
    levels = found["levels"]
    for quantity, key in (("KL (nats)", "kl"), ("active modes", "n_active")):
        for number, level in enumerate(levels, start=1):
            values[quantity, f"z{number}" if len(levels) > 1 else ""] = level[key]
    return values


def _panels(
    values: Sequence[Values], members: Sequence[Result], variable: str
) -> dict[str, dict[str, figures.Line]]:
    panels: dict[str, dict[str, figures.Line]] = {}
    at = [r.labels[variable] for r in members]
    for quantity, curve in values[0]:
        line = [one[quantity, curve] for one in values]
        panels.setdefault(quantity, {})[curve] = (at, line)
    return panels


def _rows(title: str, members: Sequence[Result], variable: str) -> Iterator[list[Any]]:
    for result in members:
        theory, measured = _theory(result), _measured(result)
        pairs = [value for key in theory for value in (measured[key], theory[key])]
        yield [title, result.labels[variable], *pairs]


def _name(key: tuple[str, str]) -> str:
    quantity, curve = key
    return f"{quantity} of {curve}" if curve else quantity


def _checks(exact: Sequence[Result]) -> list[Check]:
    worst: Values = {}
    wrong = 0
    for result in exact:
        theory, measured = _theory(result), _measured(result)
        counts = [key for key in theory if key[0] == "active modes"]
        wrong += any(theory[key] != measured[key] for key in counts)
        for key in theory:
            if key not in counts:
                worst[key] = max(worst.get(key, 0.0), abs(theory[key] - measured[key]))
    words = ", ".join(f"{_name(key)} {value:.1e}" for key, value in worst.items())
    return [
        Check(
            wrong == 0,
            f"Exact training keeps the active modes of the theory at {len(exact) - wrong} of "
            f"{len(exact)} values.",
        ),
        Check(
            max(worst.values()) <= CLOSE,
            f"Largest differences of exact training from theory: {words}.",
        ),
    ]


def _gap(members: Sequence[Result], variable: str) -> Iterator[str]:
    if not members:
        return
    gaps = [_measured(r)["loss (nats)", ""] - _theory(r)["loss (nats)", ""] for r in members]
    values = ", ".join(
        f"{r.labels[variable]:g}: {gap:.3g}" for r, gap in zip(members, gaps, strict=True)
    )
    keys = [(r, key) for r in members for key in _theory(r) if key[0] == "active modes"]
    same, strictly = (
        sum(counted(r)[key] == _theory(r)[key] for r, key in keys)
        for counted in (_measured, lambda r: _values(r.measured["exact"]))
    )
    yield (
        f"Minibatch training ends above the optimum by (nats, at each {variable}) {values}. "
        f"It has theory's number of active modes (those with {FAINT:g} nats and more) in {same} of "
        f"{len(keys)} cases; counted as in exact training, from {ACTIVE_MODE:g} nats on, in "
        f"{strictly}."
    )
