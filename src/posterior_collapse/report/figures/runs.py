"""Trained runs as figures: measured beside forecast, and the course of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from posterior_collapse.report.figures.panels import (
    BANDS,
    GREY,
    LINES,
    Panel,
    Panels,
    plain_log,
    side_by_side,
    titled,
    whole_numbers,
)
from posterior_collapse.report.names import label, settings, typeset
from posterior_collapse.report.stacked import Band, bands, column, levels_of
from posterior_collapse.report.swept import Layout, Swept, lay_out, optimum_of, side, varying

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from posterior_collapse.theory import Forecast

__all__ = ["active_panel", "fitted_panels", "stack_panels", "sweep_panels"]

MARKERS = "osv^DPX*<>"
LABELLED = 0.045
"""Share of the height that a band needs for its name."""


def sweep_panels(found: Swept) -> Panels:
    """Return the loss, and the active units of each level, over what varies.

    Markers are what was measured, one per seed, lines the forecast; where several things vary, the
    first that is a number is the axis, and each combination of the others has a look of its own.

    Args:
        found: What `sweep` returned.
    """
    levels = max(len(run.measured["levels"]) for run in found.runs)
    layout = lay_out(found.labels)
    several = levels > 1
    active = [
        Panel(
            f"active of z{n}" if several else "active",
            partial(_against, found=found, layout=layout, level=n, several=several),
        )
        for n in range(1, levels + 1)
    ]
    loss = Panel("loss", partial(_against, found=found, layout=layout, level=0, several=several))
    runs, net = len(found.runs), found.runs[0].run.architecture.name
    about = f"{net}: {runs} run{'s' * (runs > 1)}"
    name = found._about.name
    title = titled(f"{name}, {about}" if name else about, varying(found))
    return Panels(((loss, *active),), title, (4.6, 3.9))


def _against(axes: Axes, found: Swept, layout: Layout, level: int, several: bool) -> None:
    for place, (name, members) in enumerate(layout.series.items()):
        color, marker = LINES[place % len(LINES)], MARKERS[place % len(MARKERS)]
        expected = {layout.places[i]: side(found.runs[i], "forecast", level) for i in members}
        known = [(x, v) for x, v in expected.items() if v is not None]
        measured = [(layout.places[i], side(found.runs[i], "measured", level)) for i in members]
        there = [(x, v) for x, v in measured if v is not None]
        axes.plot(*_columns(known), "--", color=color, lw=1)
        named = typeset(name) or "measured"
        side_by_side(axes, there, marker, color=color, mfc="none", label=named)
    axes.set_xlabel(label(layout.axis))
    of = f" of z{level}" if several else ""
    axes.set_ylabel(f"active units{of}" if level else "loss (nats)")
    if level:
        whole_numbers(axes.yaxis)
    if layout.wide:
        plain_log(axes)
    axes.plot([], [], "--", color="black", lw=1, label="linear optimum")
    axes.legend(frameon=False, fontsize=8)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def fitted_panels(found: Any) -> Panels:
    """Return the active units over the epochs, and the KL of each level stacked by unit.

    Args:
        found: What `fit` returned.
    """
    optimum = optimum_of(found)
    kept = None if optimum is None else [level.n_active for level in optimum.levels]
    stacks = stack_panels(found.history, optimum)
    network = f"{found.model.architecture.name}, seed {found.settings.seed}"
    title = titled(settings(found.spec), found._about.name, network)
    return Panels(((active_panel(found.history, kept), *stacks),), title, (4.8, 3.8))


def active_panel(history: Mapping[str, Sequence[float]], kept: Sequence[int] | None) -> Panel:
    """Return active units of each level over the epochs.

    Args:
        history: Of `Fitted`.
        kept: Per level, what the linear optimum keeps; None: not known.
    """
    return Panel("active", partial(_active, history=history, kept=kept))


def _active(axes: Axes, history: Mapping[str, Sequence[float]], kept: Sequence[int] | None) -> None:
    epochs, levels = column(history, "epoch"), levels_of(history)
    for level, color in zip(levels, LINES, strict=False):
        name = f"z{level}" if len(levels) > 1 else "this run"
        count = column(history, f"active_{level}")
        axes.step(epochs, count, where="post", color=color, label=name)
        if kept is not None:
            alone = "linear optimum" if len(levels) == 1 else None
            axes.axhline(kept[level - 1], color=color, ls="--", lw=1, label=alone)
    if kept is not None and len(levels) > 1:
        axes.plot([], [], "--", color="black", lw=1, label="linear optimum")
    axes.margins(x=0)
    axes.set_ylim(bottom=0)
    whole_numbers(axes.xaxis)
    whole_numbers(axes.yaxis)
    axes.set_xlabel("epoch")
    axes.set_ylabel("active units")
    axes.legend(frameon=False)


def stack_panels(history: Mapping[str, Sequence[float]], optimum: Forecast | None) -> list[Panel]:
    """Return the KL of each level's units over the epochs, one upon the other.

    Args:
        history: Of `Fitted`.
        optimum: What the linear model comes to; None: not known.
    """
    found, levels = [], levels_of(history)
    for level in levels:
        of = f" of z{level}" if len(levels) > 1 else ""
        kl = None if optimum is None else float(optimum.levels[level - 1].kl.sum())
        draw = partial(_stack, layers=bands(history, level), optimum=kl, of=of)
        found.append(Panel(f"KL over epochs{of}", partial(draw, epochs=column(history, "epoch"))))
    return found


def _stack(
    axes: Axes, epochs: np.ndarray, layers: Sequence[Band], optimum: float | None, of: str
) -> None:
    height = max(float(np.nanmax(layers[-1].high, initial=0.0)), optimum or 0.0) or 1.0
    for place, band in enumerate(layers):
        color = GREY if band.unit is None else BANDS[place % len(BANDS)]
        axes.fill_between(epochs, band.low, band.high, color=color, lw=0.5, ec="white")
        if band.high[-1] - band.low[-1] > LABELLED * height:
            middle = (band.low[-1] + band.high[-1]) / 2
            axes.annotate(
                band.name, (epochs[-1], middle), (4, 0), textcoords="offset points", va="center",
                fontsize=8, annotation_clip=False,
            )  # fmt: skip
    if optimum is not None:
        axes.axhline(optimum, color="black", ls="--", lw=1, label="linear optimum")
        height *= 1.15  # room for the legend, which would hide what lies below it
        axes.legend(frameon=False, fontsize=8, loc="upper right")
    axes.margins(x=0)
    axes.set_ylim(0, 1.05 * height)
    whole_numbers(axes.xaxis)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"KL{of} by unit (nats)")
