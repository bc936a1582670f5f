"""What is shown while runs train and rows of the paper are reproduced: terminal and TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posterior_collapse.errors import needing, writing
from posterior_collapse.files import columns
from posterior_collapse.progress import Display
from posterior_collapse.report import new_table

if TYPE_CHECKING:
    from rich.table import Table

    from posterior_collapse.experiments import State

__all__ = ["RowsTable", "RunsTable", "Scalars", "require_tensorboard"]

MOST_ROWS = 16


class RunsTable(Display):
    """The last epoch of each run, and the time left.

    Args:
        names: One per run.
        levels: Number of latent levels.
        total: Epochs (or iterations) to come, those done before a resume included; None: unknown.
        unit: What is counted, "epoch" or "iteration".
    """

    def __init__(
        self, names: Sequence[str], levels: int, total: int | None, unit: str = "epoch"
    ) -> None:
        super().__init__(unit, total, above=self.table)
        self.names, self.levels = tuple(names), levels
        self.rows: list[Mapping[str, Any] | None] = [None] * len(self.names)

    def show(self, done: int, rows: Sequence[Mapping[str, Any] | None]) -> None:
        """Show the numbers of the last epoch, a row per run; None: the run has stopped."""
        self.rows = [new or old for new, old in zip(rows, self.rows, strict=True)]
        self.update(done)

    def table(self) -> Table:
        """Return the numbers of the last epoch."""
        from rich.markup import escape

        table = new_table()
        table.add_column("run", overflow="fold")
        table.add_column("loss", justify="right")
        for level in range(1, self.levels + 1):
            of = f" z{level}" if self.levels > 1 else ""
            table.add_column(f"KL{of}", justify="right")
            table.add_column(f"active{of}", justify="right")
        for name, row in list(zip(self.names, self.rows, strict=True))[:MOST_ROWS]:
            table.add_row(escape(name), *(["-"] if row is None else self._cells(row)))
        if len(self.rows) > MOST_ROWS:
            table.add_row(f"... {len(self.rows) - MOST_ROWS} more")
        return table

    def _cells(self, row: Mapping[str, Any]) -> list[str]:
        cells = [f"{row['loss']:.5g}"]
        for level in range(1, self.levels + 1):
            cells += [f"{row[f'kl_{level}']:.4g}", f"{row[f'active_{level}']:g}"]
        return cells


class RowsTable(Display):
    """How many runs of each row of the paper are done, what trains, and the time left.

    Args:
        names: Of the rows, by id.
        runs: Number of runs of each, by id; those that rows share count in each.
    """

    def __init__(self, names: Mapping[str, str], runs: Mapping[str, int]) -> None:
        super().__init__("runs", sum(runs.values()), above=self.table)
        self.names, self.runs = names, runs
        self.finished = dict.fromkeys(runs, 0)
        self.now = dict.fromkeys(runs, "")

    def show(self, state: State) -> None:
        """Show how far a row is."""
        name = state.row.id
        if state.progress is None:
            self.finished[name], self.now[name] = self.runs[name], state.verdict
        else:
            self.finished[name] = state.progress.done
            training = state.progress.training
            self.now[name] = f"{training} training" if training else ""
        if state.epoch is not None:
            self.now[name] += f", epoch {state.epoch.epoch}"
        self.update(sum(self.finished.values()))

    def table(self) -> Table:
        """Return a line per row."""
        table = new_table()
        table.add_column("row")
        table.add_column("experiment", overflow="fold")
        table.add_column("runs", justify="right")
        table.add_column("now", overflow="fold")
        for name, title in self.names.items():
            done = f"{self.finished[name]}/{self.runs[name]}"
            table.add_row(name, title, done, self.now[name])
        return table


def require_tensorboard() -> Any:
    """Return TensorBoard's writer class.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
    """
    how = "Run pip install tensorboard, or leave it out: history.csv has the same numbers."
    with needing("tensorboard", "tensorboard to write its event files", how):
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter


class Scalars:
    """A run's history as TensorBoard shows it, written epoch by epoch.

    Args:
        folder: Folder of the run; events go to its subfolder `tensorboard`.
        start: First epoch that will be written; events from there on, left by a run that was
            killed, are hidden.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path, start: int = 1) -> None:
        writer = require_tensorboard()
        with writing(folder):
            self._writer: Any = writer(str(Path(folder) / "tensorboard"), purge_step=start)

    def write(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of one epoch but those of single units; `row["epoch"]` is the step."""
        from posterior_collapse.training.course import is_of_unit

        for name, (value,) in columns({name: [value] for name, value in row.items()}):
            if name != "epoch" and not is_of_unit(name) and isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, row["epoch"])

    def close(self) -> None:
        """Write what is pending."""
        self._writer.close()
