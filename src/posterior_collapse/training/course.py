"""One run's course: its history, why it ended, and what a caller is told after each epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from posterior_collapse.progress import Display
from posterior_collapse.theory.minimum import FINISHED, LIMIT
from posterior_collapse.training.settings import Settings

__all__ = ["FINISHED", "LIMIT", "Bar", "Course", "Pause", "Progress"]


class Pause(Exception):  # noqa: N818  nothing is wrong
    """Raised by whoever is told of an epoch, to go on from its end another time.

    Where there are folders, the checkpoints of that epoch are written first.
    """


@dataclass
class Course:
    """What a run has done so far.

    Attributes:
        settings: Of this run.
        history: Columns by name.
        stopped: Why it ended; None while it goes on.
        best: Lowest loss that early stopping has seen.
        waited: Epochs since.
    """

    settings: Settings
    history: dict[str, list[float]] = field(default_factory=dict)
    stopped: str | None = None
    best: float = math.inf
    waited: int = 0

    def record(self, row: dict[str, float]) -> None:
        """Add an epoch to the history."""
        for name, value in row.items():
            self.history.setdefault(name, []).append(value)

    def judge(self, loss: float) -> bool:
        """Return whether this epoch is the best so far; stop after `patience` that are not."""
        if loss < self.best:
            self.best, self.waited = loss, 0
            return True
        self.waited += 1
        if self.settings.patience is not None and self.waited >= self.settings.patience:
            self.stopped = "early"
        return False

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values, but the settings."""
        return {
            "history": self.history, "stopped": self.stopped,
            "best": self.best, "waited": self.waited,
        }  # fmt: skip

    def restore(self, values: dict[str, Any]) -> None:
        """Take over what `to_dict` gave."""
        self.history, self.stopped = values["history"], values["stopped"]
        self.best, self.waited = values["best"], values["waited"]


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
