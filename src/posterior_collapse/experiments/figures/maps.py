"""Figures of cells: matrices, and phase diagrams."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posterior_collapse.experiments.figures.chart import Chart, array, grid, legends_below, style
from posterior_collapse.experiments.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh

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


Float = NDArray[np.float64]


def phase(
    betas: ArrayLike,
    eta_decs: ArrayLike,
    measured: Mapping[str, ArrayLike],
    onset: Mapping[str, ArrayLike],
    *,
    found: Mapping[str, ArrayLike] | None = None,
) -> Chart:
    """Draw active units over beta and eta_dec, with the onset of total collapse.

    Args:
        betas: Rows, positive, ascending, shape (rows,).
        eta_decs: Columns, positive, ascending, in data units, shape (columns,).
        measured: Architecture -> active units, shape (rows, columns); NaN where nothing ran.
        onset: Architecture -> theory's beta of total collapse at each eta_dec, shape (columns,).
        found: Architecture -> measured beta of total collapse, shape (columns,); NaN: none.

    Example:
        >>> chart = phase([0.5, 2], [0.5, 1], {"mlp": [[8, 2], [3, 0]]}, {"mlp": [4.0, 1.0]})
        >>> chart.table.rows[-1]
        ['mlp', 2.0, 1.0, 0.0, 1.0, None]
    """
    from matplotlib.ticker import MaxNLocator

    rows, columns = array(betas), array(eta_decs)
    lines = {name: array(line) for name, line in onset.items()}
    counts = {name: np.asarray(active, dtype=float) for name, active in measured.items()}
    most = max(float(np.nanmax(active, initial=1.0)) for active in counts.values())
    trained = {name: array(values) for name, values in (found or {}).items()}
    edges = _edges(columns), _edges(rows)
    with style():
        figure, axes = grid(list(counts), height=2.7, sharey=True)
        for box, (name, active) in zip(axes, counts.items(), strict=True):
            mesh = _cells(box, *edges, active, most)
            _outlined(
                box, *_to_edges(columns, lines[name]), "--", "onset of total collapse, theory"
            )
            if name in trained:
                across, up = np.repeat(edges[0], 2)[1:-1], np.repeat(trained[name], 2)
                _outlined(box, across, up, "-", "onset, trained")
            _ticks(box, columns, rows)
            box.set_xlim(edges[0][0], edges[0][-1])
            box.set_ylim(edges[1][0], edges[1][-1])
            box.set_xlabel("eta_dec (data units)")
        axes[0].set_ylabel("beta")
        figure.colorbar(
            mesh, ax=axes, label="active units", aspect=30, ticks=MaxNLocator(integer=True)
        )
        legends_below(figure, axes)
    ends: dict[str, list[float | None]] = {
        name: trained[name].tolist() if name in trained else [None] * columns.size
        for name in counts
    }
    table = [
        [name, beta, *column]
        for name, active in counts.items()
        for beta, there in zip(rows.tolist(), active.tolist(), strict=True)
        for column in zip(columns.tolist(), there, lines[name].tolist(), ends[name], strict=True)
    ]
    heads = ["architecture", "beta", "eta_dec", "active units", "onset, theory", "onset, trained"]
    return Chart(figure, Table(heads, table))


def _cells(box: Axes, across: Float, up: Float, active: Float, most: float) -> QuadMesh:
    """Draw the counts as colours and numbers; what did not run stays hatched."""
    from matplotlib.patheffects import withStroke

    box.set_xscale("log")
    box.set_yscale("log")
    box.set_facecolor("0.9")
    mesh = box.pcolormesh(
        across, up, np.ma.masked_invalid(active), cmap="cividis", vmin=0, vmax=most
    )
    centred: Any = {"size": 6, "ha": "center", "va": "center", "zorder": 4}
    for (i, j), count in np.ndenumerate(active):
        if np.isfinite(count):
            ink, around = ("white", "black") if count < most / 2 else ("black", "white")
            text = box.text(
                float(np.sqrt(across[j] * across[j + 1])),
                float(np.sqrt(up[i] * up[i + 1])),
                f"{count:.3g}",
                color=ink,
                **centred,
            )
            text.set_path_effects([withStroke(linewidth=1.2, foreground=around, alpha=0.6)])
    return mesh


def _outlined(box: Axes, x: Float, y: Float, dashes: str, label: str) -> None:
    box.plot(x, y, color="white", lw=2.4)
    box.plot(x, y, color="black", lw=1.2, ls=dashes, label=label)


def _ticks(box: Axes, columns: Float, rows: Float) -> None:
    from matplotlib.ticker import NullLocator

    box.set_xticks(columns, [f"{value:.2g}" for value in columns])
    box.set_yticks(rows, [f"{value:.3g}" for value in rows])
    for axis in (box.xaxis, box.yaxis):
        axis.set_minor_locator(NullLocator())


def _to_edges(columns: Float, line: Float) -> tuple[Float, Float]:
    """Return a line, straight between points on log scales, that reaches both borders."""
    edges = _edges(columns)
    x, y = np.log(columns), np.log(line)
    first, last = (y[0], y[-1])
    if columns.size > 1:
        first += (np.log(edges[0]) - x[0]) * (y[1] - y[0]) / (x[1] - x[0])
        last += (np.log(edges[-1]) - x[-1]) * (y[-1] - y[-2]) / (x[-1] - x[-2])
    return np.array([edges[0], *columns, edges[-1]]), np.exp([first, *y, last])


def _edges(values: Float) -> Float:
    """Return the borders of cells around values on a log scale."""
    if values.size == 1:
        return np.asarray(values[0] * np.array([0.8, 1.25]))
    logs = np.log(values)
    middle = (logs[1:] + logs[:-1]) / 2
    ends = 2 * logs[0] - middle[0], 2 * logs[-1] - middle[-1]
    return np.exp(np.concatenate(([ends[0]], middle, [ends[1]])))
