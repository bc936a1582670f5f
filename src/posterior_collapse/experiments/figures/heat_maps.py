"""Matrices of linear models as heat maps."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posterior_collapse.experiments.figures.chart import Chart, grid, style
from posterior_collapse.experiments.tables import Table

MOST_NORMS = 12
"""Columns of a matrix up to which there is room for their norms."""


def heat_maps(
    matrices: Mapping[str, ArrayLike], *, x: str = "unit", y: str = "", most: int | None = None
) -> Chart:
    r"""Draw matrices in one diverging scale, zero white; under each column stands its norm.

    Args:
        matrices: Title -> matrix, a column per latent unit.
        x: What the columns are.
        y: What the rows are.
        most: Matrices beside each other at most; None: up to four in one row, else three.

    Example:
        >>> chart = heat_maps({"U": [[3.0, 0.0], [4.0, 0.0]]})
        >>> [label.get_text() for label in chart.figure.axes[0].get_xticklabels()]
        ['1\n5.0', '2\n0.0']
    """
    arrays = {title: np.atleast_2d(np.asarray(m, dtype=float)) for title, m in matrices.items()}
    top = max((float(np.abs(m).max(initial=0)) for m in arrays.values()), default=0) or 1.0
    decimals = max(0, 1 - math.floor(math.log10(top)))
    with style():
        beside = most or (4 if len(arrays) <= 4 else 3)
        height = 2.3 if len(arrays) <= 2 * beside else 1.7
        figure, axes = grid(list(arrays), most=beside, height=height, sharey=True)
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
                labels = [f"{i}\n{norm:.{decimals}f}" for i, norm in enumerate(norms, 1)]
                box.set_xticks(range(1, units + 1), labels, size=6)
            box.spines[:].set_visible(True)
        axes[0].set_ylabel(y)
        figure.supxlabel(f"{x}; below it, the norm of its column", size=8)
        figure.colorbar(shown, ax=axes, shrink=0.9, aspect=30)
    return Chart(figure, _entries(arrays, x))


def _entries(matrices: Mapping[str, NDArray[np.float64]], unit: str) -> Table:
    most = max(matrix.shape[1] for matrix in matrices.values())
    rows = [
        [title, number, *row, *[None] * (most - len(row))]
        for title, matrix in matrices.items()
        for number, row in enumerate(matrix.tolist(), 1)
    ]
    return Table(["matrix", "row", *(f"{unit} {i}" for i in range(1, most + 1))], rows)
