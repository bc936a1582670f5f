"""What a terminal shows while runs train: the last epoch of each, and the time left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["LiveTable"]

MOST_ROWS = 16


class LiveTable:
    """A progress bar above a table of runs, on stderr; silent where that is no terminal.

    Args:
        names: One per run.
        levels: Number of latent levels.
        total: Epochs (or iterations) to come, those done before a resume included; None: unknown.
        unit: What is counted, "epoch" or "iteration".
    """

    def __init__(
        self, names: Sequence[str], levels: int, total: int | None, unit: str = "epoch"
    ) -> None:
        self.names = tuple(names)
        self.levels = levels
        self.rows: list[Mapping[str, Any] | None] = [None] * len(self.names)
        console = Console(stderr=True)
        self.progress = Progress(
            TextColumn(unit),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        self.task = self.progress.add_task(unit, total=total)
        self.live = Live(self.progress, console=console, transient=True, refresh_per_second=4)

    def __enter__(self) -> LiveTable:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def update(self, done: int, rows: Sequence[Mapping[str, Any] | None]) -> None:
        """Show the numbers of the last epoch, a row per run; None: the run has stopped."""
        self.rows = [new or old for new, old in zip(rows, self.rows, strict=True)]
        self.progress.update(self.task, completed=done)
        self.live.update(Group(self.progress, self._table()))

    def _table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("run", overflow="fold")
        table.add_column("loss", justify="right")
        for level in range(1, self.levels + 1):
            of = f" z{level}" if self.levels > 1 else ""
            table.add_column(f"KL{of}", justify="right")
            table.add_column(f"active{of}", justify="right")
        for name, row in list(zip(self.names, self.rows, strict=True))[:MOST_ROWS]:
            table.add_row(name, *(["-"] if row is None else self._cells(row)))
        if len(self.rows) > MOST_ROWS:
            table.add_row(f"... {len(self.rows) - MOST_ROWS} more")
        return table

    def _cells(self, row: Mapping[str, Any]) -> list[str]:
        cells = [f"{row['loss']:.5g}"]
        for level in range(1, self.levels + 1):
            cells += [f"{row[f'kl_{level}']:.4g}", f"{row[f'active_{level}']:g}"]
        return cells
