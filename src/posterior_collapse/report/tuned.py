"""What `tune` found: a table, and what to do with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from posterior_collapse.report.text import new_table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from posterior_collapse.data.about import About
    from posterior_collapse.specs import Spec

__all__ = ["trial_cells", "tuned_page", "tuned_table", "tuned_verdict"]


class Found(Protocol):
    """What is shown of a `Tuned`, which a room above makes."""

    @property
    def spec(self) -> Spec: ...
    @property
    def parameter(self) -> str: ...
    @property
    def wanted(self) -> int: ...
    @property
    def level(self) -> int: ...
    @property
    def units(self) -> int: ...
    @property
    def curve(self) -> Sequence[Any]: ...
    @property
    def chosen(self) -> Any: ...
    @property
    def notes(self) -> Sequence[str]: ...
    @property
    def settled(self) -> bool: ...
    @property
    def _about(self) -> About: ...


def tuned_table(found: Found) -> Table:
    """Return a row per trial: active units of each seed, and of the linear optimum.

    Args:
        found: What `tune` returned.
    """
    table = new_table()
    table.add_column("", width=1)
    table.add_column(named(found)[0], justify="right")
    table.add_column("steps", justify="right")
    table.add_column("active, per seed")
    table.add_column("at half", overflow="fold")
    table.add_column("linear", justify="right")
    for trial in found.curve:
        chosen = ">" if trial is found.chosen else ""
        table.add_row(chosen, f"{trial.value:g}", *trial_cells(trial))
    return table


def trial_cells(trial: Any) -> list[str]:
    """Return steps, counts of each seed at the end and at half, and that of the linear optimum.

    Args:
        trial: Of what `tune` returned.
    """
    counts, half = (
        " ".join("-" if n is None else str(n) for n in each)
        for each in (trial.active, trial.halfway)
    )
    return [f"{trial.steps:,}", counts, half, "-" if trial.linear is None else str(trial.linear)]


def tuned_verdict(found: Found) -> str:
    """Return in one sentence what was found, and whether it has settled.

    Args:
        found: What `tune` returned.
    """
    trial, (name, of) = found.chosen, named(found)
    seeds = len(trial.active)
    kept = sorted(set(trial.active))
    counts = str(kept[0]) if len(kept) == 1 else f"{kept[0]} to {kept[-1]}"
    tuned = f"{name} {trial.value:g}" if name.startswith("beta") else f"{trial.value:g} {name}"
    text = f"With {tuned} this network keeps {counts} of {found.units} units{of}, from {seeds} "
    text += "seed" if seeds == 1 else "seeds"
    if trial.linear is not None:
        text += f"; a linear model would keep {trial.linear}"
    if found.settled:
        return f"{text}. The count has stood since half of {trial.steps:,} steps."
    why = "see the notes" if trial.still else f"it still changed within {trial.steps:,} steps"
    return f"Not settled ({why}): {text[0].lower()}{text[1:]}."


def named(found: Found) -> tuple[str, str]:
    """Return what to call the parameter, and whose the units are: beta_2, of z2.

    Args:
        found: What `tune` returned.
    """
    of = f" of z{found.level}" if len(found.spec.dims) > 1 else ""
    return (found.parameter if found.parameter.startswith("beta") else f"latent units{of}"), of


def tuned_page(found: Found) -> Iterator[RenderableType]:
    """Yield the table, the verdict and the notes."""
    yield tuned_table(found)
    yield tuned_verdict(found)
    yield from (f"Note: {note}." for note in found.notes)
