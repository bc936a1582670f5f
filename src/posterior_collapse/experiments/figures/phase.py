"""The phase diagram: active units of trained models, and where theory expects total collapse."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from posterior_collapse.experiments.figures.chart import Chart, array, grid, style
from posterior_collapse.experiments.tables import Table


def phase(
    betas: ArrayLike,
    eta_decs: ArrayLike,
    measured: Mapping[str, ArrayLike],
    onset: ArrayLike,
    *,
    found: Mapping[str, ArrayLike] | None = None,
) -> Chart:
    """Draw active units over beta and eta_dec, with the onset of total collapse.

    Args:
        betas: Rows, ascending, shape (rows,).
        eta_decs: Columns, ascending, in data units, shape (columns,).
        measured: Architecture -> active units, shape (rows, columns); NaN where nothing ran.
        onset: Theory's beta of total collapse at each eta_dec, shape (columns,).
        found: Architecture -> measured beta of total collapse, shape (columns,); NaN: none.

    Example:
        >>> chart = phase([0.5, 2], [0.5, 1], {"mlp": [[8, 2], [3, 0]]}, [4.0, 1.0])
        >>> chart.table.rows[-1]
        ['mlp', 2.0, 1.0, 0.0, 1.0]
    """
    rows, columns, line = array(betas), array(eta_decs), array(onset)
    counts = {k: np.asarray(v, dtype=float) for k, v in measured.items()}
    most = max(float(np.nanmax(v)) for v in counts.values())
    with style():
        figure, axes = grid(list(counts), height=2.6, sharey=True)
        for box, (name, active) in zip(axes, counts.items(), strict=True):
            box.set_facecolor("0.9")
            mesh = box.pcolormesh(
                columns,
                rows,
                np.ma.masked_invalid(active),
                cmap="cividis",
                shading="nearest",
                vmin=0,
                vmax=max(most, 1),
                rasterized=True,
            )
            for beta, counts_there in zip(rows.tolist(), active.tolist(), strict=True):
                for eta_dec, count in zip(columns.tolist(), counts_there, strict=True):
                    ink = "white" if count < most / 2 else "black"
                    if np.isfinite(count):
                        box.text(
                            eta_dec, beta, f"{count:.3g}", c=ink, size=6, ha="center", va="center"
                        )
            box.plot(columns, line, color="white", lw=2.4)
            box.plot(columns, line, color="black", ls="--", label="theory: all collapse above")
            if found and name in found:
                box.plot(
                    columns,
                    array(found[name]),
                    "v",
                    color="white",
                    mec="black",
                    ms=5,
                    label="measured onset",
                )
            box.set_xscale("log")
            box.set_yscale("log")
            box.set_xlabel("eta_dec (data units)")
        axes[0].set_ylabel("beta")
        figure.colorbar(mesh, ax=axes, label="active units", aspect=30)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    table = [
        [name, float(rows[i]), float(columns[j]), float(value), float(line[j])]
        for name, active in counts.items()
        for (i, j), value in np.ndenumerate(active)
    ]
    return Chart(figure, Table(["architecture", "beta", "eta_dec", "active units", "onset"], table))
