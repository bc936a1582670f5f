"""A counter of rows on stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

__all__ = ["row_counter"]


@contextlib.contextmanager
def row_counter(what: str, progress: bool) -> Iterator[Callable[[int], None]]:
    """Give the function to call with the number of rows done; it shows nothing unless asked to.

    Example:
        >>> with row_counter("diagnosis", progress=False) as advance:
        ...     advance(1000)
    """
    if not progress:
        yield lambda rows: None
        return
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    text = TextColumn(f"{what}: {{task.completed:,}} rows")
    with Progress(text, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("rows", total=None)
        yield lambda rows: shown.advance(task, rows)
