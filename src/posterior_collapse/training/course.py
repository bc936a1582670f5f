"""One run's bookkeeping beside its tensors: history, early stopping, why it ended."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from posterior_collapse.theory.minimum import FINISHED, LIMIT
from posterior_collapse.training.settings import Settings

__all__ = ["FINISHED", "LIMIT", "Course"]


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
