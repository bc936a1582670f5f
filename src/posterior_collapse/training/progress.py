"""A live bar on stderr for one run or a sweep."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from posterior_collapse.training.engine import Progress

__all__ = ["bar"]


@contextlib.contextmanager
def bar(
    progress: bool | Callable[[Progress], None], total: int | None
) -> Iterator[Callable[[Progress], None] | None]:
    """Give the function to call after each epoch; none if nobody looks.

    Args:
        progress: Whether to show a bar, or what to call instead.
        total: Epochs to come, where the number of steps is unknown.
    """
    if not isinstance(progress, bool):
        yield progress
        return
    if not progress:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as shown:
        task = shown.add_task("training", total=total)

        def show(now: Progress) -> None:
            known = now.steps is not None
            shown.update(
                task,
                total=now.steps if known else total,
                completed=now.step if known else now.epoch,
                description=describe(now),
            )

        yield show


def describe(now: Progress) -> str:
    """Return the epoch in a few words: mean loss, and KL and active units per level."""
    rows = [row for row in now.rows if row is not None]
    if not rows:
        return "all runs have stopped"

    def mean(name: str) -> float:
        return sum(row[name] for row in rows) / len(rows)

    levels = [name.removeprefix("kl_") for name in rows[0] if name.startswith("kl_")]
    parts = [f"z{n} KL {mean(f'kl_{n}'):.3g}, {mean(f'active_{n}'):.3g} active" for n in levels]
    runs = f"{len(rows)} runs, mean " if len(now.rows) > 1 else ""
    return f"{runs}loss {mean('loss'):.5g}; {'; '.join(parts)}"
