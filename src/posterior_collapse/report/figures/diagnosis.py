"""A diagnosis as a figure: KL of the units, collapse curves, and where variance comes from."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from posterior_collapse.errors import count_of
from posterior_collapse.report.figures.panels import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    Panel,
    Panels,
    titled,
    whole_numbers,
)
from posterior_collapse.report.figures.runs import course_panels
from posterior_collapse.report.names import at_level, of_level, settings, theory
from posterior_collapse.report.runs import expected
from posterior_collapse.report.text import by_kl

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from posterior_collapse.diagnosis import Diagnosis, LevelDiagnosis

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
    verdict = found.verdict.replace("+-", "\u00b1")
    return Panels(tuple(rows), f"{about}\n{verdict}", (4.0, 3.6))


def _kl_bars(axes: Axes, level: LevelDiagnosis, found: Diagnosis, number: int, prefix: str) -> None:
    order = by_kl(level)
    kl, status = level.kl[order], np.array(level.status)[order]
    error = np.nan_to_num(level.kl_error[order])
    places = np.arange(len(order))
    for name, (marker, edge, face, hatch, label) in LOOKS.items():
        here = status == name
        if here.any():
            axes.bar(
                places[here], kl[here], color=face, edgecolor=edge, hatch=hatch, label=label,
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
    axes.set(xscale="log", yscale="log")
    axes.set_xlim(left=left)
    axes.set_ylim(min(given_x.min(), prior / 10) / 2, max(given_x.max(), prior) * 2)
    axes.set(
        xlabel="variance over x of E[z|x]",
        ylabel="mean variance of z given x",
        title=f"{prefix}where a unit's variance comes from",
    )
    axes.legend(frameon=False, loc="lower left")
