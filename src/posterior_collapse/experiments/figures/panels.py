"""Panels of images: reconstructions beside originals, and grids over hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.experiments.figures.chart import (
    COLUMN,
    LETTER,
    PAGE,
    Chart,
    arranged,
    style,
)
from posterior_collapse.experiments.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Images = NDArray[np.float64]
MOST_COLUMNS = 30
"""Images beside each other on a page."""
EDGE = 0.04
"""Inches around an image."""


def panel(
    blocks: Mapping[str, ArrayLike],
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    row_name: str = "",
    column_name: str = "",
    runs: Mapping[str, ArrayLike] | None = None,
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

    Raises:
        InvalidArgumentError: Images that are not four-dimensional.

    Example:
        >>> chart = panel({"original": np.zeros((2, 3, 8, 8)), "mean": np.ones((2, 3, 8, 8))})
        >>> len(chart.table.rows), chart.table.rows[-1], chart.images["mean"].shape
        (12, ['mean', 2, 3, '', '', ''], (2, 3, 8, 8))
    """
    images = {title: _images(title, block) for title, block in blocks.items()}
    mosaics = {title: _mosaic(block) for title, block in images.items()}
    names = max(map(len, rows), default=0) * LETTER + 0.2 * bool(row_name)
    with style():
        figure, axes = _fitting(
            mosaics,
            lines=-(-sum(block.shape[1] for block in images.values()) // MOST_COLUMNS),
            left=names + 0.1 * bool(rows),
            below=0.4 * bool(columns),
        )
        for box, (title, block) in zip(axes, images.items(), strict=True):
            box.imshow(mosaics[title], cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
            box.set_title(title)
            box.set(xticks=[], yticks=[])
            box.tick_params(length=0)
            box.spines[:].set_visible(True)
            height, width = block.shape[2:]
            if not _labelled(block, rows, columns):
                continue
            box.set_xticks([(width + 1) * (i + 0.5) - 1 for i in range(len(columns))], columns)
            box.set_xlabel(column_name)
            if box is axes[0]:
                box.set_yticks([(height + 1) * (i + 0.5) - 1 for i in range(len(rows))], rows)
                box.set_ylabel(row_name)
    steps = {title or "images": np.rint(255 * b).astype(np.uint8) for title, b in images.items()}
    return Chart(figure, _index(images, rows, columns, runs or {}), steps)


def _fitting(
    mosaics: Mapping[str, Images], *, lines: int, left: float, below: float
) -> tuple[Figure, list[Axes]]:
    """Return axes for images of one scale, in lines that fill the page, on a figure of their size.

    Args:
        mosaics: Title -> the image under it.
        lines: Number of lines.
        left: Inches for labels, once per line.
        below: Inches for labels below each image.
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


def _images(title: str, block: ArrayLike) -> Images:
    images = np.asarray(block, dtype=float)
    if images.ndim != 4 or not images.size:
        raise InvalidArgumentError(
            f"blocks[{title!r}]",
            f"shape {images.shape}",
            "shape (rows, columns, height, width), nothing empty",
            "Reshape the images.",
        )
    return np.asarray(np.clip(images, 0, 1))


def _mosaic(block: Images) -> Images:
    """Return the images in one, a light line between them."""
    framed = np.pad(block, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=0.15)
    rows, columns, height, width = framed.shape
    joined = framed.swapaxes(1, 2).reshape(rows * height, columns * width)
    return np.asarray(joined[:-1, :-1])


def _labelled(block: Images, rows: Sequence[str], columns: Sequence[str]) -> bool:
    down, across = block.shape[:2]
    return (down, across) == (len(rows) or down, len(columns) or across)


def _index(
    images: Mapping[str, Images],
    rows: Sequence[str],
    columns: Sequence[str],
    runs: Mapping[str, ArrayLike],
) -> Table:
    lines: list[list[Any]] = []
    for title, block in images.items():
        down, across = block.shape[:2]
        labelled = _labelled(block, rows, columns)
        names = list(rows) if rows and labelled else [""] * down
        heads = list(columns) if columns and labelled else [""] * across
        keys = np.broadcast_to(np.asarray(runs.get(title, "")), (down, across))
        lines += [
            [title, i + 1, j + 1, names[i], heads[j], str(keys[i, j])]
            for i in range(down)
            for j in range(across)
        ]
    return Table(["block", "row", "column", "row label", "column label", "run"], lines)
