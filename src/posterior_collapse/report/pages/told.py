"""Results whose page is their figure and what a terminal says of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING

from posterior_collapse.report.pages.rendering import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console, RenderableType

__all__ = ["told_fragment", "told_page"]

WIDTH = 100
DPI = 110


def told_fragment(parts: Iterable[RenderableType]) -> str:
    """Return tables and sentences as a notebook shows them.

    Args:
        parts: What a terminal would print.
    """
    return _told(parts).export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def told_page(
    title: str, figure: Figure, parts: Iterable[RenderableType], *, name: str = ""
) -> str:
    """Return a self-contained page of a figure, tables and sentences.

    Args:
        title: What it is.
        figure: What is seen.
        parts: What a terminal would print.
        name: What it is of.

    Example:
        >>> from matplotlib.figure import Figure
        >>> "<h1>Sweep</h1>" in told_page("Sweep", Figure(), ["2 runs"])
        True
    """
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI, facecolor="white")
    axes = "; ".join(f"{a.get_ylabel()} over {a.get_xlabel()}" for a in figure.axes)
    return render(
        "told.html.jinja",
        title=title,
        name=name,
        picture="data:image/png;base64," + base64.b64encode(content.getvalue()).decode(),
        described=f"Figure of the numbers below: {axes}",
        words=_told(parts).export_text(),
    )


def _told(parts: Iterable[RenderableType]) -> Console:
    from rich.console import Console

    console = Console(record=True, width=WIDTH, file=io.StringIO())
    for part in parts:
        console.print(part)
    return console
