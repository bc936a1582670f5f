"""Images: panels of reconstructions, and matrices as heat maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.experiments.figures.chart import (
    COLUMN,
    MOST_BESIDE,
    PAGE,
    Chart,
    grid,
    style,
)
from posterior_collapse.experiments.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NORMS = 12
"""Columns of a matrix up to which there is room for their norms."""


def panel(
    blocks: Mapping[str, ArrayLike],
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    row_name: str = "",
    column_name: str = "",
) -> Chart:
    """Draw grids of grey images, dark ink on white paper.

    Args:
        blocks: Title (e.g. "original") -> images of shape (rows, columns, height, width), values
            from 0 (paper) to 1 (ink); what lies outside is clipped. Blocks stand side by side.
            The CSV has a row per image, in 256 steps.
        rows: Label of each row, e.g. values of beta_1.
        columns: Label of each column, e.g. values of beta_2.
        row_name: What the row labels are values of.
        column_name: What the column labels are values of.

    Raises:
        InvalidArgumentError: Images that are not four-dimensional.

    Example:
        >>> chart = panel({"original": np.zeros((2, 3, 8, 8)), "mean": np.ones((2, 3, 8, 8))})
        >>> len(chart.table.rows), len(chart.table.columns)
        (12, 67)
    """
    images = {title: _images(title, block) for title, block in blocks.items()}
    mosaics = {title: _mosaic(block) for title, block in images.items()}
    with style():
        figure, axes = _fitting(mosaics, bool(rows), bool(columns))
        for box, (title, block) in zip(axes, images.items(), strict=True):
            height, width = block.shape[2:]
            box.imshow(mosaics[title], cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
            box.set_title(title)
            box.tick_params(length=0)
            box.set_xticks([(width + 1) * i + width / 2 for i in range(len(columns))], columns)
            box.set_yticks([(height + 1) * i + height / 2 for i in range(len(rows))], rows)
            box.set_xlabel(column_name)
            box.spines[:].set_visible(True)
        axes[0].set_ylabel(row_name)
    return Chart(figure, _pixels(images))


def heat_maps(matrices: Mapping[str, ArrayLike], *, x: str = "unit", y: str = "") -> Chart:
    r"""Draw matrices in one diverging scale, zero white; under each column stands its norm.

    Args:
        matrices: Title -> matrix, a column per latent unit.
        x: What the columns are.
        y: What the rows are.

    Example:
        >>> chart = heat_maps({"U": [[3.0, 0.0], [4.0, 0.0]]})
        >>> [label.get_text() for label in chart.figure.axes[0].get_xticklabels()]
        ['1\n5', '2\n0']
    """
    arrays = {title: np.atleast_2d(np.asarray(m, dtype=float)) for title, m in matrices.items()}
    top = max((float(np.abs(m).max(initial=0)) for m in arrays.values()), default=0) or 1.0
    with style():
        figure, axes = grid(list(arrays), most=4, sharey=True)
        for box, matrix in zip(axes, arrays.values(), strict=True):
            height, units = matrix.shape
            shown = box.imshow(
                matrix,
                cmap="RdBu_r",
                vmin=-top,
                vmax=top,
                aspect="auto",
                extent=(0.5, units + 0.5, height + 0.5, 0.5),
            )
            if units <= MOST_NORMS:
                norms = np.linalg.norm(matrix, axis=0)
                box.set_xticks(
                    range(1, units + 1), [f"{i}\n{n:.2g}" for i, n in enumerate(norms, 1)], size=6
                )
            box.spines[:].set_visible(True)
        axes[0].set_ylabel(y)
        figure.supxlabel(f"{x}; below it, the norm of its column", size=8)
        figure.colorbar(shown, ax=axes, shrink=0.9, aspect=30)
    return Chart(figure, _entries(arrays, x))


def _fitting(
    mosaics: Mapping[str, NDArray[np.float64]], rows: bool, columns: bool
) -> tuple[Figure, list[Axes]]:
    """Return axes as large as the page allows, in a figure as high as the images then are."""
    from matplotlib.figure import Figure

    beside = min(len(mosaics), MOST_BESIDE)
    page = COLUMN if beside == 1 else PAGE
    left, below, above, edge = 0.45 * rows, 0.4 * columns, 0.25 * any(mosaics), 0.04
    width = (page - beside * (left + 2 * edge)) / beside
    height = width * max(image.shape[0] / image.shape[1] for image in mosaics.values())
    across, down = left + width + 2 * edge, below + height + above + 2 * edge
    lines = -(-len(mosaics) // beside)
    figure = Figure(figsize=(page, lines * down))
    axes = []
    for number in range(len(mosaics)):
        line, place = divmod(number, beside)
        x, y = place * across + left + edge, (lines - 1 - line) * down + below + edge
        sizes = (x / page, y / (lines * down), width / page, height / (lines * down))
        axes.append(figure.add_axes(sizes))
    return figure, axes


def _images(title: str, block: ArrayLike) -> NDArray[np.float64]:
    images = np.asarray(block, dtype=float)
    if images.ndim != 4 or not images.size:
        raise InvalidArgumentError(
            f"blocks[{title!r}]",
            f"shape {images.shape}",
            "shape (rows, columns, height, width), nothing empty",
            "Reshape the images.",
        )
    return np.asarray(np.clip(images, 0, 1))


def _mosaic(block: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the images in one, a light line between them."""
    framed = np.pad(block, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=0.15)
    rows, columns, height, width = framed.shape
    joined = framed.swapaxes(1, 2).reshape(rows * height, columns * width)
    return np.asarray(joined[:-1, :-1])


def _pixels(images: Mapping[str, NDArray[np.float64]]) -> Table:
    size = max(block.shape[2] * block.shape[3] for block in images.values())
    rows = [
        [title, i, j, *pixels.ravel().tolist(), *[None] * (size - pixels.size)]
        for title, block in images.items()
        for i, line in enumerate(np.rint(255 * block).astype(int), 1)
        for j, pixels in enumerate(line, 1)
    ]
    return Table(["block", "row", "column", *(f"pixel {k}" for k in range(size))], rows)


def _entries(matrices: Mapping[str, NDArray[np.float64]], unit: str) -> Table:
    most = max(matrix.shape[1] for matrix in matrices.values())
    rows = [
        [title, number, *row, *[None] * (most - len(row))]
        for title, matrix in matrices.items()
        for number, row in enumerate(matrix.tolist(), 1)
    ]
    return Table(["matrix", "row", *(f"{unit} {i}" for i in range(1, most + 1))], rows)
