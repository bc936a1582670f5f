"""Figures: the spectrum against its threshold, and the phase diagram around the present spec."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from posterior_collapse import files
from posterior_collapse.errors import InvalidArgumentError, writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from posterior_collapse.theory import Forecast

BLUE, ORANGE, GREY, GREEN = "#0072B2", "#D55E00", "#999999", "#009E73"
"""From the palette of Okabe and Ito, told apart by colour-blind readers and in grey."""
FORMATS = (".png", ".pdf", ".svg")


def forecast_figure(forecast: Forecast) -> Figure:
    """Return a figure of the data's spectrum with the threshold, and of the phase diagram.

    Args:
        forecast: What `posterior_collapse.forecast` returned.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _spectrum(left, forecast)
    _phase(figure, right, forecast)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> Path:
    """Write a figure as PNG, PDF or SVG, without a date; nothing half-written is left.

    Args:
        figure: The figure.
        path: Where it goes.
        dpi: Dots per inch of a PNG.

    Raises:
        InvalidArgumentError: Another ending.
        OutputError: The path cannot be written.
    """
    target = check_figure_path(path)
    content = io.BytesIO()
    kind = target.suffix[1:].lower()
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
    figure.savefig(content, format=kind, dpi=dpi, metadata=undated)
    files.write(target, content.getvalue())
    return target


def check_figure_path(path: str | os.PathLike[str]) -> Path:
    """Return the path if a figure can be written there, so as to fail before long work.

    Raises:
        InvalidArgumentError: Not one of the known endings.
        OutputError: The folder is missing or cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise InvalidArgumentError(
            str(path), f"the ending {target.suffix!r}", f"one of {FORMATS}", "Name it e.g. out.png."
        )
    with writing(target):
        if not target.parent.is_dir():
            raise NotADirectoryError(errno.ENOENT, "no such folder")
        if not os.access(target.parent, os.W_OK):
            raise PermissionError(errno.EACCES, "permission denied")
    return target


def _spectrum(axes: Axes, forecast: Forecast) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    top = forecast.levels[-1]
    # Small beside the strongest mode is not negligible if a unit may live on it.
    thresholds = np.concatenate([level.threshold for level in forecast.levels])
    least = float(thresholds[np.isfinite(thresholds)].min(initial=np.inf))
    floor = max(min(forecast.spectrum.max(initial=0) * 1e-6, least / 10), 1e-300)
    modes_there = int(np.count_nonzero(forecast.spectrum > floor))
    shown = max(1, min(modes_there, max(2 * len(top.status), 24)))
    variance = forecast.spectrum[:shown]
    lowest = float(variance[variance > floor].min(initial=np.inf))
    modes = np.arange(1, shown + 1)
    order = np.argsort(-top.data_variance, kind="stable")
    status = np.array(["none"] * shown, dtype="<U9")
    units = min(shown, len(order))
    status[:units] = np.array(top.status)[order[:units]]
    for name, marker, color, face, label in (
        ("active", "o", BLUE, BLUE, "active unit"),
        ("noise", "s", GREEN, GREEN, "unit relaying noise"),
        ("collapsed", "o", ORANGE, "none", "collapsed unit"),
        ("none", ".", GREY, GREY, "no unit for it"),
    ):
        chosen = (status == name) & (variance > floor)
        if chosen.any():
            axes.plot(
                modes[chosen], variance[chosen], marker, color=color, mfc=face, label=label, ms=6
            )
    for number, (level, style) in enumerate(
        zip(forecast.levels, ("--", ":", "-.") * len(forecast.levels), strict=False), 1
    ):
        line = level.threshold[np.argsort(-level.data_variance, kind="stable")]
        if np.isfinite(line).any():
            line = np.where(np.isfinite(line), line, np.nan)
            lowest = min(lowest, float(np.nanmin(line)))
            name = f" (z{number})" if len(forecast.levels) > 1 else ""
            ends = np.append(line, line[-1])
            axes.step(
                np.arange(len(ends)) + 0.5,
                ends,
                style,
                where="post",
                color="black",
                label=f"threshold{name}",
            )
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(bottom=max(floor, lowest / 2))
    axes.set_xlabel("data mode, strongest first")
    axes.set_ylabel("variance of data mode")
    name = f"z{len(forecast.levels)}: " if len(forecast.levels) > 1 else ""
    axes.set_title(f"{name}{top.n_active} of {len(top.status)} units active")
    axes.legend(frameon=False)


def _phase(figure: Figure, axes: Axes, forecast: Forecast) -> None:
    from matplotlib.ticker import MaxNLocator

    beta, eta = forecast.spec.beta_levels[-1], forecast.eta_dec
    scale = np.sqrt(max(forecast.spectrum.max(initial=0), 1e-300))
    diagram = forecast.phase_diagram(
        np.geomspace(min(beta, 0.1) / 3, max(beta, 10.0) * 3, 121),
        np.geomspace(min(eta, scale / 30) / 2, max(eta, scale) * 2, 121),
    )
    mesh = axes.pcolormesh(
        diagram.eta_decs,
        diagram.betas,
        np.ma.masked_less(diagram.active, 0),
        cmap="cividis",
        shading="nearest",
        rasterized=True,
    )
    figure.colorbar(mesh, ax=axes, label="active units", ticks=MaxNLocator(integer=True))
    axes.plot(eta, beta, "*", color="white", mec="black", ms=15, label="this forecast")
    axes.set_xscale("log")
    axes.set_yscale("log")
    several = len(forecast.levels) > 1
    axes.set_xlabel("eta_dec (data units)")
    axes.set_ylabel(f"beta_{len(forecast.levels)}" if several else "beta")
    axes.set_title(f"active units of z{len(forecast.levels)}" if several else "active units")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.legend(loc="lower left", framealpha=0.9)
