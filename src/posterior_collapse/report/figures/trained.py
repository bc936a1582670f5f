"""Trained models as figures: runs and sweeps beside theory, courses of training, diagnoses."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from posterior_collapse.errors import at_level, count_of, of_level
from posterior_collapse.report.comparison import tuned_name
from posterior_collapse.report.figures.panels import (
    BANDS,
    BLUE,
    GREEN,
    GREY,
    LINES,
    ORANGE,
    Panel,
    Panels,
    plain_log,
    side_by_side,
    titled,
    whole_numbers,
)
from posterior_collapse.report.names import label, settings, theory, typeset
from posterior_collapse.report.runs import (
    History,
    Layout,
    bands,
    column,
    expected,
    lay_out,
    levels_of,
    optimum_of,
    side,
    theories,
    unit_of_time,
    varying,
)
from posterior_collapse.report.text import by_kl

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from posterior_collapse.diagnosis import Diagnosis, LevelDiagnosis

MARKERS = "osv^DPX*<>"
LABELLED = 0.045
"""Share of the height that a band needs for its name."""


def sweep_panels(found: Any) -> Panels:
    """Return the loss, and the active units of each level, over what varies.

    Markers are what was measured, one per seed, lines the forecast; where several things vary, the
    first that is a number is the axis, and each combination of the others has a look of its own.
    """
    levels = max(len(run.measured["levels"]) for run in found.runs)
    draw = partial(_against, found=found, layout=lay_out(found.labels), levels=levels)
    names = ["loss", *(f"active{of_level(n, levels)}" for n in range(1, levels + 1))]
    panels = tuple(Panel(name, partial(draw, level=level)) for level, name in enumerate(names))
    runs, net = len(found.runs), found.runs[0].run.architecture.name
    about = f"{net}: {count_of(runs, 'run')}"
    name = found._about.name
    title = titled(f"{name}, {about}" if name else about, varying(found))
    return Panels((panels,), title, (4.6, 3.9))


def _against(axes: Axes, found: Any, layout: Layout, level: int, levels: int) -> None:
    for place, (name, members) in enumerate(layout.series.items()):
        color, marker = LINES[place % len(LINES)], MARKERS[place % len(MARKERS)]
        forecast, measured = (
            [(layout.places[i], value) for i in members
             if (value := side(found.runs[i], which, level)) is not None]
            for which in ("forecast", "measured")
        )  # fmt: skip
        line = dict(forecast)  # that of all seeds is one
        axes.plot([*line], [*line.values()], "--", color=color, lw=1)
        said = (layout.named and typeset(name)) or "measured" * (place == 0)
        side_by_side(axes, measured, marker, color=color, mfc="none", label=said)
    axes.set_xlabel(label(layout.axis))
    axes.set_ylabel(f"active units{of_level(level, levels)}" if level else "loss (nats)")
    if level:
        whole_numbers(axes.yaxis)
    if layout.wide:
        plain_log(axes)
    if any(side(run, "forecast", level) is not None for run in found.runs):
        axes.plot([], [], "--", color="black", lw=1, label=theories(found))
    axes.legend(frameon=False, fontsize=8)


def tuned_panels(found: Any) -> Panels:
    """Return active units over what was tuned, of each seed and by theory."""
    wanted = f"{count_of(found.wanted, 'active unit')}{tuned_name(found)[1]} wanted"
    title = titled(settings(found.spec), found._about.name, wanted)
    return Panels(((Panel("active", partial(_tuned, found=found)),),), title, (5.6, 3.9))


def _tuned(axes: Axes, found: Any) -> None:
    known = sorted((one.value, one.linear) for one in found.curve if one.linear is not None)
    if known:
        line = zip(*known, strict=True)
        axes.plot(*line, "--", color="black", lw=1, label=theory(found.spec))
    for still, fill, name in ((True, BLUE, "measured"), (False, "none", "still changing")):
        dots = [(t.value, n) for t in found.curve if t.still == still for n in t.active]
        side_by_side(axes, dots, "o", color=BLUE, mfc=fill, label=name)
    axes.axhline(found.wanted, color=GREEN, lw=1, zorder=0, label="wanted")
    axes.axvline(found.chosen.value, color=ORANGE, lw=1, label="chosen")
    if found.parameter.startswith("beta"):
        plain_log(axes)
    axes.set(xlabel=label(found.parameter), ylabel="active units")
    most = max([1, found.wanted, *(n for t in found.curve for n in t.active)])
    axes.set_ylim(-0.04 * most, 1.1 * most)  # a marker at 0 is seen whole
    whole_numbers(axes.yaxis)
    axes.legend(frameon=False, fontsize=8)


def fitted_panels(found: Any) -> Panels:
    """Return the active units over the epochs, and the KL of each level stacked by unit."""
    *stacks, active = course_panels(found.history, expected(optimum_of(found)))
    network = f"{found.model.architecture.name}, seed {found.settings.seed}"
    title = titled(settings(found.spec), found._about.name, network)
    return Panels(((active, *stacks),), title, (4.8, 3.8))


def course_panels(history: History, expected: Mapping[str, Any] | None) -> list[Panel]:
    """Return the KL of each level's units over the epochs, one upon the other, and active units."""
    panels, levels = [], levels_of(history)
    for level in levels:
        of = of_level(level, len(levels))
        draw = partial(_stack, history=history, level=level, expected=expected, of=of)
        panels.append(Panel(f"KL over epochs{of}", draw))
    return [*panels, Panel("active", partial(_active, history=history, expected=expected))]


def _active(axes: Axes, history: History, expected: Mapping[str, Any] | None) -> None:
    epochs, levels = column(history, "epoch"), levels_of(history)
    for level, color in zip(levels, LINES, strict=False):
        name = f"z{level}" if len(levels) > 1 else "this run"
        count = column(history, f"active_{level}")
        axes.step(epochs, count, where="post", color=color, label=name)
        if expected is not None:
            kept = expected["levels"][level - 1]["n_active"]
            alone = expected["theory"] if len(levels) == 1 else None
            axes.axhline(kept, color=color, ls="--", lw=1, label=alone)
    if expected is not None and len(levels) > 1:
        axes.plot([], [], "--", color="black", lw=1, label=expected["theory"])
    axes.margins(x=0)
    axes.set_ylim(bottom=0)
    whole_numbers(axes.xaxis)
    whole_numbers(axes.yaxis)
    axes.set(xlabel=unit_of_time(history), ylabel="active units")
    axes.legend(frameon=False)


def _stack(
    axes: Axes, history: History, level: int, expected: Mapping[str, Any] | None, of: str
) -> None:
    epochs, layers = column(history, "epoch"), bands(history, level)
    optimum = 0.0 if expected is None else float(expected["levels"][level - 1]["kl"].sum())
    height = max(float(np.nanmax(layers[-1].high, initial=0.0)), optimum) or 1.0
    for place, band in enumerate(layers):
        color = GREY if band.unit is None else BANDS[place % len(BANDS)]
        axes.fill_between(epochs, band.low, band.high, color=color, lw=0.5, ec="white")
        if band.high[-1] - band.low[-1] > LABELLED * height:
            middle = (band.low[-1] + band.high[-1]) / 2
            axes.annotate(
                band.name, (epochs[-1], middle), (4, 0), textcoords="offset points", va="center",
                fontsize=8, annotation_clip=False,
            )  # fmt: skip
    if expected is not None:
        axes.axhline(optimum, color="black", ls="--", lw=1, label=expected["theory"])
        height *= 1.15  # room for the legend, which would hide what lies below it
        axes.legend(frameon=False, fontsize=8, loc="upper right")
    axes.margins(x=0)
    axes.set_ylim(0, 1.05 * height)
    whole_numbers(axes.xaxis)
    axes.set(xlabel=unit_of_time(history), ylabel=f"KL{of} by unit (nats)")


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


def diagnosis_panels(found: Diagnosis) -> Panels:
    """Return a row of panels per level, and one of the course of training where that is known.

    Left the KL of each unit, the most first; in the middle the share of collapsed units over eps;
    right the two variances that make up a unit's: that of its mean over x, and that given x.
    """
    levels = len(found.levels)
    rows: list[tuple[Panel, ...]] = []
    for number, level in enumerate(found.levels, 1):
        of, name = of_level(number, levels), at_level(number, levels)
        bars = partial(_kl_bars, level=level, found=found, number=number, prefix=name)
        curve = partial(_curve, level=level, prefix=name)
        variances = partial(_variances, level=level, prefix=name, top=number == levels)
        draws = {"KL": bars, "collapse": curve, "variances": variances}
        rows.append(tuple(Panel(f"{what}{of}", draw) for what, draw in draws.items()))
    history = found._history
    if history is not None and len(history.get("epoch", ())):
        rows.append(tuple(course_panels(history, expected(found.forecast))))
    about = titled(
        "" if found.spec is None else settings(found.spec), found._about.name, f"{found.n:,} rows"
    )
    return Panels(tuple(rows), f"{about}\n{found.verdict}", (4.0, 3.6))


def _kl_bars(axes: Axes, level: LevelDiagnosis, found: Diagnosis, number: int, prefix: str) -> None:
    order = by_kl(level)
    kl, status = level.kl[order], np.array(level.status)[order]
    error = np.nan_to_num(level.kl_error[order])
    places = np.arange(len(order))
    for name, (marker, edge, face, hatch, called) in LOOKS.items():
        here = status == name
        if here.any():
            axes.bar(
                places[here], kl[here], color=face, edgecolor=edge, hatch=hatch, label=called,
                yerr=error[here], error_kw={"elinewidth": 1},
            )  # fmt: skip
            # A collapsed unit's bar has no height: its marker says that it is there.
            low = here & (np.abs(kl) <= LOW * np.abs(kl).max())
            if low.any():
                axes.plot(places[low], kl[low], marker, color=edge, mfc=face, ms=4, clip_on=False)
    if found.forecast is not None:
        forecast = found.forecast.levels[number - 1].kl
        ends, edges = np.sort(forecast)[::-1], np.append(places, len(places)) - 0.5
        axes.step(edges, np.append(ends, ends[-1]), "--", where="post", color="black", lw=1,
                  label=theory(found.forecast.spec))  # fmt: skip
    if len(order) <= MOST_TICKS:
        axes.set_xticks(places, [str(i + 1) for i in order], fontsize=8)
        axes.set_xlabel("unit, by KL")
    else:
        whole_numbers(axes.xaxis)
        axes.set_xlabel("rank of the unit by KL")
    axes.axhline(0.0, color="black", lw=0.8)
    axes.set_ylabel("KL (nats)")
    axes.margins(y=0.25)  # room for the legend
    axes.set_title(f"{prefix}{level.n_active} of {count_of(len(level.status), 'unit')} active")
    axes.legend(frameon=False)


def _curve(axes: Axes, level: LevelDiagnosis, prefix: str) -> None:
    curve = level.collapse_curve
    axes.step(curve.epsilon, curve.share, where="mid", color=BLUE)
    low, high = (np.clip(curve.share + side * curve.error, 0, 1) for side in (-1, 1))
    axes.fill_between(curve.epsilon, low, high, step="mid", color=BLUE, alpha=0.25, lw=0)
    axes.set_xscale("log")
    axes.set_ylim(-0.03, 1.03)
    axes.set(
        xlabel="\u03b5 (nats)",
        ylabel="share of units collapsed",
        title=f"{prefix}collapsed: KL < \u03b5 on {100 * (1 - curve.delta):g}% of rows",
    )


def _variances(axes: Axes, level: LevelDiagnosis, prefix: str, *, top: bool) -> None:
    of_mean = np.maximum(level.mean_variance, LEAST_VARIANCE)
    given_x = np.maximum(np.square(level.aggregate_std) - level.mean_variance, LEAST_VARIANCE)
    status = np.array(level.status)
    for name, (marker, edge, face, _, called) in LOOKS.items():
        here = status == name
        if here.any():
            axes.plot(
                of_mean[here], given_x[here], marker, color=edge, mfc=face, ms=6, label=called
            )
    prior = float(np.square(level.prior_std).mean())
    left = min(of_mean.min(), 1e-3) / 2
    if top:  # below, the prior's mean varies too
        along = np.geomspace(left, 0.9999 * prior, 400)
        axes.plot(along, prior - along, "-", color="black", lw=1, label="sum = the prior's")
    axes.axvline(0.01, color=GREY, ls=":", label="Burda's threshold")
    axes.set(xscale="log", yscale="log")
    axes.set_xlim(left=left)
    axes.set_ylim(min(given_x.min(), prior / 10) / 2, max(given_x.max(), prior) * 2)
    axes.set(
        xlabel="variance over x of E[z|x]",
        ylabel="mean variance of z given x",
        title=f"{prefix}where a unit's variance comes from",
    )
    axes.legend(frameon=False, loc="lower left")
