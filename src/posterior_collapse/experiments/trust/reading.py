"""What the study reads of finished runs: which problem, which kind of run, and how it came out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from posterior_collapse.experiments.checks import Result, Setting, by_grid
from posterior_collapse.theory import ACTIVE_INFORMATION

__all__ = [
    "WARM_UPS",
    "WORTH",
    "by_problem",
    "gain_by_linear",
    "is_whole",
    "kept_by_linear",
    "onset_of",
    "quantiles",
    "usable",
    "within",
    "worth_of",
]

Kinds = Mapping[str, Sequence[Setting]]

KINDS = ("restarts", "warm start", "a dead unit", "warm-up", "dead start")
WARM_UPS = {"": "no", "warm-up": "yes"}
"""Of the kinds that are held against onset and bracket: whether they had a warm-up."""
RATE = "learning rate "
WORTH = 0.01
"""Share of what the living units brought that is worth a unit, as a diagnosis has it."""


def by_problem(results: Iterable[Result]) -> dict[str, dict[str, list[Setting]]]:
    """Return the settings by problem and by kind of run, "" for plain training.

    Example:
        >>> results = [Result(f"digits, mlp, gaussian{end}", {}, None) for end in ("", ", warm-up")]
        >>> {name: list(kinds) for name, kinds in by_problem(results).items()}
        {'digits, mlp, gaussian': ['', 'warm-up']}
    """
    found: dict[str, dict[str, list[Setting]]] = {}
    for grid, settings in by_grid(results).items():
        name, _, kind = grid.rpartition(", ")
        known = kind in KINDS or kind.startswith(RATE)
        found.setdefault(name if known else grid, {})[kind if known else ""] = settings
    return found


def is_whole(result: Result) -> bool:
    """Whether a run came to its end with numbers that can be read."""
    return result.measured["loss"] is not None and not result.record.stopped.startswith("non-fin")


def usable(settings: Iterable[Setting]) -> list[Setting]:
    """Return settings without runs that diverged, by ascending beta."""
    kept = (Setting([r for r in setting.results if is_whole(r)]) for setting in settings)
    return sorted(
        (setting for setting in kept if setting.results), key=lambda s: float(s.labels["beta"])
    )


def onset_of(result: Result) -> float:
    """Return the beta from which theory says that every unit collapses."""
    return float(np.nanmax(result.theory["levels"][0]["critical_beta"]))


def kept_by_linear(result: Result) -> int:
    """Return how many units of the linear optimum know as much as a unit that counts as active."""
    information = np.asarray(result.theory["levels"][0]["information"])
    return int((information > ACTIVE_INFORMATION).sum())


def gain_by_linear(result: Result) -> float:
    """Return the nats that the units of the linear optimum bring, near the onset for any model.

    Source:
        Each brings beta/2 (t - 1 - log t), t being the beta at which it collapses over beta.
    """
    beta = float(result.labels["beta"])
    t = np.nan_to_num(np.asarray(result.theory["levels"][0]["critical_beta"], float)) / beta
    t = t[t > 1]
    return float(beta / 2 * (t - 1 - np.log(t)).sum())


def worth_of(result: Result, best: float) -> float:
    """Return the nats from which a difference to the best loss counts.

    Args:
        result: Any run of the same data and beta.
        best: The least loss.
    """
    return WORTH * max(float(result.measured["collapsed_loss"]) - best, 0.0)


def quantiles(values: ArrayLike, at: Sequence[float] = (0.5, 0.1, 0.9)) -> list[float | None]:
    """Return quantiles, by default median, tenth and ninetieth percentile; None of nothing.

    Example:
        >>> quantiles([1.0, 2.0, 3.0])
        [2.0, 1.2, 2.8]
        >>> quantiles([])
        [None, None, None]
    """
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        return [None] * len(at)
    return [round(float(value), 12) for value in np.quantile(array, at)]


def within(history: Mapping[str, Sequence[float]], name: str, share: float) -> float:
    """Return a column of a history as the mean over an eighth of the run that ends at `share`.

    Example:
        >>> history = {"step": list(range(1, 17)), "active_1": [8.0] * 8 + [4.0] * 8}
        >>> within(history, "active_1", 0.5), within(history, "active_1", 1.0)
        (8.0, 4.0)
    """
    steps = np.asarray(history["step"], dtype=float)
    near: Any = (steps <= share * steps[-1]) & (steps > (share - 0.125) * steps[-1])
    if not near.any():
        near = np.abs(steps - share * steps[-1]).argmin()
    return float(np.mean(np.asarray(history[name], dtype=float)[near]))
