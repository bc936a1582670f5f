"""One run's course: its history, why it ended, and what a caller is told after each epoch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from posterior_collapse.progress import Display
from posterior_collapse.training.settings import Settings

MOST_UNITS = 256
OF_UNIT = re.compile(r"kl_\d+_\d+")


class Pause(Exception):  # noqa: N818  nothing is wrong
    """Raised by whoever is told of an epoch, to go on from its end another time.

    Where there are folders, the checkpoints of that epoch are written first.
    """


@dataclass
class Course:
    """What a run has done so far.

    Attributes:
        stopped: Why it ended; None while it goes on.
        best: Lowest loss that early stopping has seen.
        waited: Epochs since.
        seconds: How long it trained, by the clock; an equal share of what trains together.
    """

    settings: Settings
    history: dict[str, list[float]] = field(default_factory=dict)
    stopped: str | None = None
    best: float = math.inf
    waited: int = 0
    seconds: float = 0.0

    def record(self, row: dict[str, float]) -> None:
        """Add an epoch to the history; where a column has no value, it is NaN."""
        done = max(map(len, self.history.values()), default=0)
        for name in {**self.history, **row}:
            self.history.setdefault(name, [math.nan] * done).append(row.get(name, math.nan))

    def take_back(self) -> None:
        """Drop the last epoch from the history."""
        for column in self.history.values():
            column.pop()

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
        """Return plain JSON-able values, but the settings, `per_unit` and the seconds."""
        history = {name: c for name, c in self.history.items() if not is_of_unit(name)}
        return {
            "history": history, "stopped": self.stopped,
            "best": self.best, "waited": self.waited,
        }  # fmt: skip

    @property
    def per_unit(self) -> dict[str, list[float]]:
        """The columns of the history with the KL of single units."""
        return {name: column for name, column in self.history.items() if is_of_unit(name)}

    def restore(
        self, values: dict[str, Any], per_unit: dict[str, list[float]] | None = None
    ) -> None:
        """Take over what `to_dict` and `per_unit` gave."""
        self.history = {**values["history"], **(per_unit or {})}
        self.stopped = values["stopped"]
        self.best, self.waited = values["best"], values["waited"]


def kl_of_units(level: int, kl: Sequence[float]) -> dict[str, float]:
    """Return the columns with the KL of a level's units, in nats; none of more than 256 units.

    Example:
        >>> kl_of_units(1, [0.123456789, 2.0])
        {'kl_1_1': 0.123457, 'kl_1_2': 2.0}
    """
    if len(kl) > MOST_UNITS:
        return {}
    # Of figures: as many digits as a checkpoint in single precision gives back.
    return {f"kl_{level}_{unit}": float(f"{value:.6g}") for unit, value in enumerate(kl, 1)}


def is_of_unit(name: str) -> bool:
    """Return whether a column of a history is the KL of one unit.

    Example:
        >>> is_of_unit("kl_1_3"), is_of_unit("kl_1")
        (True, False)
    """
    return OF_UNIT.fullmatch(name) is not None


class Progress(NamedTuple):
    """What a caller is told after each epoch.

    Attributes:
        steps: Steps of the whole run; None: unknown.
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

    levels = [name.removeprefix("active_") for name in rows[0] if name.startswith("active_")]
    parts = [f"z{n} KL {mean(f'kl_{n}'):.3g}, {mean(f'active_{n}'):.3g} active" for n in levels]
    runs = f"{len(rows)} runs, mean " if len(now.rows) > 1 else ""
    return f"{runs}loss {mean('loss'):.5g}; {'; '.join(parts)}"
