"""Figures of results: forecasts, diagnoses and sweeps."""

from __future__ import annotations

import errno
import io
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from posterior_collapse import files
from posterior_collapse.errors import InvalidArgumentError, writing
from posterior_collapse.report.comparison import comparison_sentences, comparison_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from posterior_collapse.diagnosis import Diagnosis, LevelDiagnosis
    from posterior_collapse.theory import Forecast

__all__ = ["Swept", "diagnosis_figure", "sweep_figure", "sweep_page"]

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
    if forecast.spec.likelihood == "gaussian":
        _phase(figure, right, forecast)
    else:
        _staircase(right, forecast)
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
    return _check_path(path, FORMATS)


def check_page_path(path: str | os.PathLike[str]) -> Path:
    """Return the path if a page can be written there, so as to fail before long work.

    Raises:
        InvalidArgumentError: Its ending is not .html.
        OutputError: The folder is missing or cannot be written.
    """
    return _check_path(path, (".html", ".htm"))


def _check_path(path: str | os.PathLike[str], endings: Sequence[str]) -> Path:
    target = Path(path)
    if target.suffix.lower() not in endings:
        raise InvalidArgumentError(
            str(path),
            f"the ending {target.suffix!r}",
            f"one of {endings}",
            f"Name it e.g. out{endings[0]}.",
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
    title = f"{name}{top.n_active} of {len(top.status)} units active"
    if forecast.bracket is not None:
        fewest, most = forecast.bracket
        if most:
            axes.axvspan(fewest + 0.5, most + 0.5, color=GREEN, alpha=0.15, lw=0)
        title += f" (a network keeps {fewest} to {most})"
    axes.set_title(title)
    axes.legend(frameon=False)


def _staircase(axes: Axes, forecast: Forecast) -> None:
    """Active units over beta alone, where the decoder has no std."""
    beta, onset = forecast.spec.beta_levels[-1], forecast.onset
    highest = max(beta, onset if np.isfinite(onset) else 10.0)
    diagram = forecast.phase_diagram(np.geomspace(min(beta, highest / 100) / 2, highest * 2, 400))
    axes.step(diagram.betas, diagram.active[:, 0], where="post", color=BLUE)
    active = forecast.levels[-1].n_active
    axes.plot(beta, active, "*", color="white", mec="black", ms=15, label="this forecast")
    if np.isfinite(onset):
        axes.axvline(onset, color="black", ls="--", lw=1, label=f"onset of collapse ({onset:.3g})")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    several = len(forecast.levels) > 1
    axes.set_xlabel(f"beta_{len(forecast.levels)}" if several else "beta")
    axes.set_ylabel("active units")
    axes.set_title(f"active units of z{len(forecast.levels)}" if several else "active units")
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


LOOKS = {
    "active": ("o", BLUE, BLUE, "", "active"),
    "noise": ("s", GREEN, "none", "////", "relays noise"),
    "collapsed": ("v", ORANGE, "none", "", "collapsed"),
    "diverged": ("x", GREY, "none", "xxxx", "diverged"),
}
"""Marker, edge, face, hatch and name: told apart by shape too, for readers who see no colour."""
MOST_TICKS = 32
LOW = 0.03
"""Share of the highest bar below which one is hard to see."""
LEAST_VARIANCE = 1e-5
"""Of a mean, as drawn: that of a collapsed unit may be 0."""


def diagnosis_figure(found: Diagnosis) -> Figure:
    """Return a figure with a row per level.

    Left the KL of each unit, the most first; in the middle the share of collapsed units over eps;
    right the two variances that make up a unit's: that of its mean over x, and that given x.

    Args:
        found: What `diagnose` or `diagnose_arrays` returned.
    """
    from matplotlib.figure import Figure

    rows = len(found.levels)
    figure = Figure(figsize=(12, 0.8 + 3.6 * rows), layout="constrained")
    figure.suptitle(textwrap.fill(found.verdict, 130), fontsize=10)
    panels = figure.subplots(rows, 3, squeeze=False)
    for number, (level, (left, middle, right)) in enumerate(
        zip(found.levels, panels, strict=True), 1
    ):
        name = f"z{number}: " if rows > 1 else ""
        forecast = None if found.forecast is None else found.forecast.levels[number - 1].kl
        _kl_bars(left, level, forecast)
        left.set_title(f"{name}{level.n_active} of {len(level.status)} units active")
        _curve(middle, level)
        _variances(right, level, top=number == rows)
    return figure


def _kl_bars(axes: Axes, level: LevelDiagnosis, forecast: np.ndarray | None) -> None:
    from matplotlib.ticker import MaxNLocator

    order = np.argsort(-level.kl, kind="stable")
    kl, status = level.kl[order], np.array(level.status)[order]
    error = np.nan_to_num(level.kl_error[order])
    places = np.arange(len(order))
    for name, (marker, edge, face, hatch, label) in LOOKS.items():
        here = status == name
        if here.any():
            axes.bar(
                places[here],
                kl[here],
                color=face,
                edgecolor=edge,
                hatch=hatch,
                yerr=error[here],
                error_kw={"elinewidth": 1},
                label=label,
            )
            # A collapsed unit's bar has no height: its marker says that it is there.
            low = here & (np.abs(kl) <= LOW * np.abs(kl).max())
            if low.any():
                axes.plot(places[low], kl[low], marker, color=edge, mfc=face, ms=4, clip_on=False)
    if forecast is not None:
        axes.step(
            np.append(places, len(places)) - 0.5,
            np.append(np.sort(forecast)[::-1], np.sort(forecast)[0]),
            "--",
            where="post",
            color="black",
            lw=1,
            label="linear optimum",
        )
    if len(order) <= MOST_TICKS:
        axes.set_xticks(places, [str(i) for i in order], fontsize=8)
        axes.set_xlabel("unit, by KL")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("rank of the unit by KL")
    axes.axhline(0.0, color="black", lw=0.8)
    axes.set_ylabel("KL (nats)")
    axes.legend(frameon=False)


def _curve(axes: Axes, level: LevelDiagnosis) -> None:
    curve = level.collapse_curve
    axes.step(curve.epsilon, curve.share, where="mid", color=BLUE)
    low, high = (np.clip(curve.share + side * curve.error, 0, 1) for side in (-1, 1))
    axes.fill_between(curve.epsilon, low, high, step="mid", color=BLUE, alpha=0.25, lw=0)
    axes.set_xscale("log")
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("eps (nats)")
    axes.set_ylabel("share of units collapsed")
    axes.set_title(f"collapsed: KL < eps on {100 * (1 - curve.delta):g}% of rows")


def _variances(axes: Axes, level: LevelDiagnosis, *, top: bool) -> None:
    of_mean = np.maximum(level.mean_variance, LEAST_VARIANCE)
    given_x = np.maximum(np.square(level.aggregate_std) - level.mean_variance, LEAST_VARIANCE)
    status = np.array(level.status)
    for name, (marker, edge, face, _, label) in LOOKS.items():
        here = status == name
        if here.any():
            axes.plot(of_mean[here], given_x[here], marker, color=edge, mfc=face, ms=6, label=label)
    prior = float(np.square(level.prior_std).mean())
    left = min(of_mean.min(), 1e-3) / 2
    if top:  # below, the prior's mean varies too
        along = np.geomspace(left, 0.9999 * prior, 400)
        axes.plot(along, prior - along, "-", color="black", lw=1, label="sum = the prior's")
    axes.axvline(0.01, color=GREY, ls=":", label="Burda's threshold")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left=left)
    axes.set_ylim(min(given_x.min(), prior / 10) / 2, max(given_x.max(), prior) * 2)
    axes.set_xlabel("variance over x of E[z|x]")
    axes.set_ylabel("mean variance of z given x")
    axes.set_title("where a unit's variance comes from")
    axes.legend(frameon=False, loc="lower left")


RUN_LOOKS = tuple(zip((BLUE, ORANGE, GREEN, GREY), "osv^", strict=True))
WIDE = 10.0
"""Ratio of the ends of an axis from which on it is logarithmic."""


class Swept(Protocol):
    """What is looked at: a `Sweep`, which a room above makes."""

    @property
    def labels(self) -> Sequence[Mapping[str, Any]]:
        """Per run the values of what varies."""

    @property
    def runs(self) -> Sequence[Any]:
        """The runs, each with `measured`, `forecast` and `stopped`."""


def sweep_figure(found: Swept) -> Figure:
    """Return a figure: the loss, and the active units of each level, over what varies.

    Markers are what was measured, lines the forecast; where several things vary, the first that is
    a number is the axis, and each combination of the others has a look of its own.

    Args:
        found: What `sweep` returned.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    levels = max(len(run.measured["levels"]) for run in found.runs)
    figure = Figure(figsize=(4.2 * (1 + levels), 3.8), layout="constrained")
    panels = figure.subplots(1, 1 + levels, squeeze=False)[0]
    axis, places, series = _series(found.labels)
    for level, axes in enumerate(panels):
        for (name, members), (color, marker) in zip(
            series.items(), RUN_LOOKS * len(series), strict=False
        ):
            pairs = [(places[i], *_values(found.runs[i], level)) for i in members]
            known = [(x, forecast) for x, _, forecast in pairs if forecast is not None]
            axes.plot(*zip(*known, strict=True) if known else ((), ()), "--", color=color, lw=1)
            there = [(x, measured) for x, measured, _ in pairs if measured is not None]
            axes.plot(
                *zip(*there, strict=True) if there else ((), ()),
                marker, color=color, mfc="none", label=name or "measured",
            )  # fmt: skip
        axes.set_xlabel(axis)
        of = f" of z{level}" if levels > 1 else ""
        axes.set_ylabel(f"active units{of}" if level else "loss (nats)")
        if level:
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        _scale(axes, places)
    panels[0].plot([], [], "--", color="black", lw=1, label="linear optimum")
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def sweep_page(found: Swept) -> Iterator[RenderableType]:
    """Yield a table of the runs of each number of levels, and sentences on them."""
    by_levels: dict[int, list[tuple[str, dict[str, Any]]]] = {}
    for number, (label, run) in enumerate(zip(found.labels, found.runs, strict=True), 1):
        sides = {"measured": run.measured, "forecast": run.forecast, "stopped": run.stopped}
        name = _named(label) or str(number)
        by_levels.setdefault(len(run.measured["levels"]), []).append((name, sides))
    for named in by_levels.values():
        yield comparison_table(named)
        yield from comparison_sentences(named, where="to_dict() has the numbers of each run.")


def _series(
    labels: Sequence[Mapping[str, Any]],
) -> tuple[str, list[float], dict[str, list[int]]]:
    """Return the axis, where each run is on it, and the runs of each series in that order."""
    numeric = [n for n in labels[0] if all(isinstance(v[n], (int, float)) for v in labels)]
    axis = numeric[0] if numeric else "run"
    places = [float(label[axis]) if numeric else i for i, label in enumerate(labels, 1)]
    series: dict[str, list[int]] = {}
    for i in sorted(range(len(labels)), key=places.__getitem__):
        others = {name: value for name, value in labels[i].items() if name != axis}
        series.setdefault(_named(others) if numeric else "", []).append(i)
    return axis, places, series


def _values(run: Any, level: int) -> Iterator[float | None]:
    """Yield the loss (level 0) or the active units of a level, measured and forecast."""
    for side in (run.measured, run.forecast):
        if side is None or level > len(side["levels"]):
            yield None
        else:
            yield side["levels"][level - 1]["n_active"] if level else side["loss"]


def _scale(axes: Axes, places: Sequence[float]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    if min(places) > 0 and max(places) > WIDE * min(places):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())


def _named(label: Mapping[str, Any]) -> str:
    numbers = (int, float)
    shown = {n: f"{v:g}" if isinstance(v, numbers) else str(v) for n, v in label.items()}
    return ", ".join(f"{name}={value}" for name, value in shown.items())
