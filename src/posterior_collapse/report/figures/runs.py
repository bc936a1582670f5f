"""Trained runs as figures: sweeps and what `tune` found beside theory, and courses of training."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from posterior_collapse.errors import count_of
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
from posterior_collapse.report.names import label, of_level, settings, theory, typeset
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
    varying,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    about = f"{net}: {runs} run{'s' * (runs > 1)}"
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
        said = typeset(name) or "measured"
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
    axes.set(xlabel="epoch", ylabel="active units")
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
    axes.set(xlabel="epoch", ylabel=f"KL{of} by unit (nats)")
