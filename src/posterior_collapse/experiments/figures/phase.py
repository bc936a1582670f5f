"""The phase diagram: active units of trained models, and where theory expects total collapse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posterior_collapse.experiments.figures.chart import Chart, array, grid, legends_below, style
from posterior_collapse.experiments.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh

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
