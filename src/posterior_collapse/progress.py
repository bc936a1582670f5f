"""What a terminal shows of long work: a bar, a table above it if there is one, and how long yet.

Everything goes to standard error, so that results can be piped; where that is no terminal, only
what is kept is written, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import ProgressColumn

D = TypeVar("D", bound="Display")


class Display:
    """A bar on standard error, shown between `with` and the end of the block.

    Args:
        text: What is done, shown before the bar.
        total: Of what is counted; None: unknown.
        counted: `"steps"` (done of total), `"rows"` (how many so far) or `"bytes"`.
        above: Returns what stands above the bar, asked for at each change; None: nothing.
        keep: Whether the last state stays when the block ends, for logs and terminals alike.
        show: False draws nothing, so that a caller need not ask twice.

    Example:
        >>> with Display("measuring", total=3, show=False) as display:
        ...     display.advance()
        ...     display.done
        1
    """

    def __init__(
        self,
        text: str,
        total: int | None = None,
        *,
        counted: str = "steps",
        above: Callable[[], RenderableType] | None = None,
        keep: bool = False,
        show: bool = True,
    ) -> None:
        self.text, self.total, self.done = text, total, 0
        self._counted, self._above, self._keep, self._show = counted, above, keep, show
        self._live: Any = None

    def __enter__(self: D) -> D:
        if self._show:
            from rich.console import Console
            from rich.live import Live
            from rich.progress import Progress

            console = Console(stderr=True)
            self._bar = Progress(*_columns(self._counted), console=console)
            self._task = self._bar.add_task(self.text, total=self.total)
            self._live = Live(
                self._shown(), console=console, transient=not self._keep, refresh_per_second=4
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            if self._keep and not self._live.console.is_interactive:
                self._live.console.print()  # what was kept ends no line there

    def advance(self, amount: int = 1) -> None:
        """Say that so much more is done."""
        self.update(self.done + amount)

    def update(self, done: int, *, total: int | None = None, text: str | None = None) -> None:
        """Say how much is done in all; a new total or text replaces the old one."""
        self.done = done
        self.total = self.total if total is None else total
        self.text = self.text if text is None else text
        if self._live is not None:
            self._bar.update(self._task, completed=done, total=self.total, description=self.text)
            self._live.update(self._shown())

    def _shown(self) -> RenderableType:
        from rich.console import Group

        return self._bar if self._above is None else Group(self._above(), self._bar)


def _columns(counted: str) -> tuple[ProgressColumn, ...]:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    text = TextColumn("{task.description}")
    if counted == "rows":
        return text, TextColumn("{task.completed:,} rows"), TimeElapsedColumn()
    if counted == "bytes":
        return text, BarColumn(), DownloadColumn()
    return text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(elapsed_when_finished=True)
