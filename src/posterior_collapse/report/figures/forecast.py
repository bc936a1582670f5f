"""What theory says, as figures: a forecast, and a phase diagram."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from posterior_collapse.errors import (
    NotSolvedError,
    UnboundedObjectiveError,
    at_level,
    count_of,
)
from posterior_collapse.report.figures.panels import (
    BLUE,
    GREEN,
    GREY,
    LINES,
    ORANGE,
    Panel,
    Panels,
    map_of_counts,
    plain_log,
    titled,
    whole_numbers,
)
from posterior_collapse.report.names import beta_name, counted, fixed, label, settings
from posterior_collapse.report.runs import is_wide

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from posterior_collapse.theory import Forecast, PhaseDiagram

CELLS = 25
"""Of each side of a map."""
AROUND = 100.0
"""Factor to either side of the own betas that a map and a chain's stairs reach."""


def forecast_panels(forecast: Forecast) -> Panels:
    """Return the spectrum of the data, and active units over what the threshold is made of.

    With one level that is one number, beta eta_dec^2; with two levels the two betas.
    """
    name, draw = ("map", _map) if len(forecast.levels) == 2 else ("staircase", _staircase)
    spectrum = Panel("spectrum", partial(_spectrum, forecast=forecast))
    second = Panel(name, partial(draw, forecast=forecast))
    moments = forecast._modes.moments
    rows = "" if moments.n is None else f"{count_of(moments.n, 'row')} of "
    data = f"{rows}{count_of(moments.features[1], 'feature')}"
    title = titled(settings(forecast.spec), forecast._about.name, data)
    return Panels(((spectrum, second),), title, (5.0, 4.2))


def _spectrum(axes: Axes, forecast: Forecast) -> None:
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
    status = np.array([*(top.status[i] for i in order), *["none"] * shown])[:shown]
    for name, marker, color, face, said in (
        ("active", "o", BLUE, BLUE, "active unit"),
        ("noise", "s", GREEN, GREEN, "unit relaying noise"),
        ("collapsed", "o", ORANGE, "none", "collapsed unit"),
        ("none", ".", GREY, GREY, "no unit for it"),
    ):
        chosen = (status == name) & (variance > floor)
        if chosen.any():
            axes.plot(
                modes[chosen], variance[chosen], marker, color=color, mfc=face, label=said, ms=6
            )
    for number, (level, style) in enumerate(
        zip(forecast.levels, ("--", ":", "-.") * len(forecast.levels), strict=False), 1
    ):
        line = level.threshold[np.argsort(-level.data_variance, kind="stable")]
        if np.isfinite(line).any():
            line = np.where(np.isfinite(line), line, np.nan)
            lowest = min(lowest, float(np.nanmin(line)))
            name = f" (z{number})" if len(forecast.levels) > 1 else ""
            # Beyond the units it is what one more would have to exceed.
            ends = np.append(line, np.full(max(0, shown - len(line)) + 1, line[-1]))
            said, edges = f"threshold{name}", np.arange(len(ends)) + 0.5
            axes.step(edges, ends, style, where="post", color="black", label=said)
    plain_log(axes, "y")
    axes.set_ylim(bottom=max(floor, lowest / 2))
    whole_numbers(axes.xaxis)
    axes.set_xlim(0.4, shown + 0.6)
    axes.set(xlabel="data mode, strongest first", ylabel="variance of data mode")
    depth = len(forecast.levels)
    title = f"{at_level(depth, depth)}{top.n_active} of {count_of(len(top.status), 'unit')} active"
    if forecast.bracket is not None:
        fewest, most = forecast.bracket
        if most:
            axes.axvspan(fewest + 0.5, most + 0.5, color=GREEN, alpha=0.15, lw=0)
            title += f" (a network keeps {f'{fewest} to {most}' if fewest < most else 'as many'})"
    axes.set_title(title)
    axes.legend(frameon=False)


def _staircase(axes: Axes, forecast: Forecast) -> None:
    """Active units of each level over beta, times the decoder's variance where it has one."""
    spec = forecast.spec
    scale, name, one_level = 1.0, label("beta"), len(forecast.levels) == 1
    if not one_level:
        name = f"{label('beta_1')}, the others with it"
    elif spec.likelihood == "gaussian" and "learned" not in spec.eta_levels:
        scale = forecast.eta_dec**2
        name = f"{name} η$_\\mathrm{{dec}}^2$ (data variance)"
    own = spec.beta_levels[0] * scale
    edges, counts = _of_one_level(forecast, scale) if one_level else _of_a_chain(forecast)
    for level, (count, color) in enumerate(zip(counts, LINES, strict=False), 1):
        of = "active units" if one_level else f"z{level}"
        axes.step(edges, count, where="post", color=color, label=of)
        now = forecast.levels[level - 1].n_active
        here = "you are here" if level == 1 else None
        axes.plot(own, now, "D", color="white", mec="black", ms=9, label=here, zorder=3)
    onset = forecast.onset * scale
    if one_level and np.isfinite(onset) and onset > 0:
        axes.axvline(onset, color="black", ls="--", lw=1, label=f"onset of collapse ({onset:.3g})")
    plain_log(axes)
    whole_numbers(axes.yaxis)
    axes.set(xlabel=name, ylabel="active units", title=_active(forecast))
    axes.legend(frameon=False)


def _active(forecast: Forecast) -> str:
    level, depth = forecast.levels[-1], len(forecast.levels)
    units = count_of(len(level.status), "unit")
    return f"{at_level(depth, depth)}{level.n_active} of {units} active here"


def _of_one_level(forecast: Forecast, scale: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """Where units die, exactly: each at its critical beta."""
    critical = forecast.levels[0].critical_beta * scale
    own = forecast.spec.beta_levels[0] * scale
    dying = np.sort(critical[np.isfinite(critical) & (critical > 0)])
    last = float(dying[-1]) if len(dying) else own
    low = min(max(float(dying[0]) if len(dying) else own, last * 1e-5), own) / 3
    edges = np.concatenate([[low], dying[dying > low], [3 * max(last, own)]])
    counts = (np.nan_to_num(critical)[None] > edges[:, None]).sum(1)
    return edges, [counts]


def _of_a_chain(forecast: Forecast) -> tuple[np.ndarray, list[np.ndarray]]:
    """All betas turned by one factor."""
    betas = np.asarray(forecast.spec.beta_levels)
    factors = np.geomspace(1 / AROUND, AROUND, 61)
    counts = np.empty((len(betas), len(factors)))
    for place, factor in enumerate(factors):
        spec = forecast.spec.replace(betas=tuple(betas * factor))
        for level, beta in enumerate(spec.beta_levels):
            counts[level, place] = _row(forecast, spec, [beta], level)[0]
    return betas[0] * factors, list(np.where(counts < 0, np.nan, counts))


def _map(axes: Axes, forecast: Forecast) -> None:
    """Active units of the top level over the two betas, each around its own."""
    spec = forecast.spec
    own = spec.beta_levels
    first, second = (np.geomspace(beta / AROUND, beta * AROUND, CELLS) for beta in own)
    active = np.array(
        [
            _row(forecast, spec.replace(betas=(beta, own[1])), second, level=1)
            for beta in first.tolist()
        ]
    ).T
    map_of_counts(axes, first, second, active, "active units of z2")
    axes.plot(*own, "D", color="white", mec="black", ms=9, label="you are here")
    plain_log(axes)
    plain_log(axes, "y")
    axes.set(xlabel=label("beta_1"), ylabel=label("beta_2"), title=_active(forecast))
    axes.legend(loc="lower left", framealpha=0.9)


def _row(forecast: Forecast, spec: Any, betas: Any, level: int) -> np.ndarray:
    """Active units of a level over its betas, at the eta_dec here; -1 where there is no optimum."""
    from posterior_collapse.theory.phase import of_modes

    etas = [forecast.eta_dec] if "learned" in spec.eta_levels else None
    try:
        return of_modes(forecast._modes, spec, betas, etas, level=level).active[:, 0]
    except (NotSolvedError, UnboundedObjectiveError):
        return np.full(len(betas), -1)


def phase_panels(found: PhaseDiagram) -> Panels:
    """Return the active units over beta and eta_dec."""
    draw = _phase_map if len(found.eta_decs) > 1 else _phase_steps
    title = titled(fixed(found), found._about.name)
    return Panels(((Panel("active", partial(draw, found=found)),),), title, (5.6, 4))


def _phase_map(axes: Axes, found: PhaseDiagram) -> None:
    rows, columns = np.argsort(found.betas), np.argsort(found.eta_decs)
    counts = found.active[np.ix_(rows, columns)]
    map_of_counts(axes, found.eta_decs[columns], found.betas[rows], counts, counted(found))
    if is_wide(found.eta_decs):
        plain_log(axes)
    if is_wide(found.betas):
        plain_log(axes, "y")
    axes.set(xlabel=f"{label('eta_dec')} (data units)", ylabel=label(beta_name(found)))


def _phase_steps(axes: Axes, found: PhaseDiagram) -> None:
    order = np.argsort(found.betas)
    counts = np.where(found.active[order, 0] < 0, np.nan, found.active[order, 0])
    # What is between two betas is not known: a count reaches half way to the next, as on a map.
    axes.step(found.betas[order], counts, where="mid", color=BLUE, marker=".")
    if is_wide(found.betas):
        plain_log(axes)
    whole_numbers(axes.yaxis)
    axes.set(xlabel=label(beta_name(found)), ylabel=counted(found))
