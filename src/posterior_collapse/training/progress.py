"""What a caller is told after each epoch, and the bar that says it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from posterior_collapse.progress import Display

__all__ = ["Bar", "Progress"]


class Progress(NamedTuple):
    """What a caller is told after each epoch.

    Attributes:
        step: Steps done.
        steps: Steps of the whole run; None: unknown.
        epoch: Epochs done.
        rows: Per run, the epoch's row of the history; None for a run that has stopped.
    """

    step: int
    steps: int | None
    epoch: int
    rows: list[dict[str, float] | None]


class Bar(Display):
    """A bar over one run or a sweep, or a function that is called instead.

    Args:
        progress: Whether to show a bar, or what to call after each epoch.
        epochs: To come; it is the total where the number of steps is unknown.
    """

    def __init__(self, progress: bool | Callable[[Progress], None], epochs: int | None) -> None:
        super().__init__("training", epochs, keep=True, show=progress is True)
        self.report = self.show if progress is True else progress or None

    def show(self, now: Progress) -> None:
        """Draw the state after an epoch."""
        done = now.epoch if now.steps is None else now.step
        self.update(done, total=now.steps, text=describe(now))


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
