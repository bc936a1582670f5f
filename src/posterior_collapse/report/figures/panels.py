"""Panels of a figure, which go into a figure of their own or into axes that someone has."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.report.names import typeset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY, GREEN = "#0072B2", "#D55E00", "#999999", "#009E73"
"""From the palette of Okabe and Ito, told apart by colour-blind readers and in grey."""
LINES = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#999933", "#AA4499", "#44AA99",
         GREY)  # fmt: skip
BANDS = (BLUE, "#56B4E9", GREEN, "#F0E442", "#E69F00", ORANGE, "#CC79A7", "#882255", "#44AA99",
         "#999933")  # fmt: skip
"""Neighbours differ in lightness too."""
WIDEST = 110
"""Characters of a line of a figure's title."""
FINE = 1e3
"""Ratio of the ends of an axis up to which powers of ten have numbers between them."""
APART = 5.0
"""Points between markers that would hide each other."""


@dataclass(frozen=True)
class Panel:
    """One plot, by the name by which it is asked for."""

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


def titled(*parts: str) -> str:
    """Return what a figure is of: settings, the data's name and the like, as far as known.

    Example:
        >>> titled("VAE, 16 latent units", "", "1,797 rows")
        'VAE, 16 latent units; 1,797 rows'
    """
    return "; ".join(filter(None, parts))


def whole_numbers(axis: Axis) -> None:
    """Let an axis of counts have whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def plain_log(axes: Axes, name: Literal["x", "y"] = "x") -> None:
    """Make an axis logarithmic, with numbers as people write them."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set(**{f"{name}scale": "log"})
    low, high = axes.get_xlim() if name == "x" else axes.get_ylim()
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < FINE * low else (1.0,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def map_of_counts(axes: Axes, x: Any, y: Any, counts: Any, name: str) -> None:
    """Draw counts, (rows, columns), over ascending numbers; below 0 there is none."""
    from matplotlib.ticker import MaxNLocator

    mesh = axes.pcolormesh(
        x, y, np.ma.masked_less(counts, 0), cmap="cividis", shading="nearest", rasterized=True
    )
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.colorbar(mesh, ax=axes, label=name, ticks=MaxNLocator(integer=True))


def side_by_side(axes: Axes, points: Sequence[tuple[float, float]], look: str, **how: Any) -> None:
    """Draw markers; what stands in one place, such as seeds that agree, is drawn beside it."""
    from matplotlib.transforms import ScaledTranslation

    figure = axes.get_figure(root=True)
    assert figure is not None
    many, placed = Counter(points), Counter[tuple[float, float]]()
    shifted: dict[float, list[tuple[float, float]]] = {}
    for point in points:
        shifted.setdefault(APART * (placed[point] - (many[point] - 1) / 2), []).append(point)
        placed[point] += 1
    for shift, those in shifted.items():
        beside = ScaledTranslation(shift / 72, 0, figure.dpi_scale_trans)
        axes.plot(*zip(*those, strict=True), look, transform=axes.transData + beside, **how)
        how.pop("label", None)
    if points:
        # Axes make no room by themselves for what is drawn with a transform of its own.
        axes.update_datalim(points)
        axes.autoscale_view()


def drawn(panels: Panels, ax: Any = None, panel: str | None = None) -> Figure:
    """Return the figure that panels were drawn into; see `posterior_collapse.plot`."""
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
        whole = panels.title.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
        title = "\n".join(textwrap.fill(line, wide) for line in whole.split("\n"))
        figure.suptitle(typeset(title.replace("\N{NO-BREAK SPACE}", " ")), fontsize=10)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for row, axes in zip(rows, grid, strict=True):
        for one, place in zip(row, axes, strict=False):
            one.draw(place)
        for place in axes[len(row) :]:
            figure.delaxes(place)
    return figure
