"""Figures made of cells: matrices, phase diagrams, and images in grids."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from posterior_collapse.arrays import Float
from posterior_collapse.experiments.figures import (
    COLUMN,
    LETTER,
    PAGE,
    Chart,
    arranged,
    array,
    panels,
    style,
    symbols,
)
from posterior_collapse.experiments.tables import Table
from posterior_collapse.report.figures.panels import BLUE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

MOST_NORMS = 12
"""Columns of a matrix up to which there is room for their norms."""


def heat_maps(matrices: Mapping[str, ArrayLike], *, x: str = "unit", y: str = "") -> Chart:
    r"""Draw matrices in diverging scales, zero white; under each column stands its norm.

    Columns are latent units. Two matrices stand beside each other, in one scale.

    Example:
        >>> chart = heat_maps({"U": [[3.0, 0.0], [4.0, 0.0]]})
        >>> [label.get_text() for label in chart.figure.axes[0].get_xticklabels()]
        ['1\n5.0', '2\n0.0']
    """
    arrays = {title: np.atleast_2d(np.asarray(m, dtype=float)) for title, m in matrices.items()}
    largest = [float(np.abs(matrix).max(initial=0)) for matrix in arrays.values()]
    below, height = f"{x}; below it, the norm of its column", 2.3 if len(arrays) <= 4 else 1.7
    with panels(arrays, y=y, below=below, most=2, height=height, sharey=True) as (figure, drawn):
        for number, (box, matrix) in enumerate(drawn):
            rows, units = matrix.shape
            beside = slice(number - number % 2, number - number % 2 + 2)
            top = max(largest[beside]) or 1.0
            decimals = max(0, 1 - math.floor(math.log10(top)))
            place = (0.5, units + 0.5, rows + 0.5, 0.5)
            shown = box.imshow(
                matrix, cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto", extent=place
            )
            if units <= MOST_NORMS:
                norms = np.linalg.norm(matrix, axis=0)
                labels = [f"{i}\n{norm:.{decimals}f}" for i, norm in enumerate(norms, 1)]
                box.set_xticks(range(1, units + 1), labels, size=6)
            box.spines[:].set_visible(True)
            if number % 2 or number == len(drawn) - 1:
                figure.colorbar(shown, ax=[box for box, _ in drawn[beside]], aspect=15)
    widest = max(matrix.shape[1] for matrix in arrays.values())
    entries = [
        [title, number, *row, *[None] * (widest - len(row))]
        for title, matrix in arrays.items()
        for number, row in enumerate(matrix.tolist(), 1)
    ]
    return Chart(
        figure, Table(["matrix", "row", *(f"{x} {i}" for i in range(1, widest + 1))], entries)
    )


def phase(
    betas: ArrayLike,
    eta_decs: ArrayLike,
    active: Mapping[str, ArrayLike],
    theory: Mapping[str, ArrayLike],
    trained: Mapping[str, ArrayLike],
) -> Chart:
    """Draw active units over beta and eta_dec, with the onset of total collapse.

    Args:
        betas: Rows, positive, ascending, shape (rows,).
        eta_decs: Columns, positive, ascending, in data units, shape (columns,).
        active: Architecture -> active units, shape (rows, columns); NaN where nothing ran.
        theory: Architecture -> theory's beta of total collapse at each eta_dec, shape (columns,).
        trained: Architecture -> measured beta of total collapse, shape (columns,); NaN: none.

    Example:
        >>> counts = {"mlp": [[8, 2], [3, 0]]}
        >>> chart = phase([0.5, 2], [0.5, 1], counts, {"mlp": [4, 1]}, {"mlp": [3, 2]})
        >>> chart.table.rows[-1]
        ['mlp', 2.0, 1.0, 0.0, 1.0, 2.0]
    """
    from matplotlib.ticker import MaxNLocator

    rows, columns = array(betas), array(eta_decs)
    counts = {name: np.asarray(values, dtype=float) for name, values in active.items()}
    most = max(float(np.nanmax(values, initial=1.0)) for values in counts.values())
    up = _edges(rows)
    given = {
        name: (values, array(theory[name]), array(trained[name])) for name, values in counts.items()
    }
    x = "eta_dec (data units)"
    with panels(given, x=x, y="beta", height=2.7, sharey=True) as (figure, drawn):
        for box, (values, onset, found) in drawn:
            ran = np.isfinite(values).any(axis=0)
            ran |= not ran.any()  # columns of which nothing ran are left away
            across = _edges(columns[ran])
            mesh = _draw_counts(box, across, up, values[:, ran], most)
            for line, dashes, label in (
                (found, "-", "onset, trained"), (onset, "--", "onset of total collapse, theory"),
            ):  # fmt: skip
                at = np.repeat(across, 2)[1:-1], np.repeat(line[ran], 2)  # a step per column
                box.plot(*at, color="white", lw=2.4)
                box.plot(*at, color="black", lw=1.2, ls=dashes, label=label)
            box.set_xticks(columns[ran], [f"{value:.3g}" for value in columns[ran]])
            box.set_yticks(rows, [f"{value:.3g}" for value in rows])
            box.minorticks_off()
            box.set_xlim(across[0], across[-1])
            box.set_ylim(up[0], up[-1])
        whole = MaxNLocator(integer=True)
        figure.colorbar(mesh, ax=figure.axes, label="active units", aspect=30, ticks=whole)
    points = [
        [name, beta, *column]
        for name, (values, onset, found) in given.items()
        for beta, there in zip(rows.tolist(), values.tolist(), strict=True)
        for column in zip(columns.tolist(), there, onset.tolist(), found.tolist(), strict=True)
    ]
    heads = ["architecture", "beta", "eta_dec", "active units", "onset, theory", "onset, trained"]
    return Chart(figure, Table(heads, points))


def _draw_counts(box: Axes, across: Float, up: Float, active: Float, most: float) -> QuadMesh:
    """Draw the counts as colours and numbers between borders; what did not run stays grey."""
    from matplotlib.patheffects import withStroke

    box.set_xscale("log")
    box.set_yscale("log")
    box.set_facecolor("0.9")
    shown = np.ma.masked_invalid(active)
    mesh = box.pcolormesh(across, up, shown, cmap="cividis", vmin=0, vmax=most)
    centred: Any = {"size": 6, "ha": "center", "va": "center", "zorder": 4}
    for (i, j), count in np.ndenumerate(active):
        if np.isfinite(count):
            ink, around = ("white", "black") if count < most / 2 else ("black", "white")
            x, y = np.sqrt(across[j] * across[j + 1]), np.sqrt(up[i] * up[i + 1])
            text = box.text(float(x), float(y), f"{count:.3g}", color=ink, **centred)
            text.set_path_effects([withStroke(linewidth=1.2, foreground=around, alpha=0.6)])
    return mesh


def _edges(values: Float) -> Float:
    """Return the borders of cells around values on a log scale."""
    if values.size == 1:
        return np.asarray(values[0] * np.array([0.8, 1.25]))
    logs = np.log(values)
    middle = (logs[1:] + logs[:-1]) / 2
    ends = 2 * logs[0] - middle[0], 2 * logs[-1] - middle[-1]
    return np.exp(np.concatenate(([ends[0]], middle, [ends[1]])))


MOST_COLUMNS = 30
"""Images beside each other on a page."""
EDGE = 0.04
"""Inches around an image."""


def images(
    blocks: Mapping[str, ArrayLike],
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    row_name: str = "",
    column_name: str = "",
    runs: Mapping[str, ArrayLike] | None = None,
    notes: Mapping[str, Sequence[Sequence[str]]] | None = None,
) -> Chart:
    """Draw grids of grey images, dark ink on white paper.

    Args:
        blocks: Title (e.g. "original") -> images of shape (rows, columns, height, width), values
            from 0 (paper) to 1 (ink); what lies outside is clipped. Blocks stand side by side.
            The CSV has a row per image; the images themselves are kept beside it.
        rows: Label of each row, e.g. values of beta_1; only blocks of the labelled shape have it.
        columns: Label of each column, e.g. values of beta_2; likewise.
        row_name: What the row labels are values of.
        column_name: What the column labels are values of.
        runs: Title -> keys of the runs that made the images, of a shape that spreads over
            (rows, columns); data have none.
        notes: Title -> what is written into the corner of each image, (rows, columns).

    Example:
        >>> chart = images({"original": np.zeros((2, 3, 8, 8)), "mean": np.ones((2, 3, 8, 8))})
        >>> len(chart.table.rows), chart.table.rows[-1], chart.images["mean"].shape
        (12, ['mean', 2, 3, '', '', ''], (2, 3, 8, 8))
    """
    shown: dict[str, Float] = {
        title: np.clip(np.asarray(block, dtype=float), 0, 1) for title, block in blocks.items()
    }
    mosaics = {title: _mosaic(block) for title, block in shown.items()}
    names = max(map(len, rows), default=0) * LETTER + 0.2 * bool(row_name)
    table: list[list[Any]] = []
    with style():
        figure, axes = _fitting(
            mosaics,
            lines=-(-sum(block.shape[1] for block in shown.values()) // MOST_COLUMNS),
            left=names + 0.1 * bool(rows),
            below=0.4 * bool(columns),
        )
        for box, (title, block) in zip(axes, shown.items(), strict=True):
            box.imshow(mosaics[title], cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
            box.set_title(symbols(title))
            box.set(xticks=[], yticks=[])
            box.tick_params(length=0)
            box.spines[:].set_visible(True)
            down, across, height, width = block.shape
            labelled = (down, across) == (len(rows) or down, len(columns) or across)
            left, heads = (rows, columns) if labelled else ((), ())
            if labelled:
                box.set_xticks([(width + 1) * (i + 0.5) - 1 for i in range(len(heads))], heads)
                box.set_xlabel(symbols(column_name))
            if labelled and box is axes[0]:
                places = [(height + 1) * (i + 0.5) - 1 for i in range(len(left))]
                box.set_yticks(places, [symbols(name) for name in left])
                box.set_ylabel(symbols(row_name))
            for i, line in enumerate((notes or {}).get(title, ())):
                for j, note in enumerate(line):
                    at = (j * (width + 1) + 0.04 * width, i * (height + 1) + 0.02 * height)
                    box.text(*at, note, size=5, va="top", color=BLUE, weight="bold")
            keys = np.broadcast_to(np.asarray((runs or {}).get(title, "")), (down, across))
            table += [
                [title, i + 1, j + 1, left[i] if left else "", heads[j] if heads else "", str(key)]
                for (i, j), key in np.ndenumerate(keys)
            ]
    steps = {title or "images": np.rint(255 * b).astype(np.uint8) for title, b in shown.items()}
    about = ["block", "row", "column", "row label", "column label", "run"]
    return Chart(figure, Table(about, table), steps)


def _fitting(
    mosaics: Mapping[str, Float], *, lines: int, left: float, below: float
) -> tuple[Figure, list[Axes]]:
    """Return axes for images of one scale, in lines that fill the page, on a figure of their size.

    Labels take inches at the left, once per line, and below each image.
    """
    from matplotlib.figure import Figure

    beside = arranged(len(mosaics), -(-len(mosaics) // lines))[1]
    blocks = [(image.shape, len(title) * LETTER) for title, image in mosaics.items()]
    split = [blocks[i : i + beside] for i in range(0, len(blocks), beside)]
    page = COLUMN if len(blocks) == 1 else PAGE
    pixel = min(
        _pixel([(across, title) for (_, across), title in line], page - left - 2 * EDGE * len(line))
        for line in split
    )
    above = 0.25 * any(mosaics)
    heights = [
        max(down for (down, _), _ in line) * pixel + above + below + 2 * EDGE for line in split
    ]
    figure = Figure(figsize=(page, sum(heights)))
    axes, top = [], sum(heights)
    for line, high in zip(split, heights, strict=True):
        x, y = left + EDGE, top - above - EDGE
        for (down, across), title in line:
            height, width = pixel * down, pixel * across
            slack = max(title - width, 0) / 2
            place = ((x + slack) / page, (y - height) / sum(heights))
            axes.append(figure.add_axes((*place, width / page, height / sum(heights))))
            x += width + 2 * (slack + EDGE)
        top -= high
    return figure, axes


def _pixel(widths: Sequence[tuple[int, float]], room: float) -> float:
    """Return the inches of a pixel with which images fill the room beside each other.

    Args:
        widths: Of each image its pixels, and the inches that its title needs at least.
        room: Inches.

    Example:
        >>> _pixel([(30, 0.5), (10, 0.5)], 4.0), _pixel([(30, 0.5), (1, 1.0)], 4.0)
        (0.1, 0.1)
    """
    pixel = room / sum(pixels for pixels, _ in widths)
    narrow = sum(title for pixels, title in widths if pixels * pixel < title)
    others = sum(pixels for pixels, title in widths if pixels * pixel >= title)
    return (room - narrow) / others if others else pixel


def _mosaic(block: Float) -> Float:
    """Return the images in one, a light line between them."""
    framed = np.pad(block, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=0.15)
    rows, columns, height, width = framed.shape
    joined = framed.swapaxes(1, 2).reshape(rows * height, columns * width)
    return np.asarray(joined[:-1, :-1])
