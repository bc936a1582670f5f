"""The figures of the paper's experiments, drawn from plain values: what all of them share.

Size, type, looks that survive grey print, and the files that a `Chart` becomes. Each function of
`lines` (curves and points), `measures` (what was measured beside theory), `cells` (matrices, phase
diagrams, images) and `answers` (counts) returns one: the figure and, beside it, its CSV's rows.
"""

from __future__ import annotations

import io
import os
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posterior_collapse import files
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.experiments.tables import Table
from posterior_collapse.report import save_figure
from posterior_collapse.report.names import SYMBOLS, symbol, typeset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

T = TypeVar("T")
Line: TypeAlias = tuple[ArrayLike, ArrayLike]
"""Points of a curve: x and y, of equal length."""
Panels: TypeAlias = Mapping[str, Mapping[str, Line]]
"""Title of each panel -> label of each curve -> the curve."""

DPI = 200
MOST_BESIDE = 3
"""Panels in a row."""
LETTER = 0.06
"""Inches that a letter needs, on average and with some to spare."""
AXIS = 0.4
"""Inches that the y axis needs beside a panel."""
UNDER_AXES = 0.42
"""Inches that ticks and the name of the x axis need."""
COLUMN, PAGE = 3.4, 5.5
"""Widths in inches: one column of a two-column page, and the text of a one-column page."""
STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7,
    "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "axes.spines.top": False, "axes.spines.right": False, "axes.formatter.useoffset": False,
    "legend.frameon": False, "lines.linewidth": 1.2,
    "pdf.fonttype": 42,  # letters stay text that can be searched and edited
}  # fmt: skip
MARKERS = "os^Dvx+P*h"
DASHES = (
    *("-", (0, (5, 1.5)), (0, (4, 1.2, 1, 1.2)), (0, (1.2, 1.2))),
    *((0, (3, 1, 1, 1, 1, 1)), (0, (8, 1.5, 1.2, 1.5))),
)


class Chart(NamedTuple):
    """A figure and the numbers behind it.

    Attributes:
        images: Of a figure of images: title -> (rows, columns, height, width), in 256 steps.
    """

    figure: Figure
    table: Table
    images: Mapping[str, NDArray[np.uint8]] | None = None

    def save(self, folder: str | os.PathLike[str], name: str) -> list[Path]:
        """Write `name`.pdf, .png, .csv and, of images, .npz into a folder, and return the paths."""
        target = Path(folder) / name
        with style():
            paths = [save_figure(self.figure, f"{target}{e}", dpi=DPI) for e in (".pdf", ".png")]
        paths.append(self.table.save(folder, name))
        if self.images is not None:
            content = io.BytesIO()
            # Pixels as text would take ten times the room.
            np.savez_compressed(content, **self.images)  # type: ignore[arg-type]
            paths.append(Path(f"{target}.npz"))
            files.write(paths[-1], content.getvalue())
        return paths


def symbols(text: str) -> str:
    r"""Return a text with hyperparameters as they are printed.

    Example:
        >>> print(symbols("beta_1 at eta_dec^2 = 0.5, eps; a beta grid, Sigma and sigma_1"))
        β₁ at η$_\mathrm{dec}$² = 0.5, ε; a β grid, Σ and σ₁
    """
    names = rf"\b(?:{'|'.join(SYMBOLS)})(?:_(?:\d|dec|enc))?\b"
    return typeset(re.sub(names, lambda found: symbol(found[0]), text)).replace("^2", "²")


@contextmanager
def style() -> Iterator[None]:
    """Draw in the style of the reproduction, whatever the user's matplotlibrc says."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


@contextmanager
def panels(
    contents: Mapping[str, T],
    *,
    x: str = "",
    y: str = "",
    below: str = "",
    height: float = 2.3,
    most: int = MOST_BESIDE,
    sharex: bool = False,
    sharey: bool = False,
    legend: bool = True,
) -> Iterator[tuple[Figure, list[tuple[Axes, T]]]]:
    """Give a figure, and per panel its axes and what to draw there; then name axes and curves.

    Args:
        contents: Title of each panel ("" for none) -> what to draw there.
        x: Name of each x axis.
        y: Name of the y axis: said once where panels share it, else at the start of each row.
        below: What stands below all panels.
        height: Height of a row in inches.
        most: Panels beside each other at most.
        sharex: Whether panels have one x axis.
        sharey: Whether they have one y axis.
        legend: Whether to write below the panels what their labelled curves are.

    Raises:
        InvalidArgumentError: No panel.
    """
    from matplotlib.figure import Figure

    if not contents:
        raise InvalidArgumentError("panels", "none", "at least one panel", "Pass what to draw.")
    rows, columns = arranged(len(contents), most)
    page = COLUMN if columns == 1 else PAGE
    with style():
        figure = Figure(figsize=(page, height * rows), layout="constrained")
        boxes = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
        axes = boxes.ravel().tolist()
        for empty in axes[len(contents) :]:
            figure.delaxes(empty)
        axes = axes[: len(contents)]
        for box, title in zip(axes, contents, strict=True):
            wide = int(room(box) / LETTER)
            box.set_title(symbols(textwrap.fill(title, wide, break_on_hyphens=False)))
        yield figure, list(zip(axes, contents.values(), strict=True))
        for number, box in enumerate(axes):
            if x:
                box.set_xlabel(symbols(x))
            if y and number % columns == 0 and not (number and sharey):
                box.set_ylabel(symbols(y))
        if below:
            figure.supxlabel(symbols(below), size=8)
        if legend:
            _legends_below(figure, axes)


def room(box: Axes) -> float:
    """Return the inches that a panel has beside its y axis."""
    width, place = box.get_figure().get_figwidth(), box.get_subplotspec()  # type: ignore[union-attr]
    return width / place.get_geometry()[1] - AXIS  # type: ignore[union-attr]


def arranged(count: int, most: int) -> tuple[int, int]:
    """Return rows and columns of `count` panels, at most `most` beside each other.

    Example:
        >>> [arranged(count, 3) for count in (2, 4, 5, 7)]
        [(1, 2), (2, 2), (2, 3), (3, 3)]
    """
    rows = -(-count // most)
    return rows, -(-count // rows)


def looks(count: int, *, hues: bool = False) -> list[dict[str, Any]]:
    """Return colour and dashes of ordered curves, from dark to light also in grey.

    Args:
        count: How many.
        hues: In all colours instead, for more curves than shades of one hue tell apart.
    """
    import matplotlib

    name, first, last = ("turbo", 0.04, 0.96) if hues else ("cividis", 0, 0.75)
    shades = matplotlib.colormaps[name](np.linspace(first, last, count))
    return [
        {"color": tuple(shade), "linestyle": dashes}
        for shade, dashes in zip(shades, cycle(DASHES), strict=False)
    ]


def _legends_below(figure: Figure, axes: Sequence[Axes]) -> None:
    """Write what the curves are below the panels: once, or per panel where panels differ.

    The figure grows by the height of the legend, so that the panels keep theirs.
    """
    from matplotlib.transforms import ScaledTranslation

    found = [box.get_legend_handles_labels() for box in axes]
    entries = [(handles, [symbols(label) for label in labels]) for handles, labels in found]
    handles, labels = entries[0]
    if not any(labels):
        return
    legends: dict[int, tuple[int, Legend]] = {}  # the highest of each row of panels, and its lines
    if all(other == labels for _, other in entries):
        columns = _columns(figure.get_figwidth(), labels)
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns)
        legends[0] = 1, legend
    else:
        below = ScaledTranslation(0, -UNDER_AXES, figure.dpi_scale_trans)
        place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0)}
        for box, (handles, names) in zip(axes, entries, strict=True):
            columns = _columns(room(box) + AXIS, names)
            place["bbox_transform"] = box.transAxes + below
            legend = box.legend(handles, names, ncols=columns, **place)
            row = box.get_subplotspec().rowspan.start  # type: ignore[union-attr]
            high = -(-len(names) // columns)
            if high > legends.get(row, (0, legend))[0]:
                legends[row] = high, legend
    figure.draw_without_rendering()
    grown = sum(each.get_window_extent().height for _, each in legends.values()) / figure.dpi
    figure.set_figheight(figure.get_figheight() + grown)


def _columns(width: float, labels: Sequence[str]) -> int:
    """Return how many entries of a legend fit beside each other in `width` inches."""
    widths = [0.5 + LETTER * len(label) for label in labels]
    return len(labels) if sum(widths) <= width else max(1, min(5, int(width / max(widths))))


def array(values: ArrayLike) -> NDArray[np.float64]:
    """Return values as a flat float64 array."""
    return np.asarray(values, dtype=np.float64).ravel()


def long(panels: Panels, x: str, y: str) -> Table:
    """Return the points of all curves, a row per point."""
    rows = [
        [title, label, *point]
        for title, lines in panels.items()
        for label, line in lines.items()
        for point in zip(*(array(values).tolist() for values in line), strict=True)
    ]
    return Table(["panel", "curve", x, y], rows)
