"""Panels of a figure, which go into a figure of their own or into axes that someone has."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.report.names import typeset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["BANDS", "BLUE", "GREEN", "GREY", "LINES", "ORANGE", "Panel", "Panels", "drawn"]

BLUE, ORANGE, GREY, GREEN = "#0072B2", "#D55E00", "#999999", "#009E73"
"""From the palette of Okabe and Ito, told apart by colour-blind readers and in grey."""
LINES = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#999933", "#AA4499", "#44AA99",
         GREY)  # fmt: skip
BANDS = (BLUE, "#56B4E9", GREEN, "#F0E442", "#E69F00", ORANGE, "#CC79A7", "#882255", "#44AA99",
         "#999933")  # fmt: skip
"""Neighbours differ in lightness too."""
WIDEST = 110
"""Characters of a line of a figure's title."""


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        name: By which it is asked for.
        draw: Draws it into axes.
    """

    name: str
    draw: Callable[[Axes], None]


@dataclass(frozen=True)
class Panels:
    """What a result looks like.

    Attributes:
        rows: From the top; the first of all is the one that is drawn into single axes.
        title: Of the whole: the data and the settings.
        size: Width and height of a panel in inches.
    """

    rows: tuple[tuple[Panel, ...], ...]
    title: str
    size: tuple[float, float] = (5.0, 3.8)


def drawn(panels: Panels, ax: Any = None, panel: str | None = None) -> Figure:
    """Return the figure that panels were drawn into.

    Args:
        panels: Of a result.
        ax: Axes, or several for as many panels; None: a figure of its own.
        panel: The name of the one that is wanted; None: all, or as many as there are axes.

    Raises:
        InvalidArgumentError: More axes than panels, or no panel of this name.
    """
    rows = panels.rows
    if panel is not None:
        named = {one.name: one for row in rows for one in row}
        if panel not in named:
            raise InvalidArgumentError(
                "panel", panel, f"one of {', '.join(named)}", "Leave it out for all of them."
            )
        rows = ((named[panel],),)
    if ax is None:
        return _figure(rows, panels)
    flat = [one for row in rows for one in row]
    given: list[Any] = list(np.ravel(np.asarray(ax, dtype=object)))
    if not 1 <= len(given) <= len(flat):
        names = ", ".join(one.name for one in flat)
        raise InvalidArgumentError(
            "ax", f"{len(given)} axes", f"1 to {len(flat)}, for {names}", "Pass one, or none."
        )
    for axes, one in zip(given, flat, strict=False):
        one.draw(axes)
    figure: Figure = given[0].get_figure(root=True)
    return figure


def _figure(rows: tuple[tuple[Panel, ...], ...], panels: Panels) -> Figure:
    from matplotlib.figure import Figure

    columns = max(map(len, rows))
    width, height = panels.size
    figure = Figure(figsize=(columns * width, 0.5 + len(rows) * height), layout="constrained")
    if panels.title:
        wide = round(WIDEST * columns * width / 10)
        title = "\n".join(textwrap.fill(line, wide) for line in panels.title.split("\n"))
        figure.suptitle(typeset(title), fontsize=10)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for row, axes in zip(rows, grid, strict=True):
        for one, place in zip(row, axes, strict=False):
            one.draw(place)
        for place in axes[len(row) :]:
            figure.delaxes(place)
    return figure
