"""What a terminal shows while rows are reproduced: their runs, what trains, the time left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from posterior_collapse.experiments.reproducing import State

__all__ = ["RowsTable"]


class RowsTable:
    """A table of rows above a progress bar, on stderr; silent where that is no terminal.

    Args:
        names: Of the rows, by id.
        runs: Number of runs of each, by id; those that rows share count in each.
    """

    def __init__(self, names: Mapping[str, str], runs: Mapping[str, int]) -> None:
        self.names, self.runs = names, runs
        self.done = dict.fromkeys(runs, 0)
        self.now = dict.fromkeys(runs, "")
        console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("runs"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            expand=True,
        )
        self.task = self.progress.add_task("runs", total=sum(runs.values()))
        self.live = Live(self._shown(), console=console, transient=True, refresh_per_second=4)

    def __enter__(self) -> RowsTable:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def update(self, state: State) -> None:
        """Show how far a row is."""
        name = state.row.id
        if state.progress is None:
            self.done[name], self.now[name] = self.runs[name], state.verdict
        else:
            self.done[name] = state.progress.done
            training = state.progress.training
            self.now[name] = f"{training} training" if training else ""
        if state.epoch is not None:
            self.now[name] += f", epoch {state.epoch.epoch}"
        self.progress.update(self.task, completed=sum(self.done.values()))
        self.live.update(self._shown())

    def _shown(self) -> Group:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("row")
        table.add_column("experiment", overflow="fold")
        table.add_column("runs", justify="right")
        table.add_column("now", overflow="fold")
        for name, title in self.names.items():
            table.add_row(name, title, f"{self.done[name]}/{self.runs[name]}", self.now[name])
        return Group(table, self.progress)
