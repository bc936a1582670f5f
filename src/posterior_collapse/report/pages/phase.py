"""A phase diagram as a page: where units live and where they collapse."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from posterior_collapse.report.names import symbol
from posterior_collapse.report.pages.chart import (
    Chart,
    Scale,
    decades,
    linear,
    logarithmic,
    whole_ticks,
)
from posterior_collapse.report.pages.glossary import words
from posterior_collapse.report.pages.rendering import number, render, scripts
from posterior_collapse.report.phases import beta_name, counted, fixed
from posterior_collapse.report.stacked import thinned
from posterior_collapse.report.swept import is_wide

if TYPE_CHECKING:
    from markupsafe import Markup

    from posterior_collapse.theory import PhaseDiagram

__all__ = ["phase_html", "phase_parts", "phase_sentence"]

MOST_COLUMNS, MOST_ROWS = 6, 21
"""Of the table; the figure has all."""
SHADES = ((0, 34, 78), (53, 69, 108), (102, 105, 112), (148, 142, 119), (200, 184, 102),
          (254, 232, 56))  # fmt: skip
"""Of few to many, told apart by all eyes: from cividis."""


def phase_html(found: PhaseDiagram, *, name: str = "", **_: Any) -> str:
    """Return a self-contained page of a phase diagram.

    Args:
        found: What `phase_diagram` returned.
        name: What the data are called.
    """
    return render(
        "curve.html.jinja",
        script=scripts("words.js"),
        title="Phase diagram",
        name=name,
        about=f"{fixed(found)}{f' on {name}' if name else ''}",
        heading=counted(found).capitalize(),
        snippet="",
        words=words(["active", "collapsed", "β", "η_dec"]),
        **phase_parts(found),
    )  # fmt: skip


def phase_sentence(found: PhaseDiagram) -> str:
    """Return in a sentence how many units live within the grid.

    Args:
        found: What `phase_diagram` returned.
    """
    units, known = found.spec.dims[found.level], found.active[found.active >= 0]
    beta = symbol(beta_name(found))
    if not known.size:
        return "The loss is unbounded everywhere on this grid."
    low, high = int(known.min()), int(known.max())
    kept = str(low) if low == high else f"{low} to {high}"
    span = f"{beta} from {number(found.betas.min())} to {number(found.betas.max())}"
    if len(found.eta_decs) > 1:
        span += f" and η_dec from {number(found.eta_decs.min())} to {number(found.eta_decs.max())}"
    return f"{kept} of {units} units are active for {span}."


def phase_parts(found: PhaseDiagram) -> dict[str, Any]:
    """Return what page and notebook both show.

    Args:
        found: What `phase_diagram` returned.
    """
    rows, columns = (
        thinned(len(v), most)
        for v, most in ((found.betas, MOST_ROWS), (found.eta_decs, MOST_COLUMNS))
    )
    several = len(found.eta_decs) > 1
    beta = symbol(beta_name(found))
    names = [number(float(found.eta_decs[c])) for c in columns] if several else ["active"]
    over = f"{beta} (down) and η_dec (across)" if several else beta
    table = [
        {
            "cells": [
                number(float(found.betas[r])),
                *(_count(found.active[r, c]) for c in columns),
            ],
            "chosen": False,
        }
        for r in rows
    ]
    part = len(rows) < len(found.betas) or len(columns) < len(found.eta_decs)
    return {
        "sentence": phase_sentence(found),
        "further": "",
        "chart": _map(found) if several else _steps(found),
        "legend": [],
        "table": {
            "caption": f"active units over {over}" + ", some of the grid" * part,
            "columns": [beta, *names], "rows": table, "sortable": False,
        },
        "notes": ["without a number the loss is unbounded"] * bool((found.active < 0).any()),
    }  # fmt: skip


def _count(active: Any) -> str:
    return "-" if active < 0 else str(int(active))


def _map(found: PhaseDiagram) -> Markup:
    """Cells of a row that are alike are drawn as one: a fine grid stays a small page."""
    chart = Chart(f"Map: {phase_sentence(found)} The numbers are in the table.", (640, 420),
                  (52, 70, 28, 40))  # fmt: skip
    x, across = _axis(found.eta_decs, chart.left, chart.right)
    y, along = _axis(found.betas, chart.bottom, chart.top)
    most = max(1, int(found.active.max()))
    order = np.argsort(found.eta_decs)
    tiles: dict[int, list[str]] = {}
    for r in range(len(found.betas)):
        top, bottom = sorted(along[r])
        place = 0
        for count, members in groupby(order, key=lambda c, r=r: int(found.active[r, c])):  # type: ignore[misc]
            length = len(list(members))
            first, last = order[place], order[place + length - 1]
            place += length
            if count < 0:
                continue
            left, right = min(across[first]), max(across[last])
            # A little over the edge, so that no seam shows.
            tiles.setdefault(count, []).append(
                f"M{left:.1f} {top:.1f}H{right + 0.3:.1f}V{bottom + 0.3:.1f}H{left:.1f}Z"
            )
    for count, paths in tiles.items():
        chart.add("path", f"{count} active", d="".join(paths), fill=_shade(count / most),
                  class_="pc-tile")  # fmt: skip
    chart.columns(x, _ticks(found.eta_decs), "η_dec")
    for tick in _ticks(found.betas):
        chart.text(chart.left - 6, y(tick) + 4, number(tick), "end")
    chart.text(2, 14, symbol(beta_name(found)))
    for place, tick in enumerate(sorted({*whole_ticks(most, 6)[:-1], most})):
        top = chart.bottom - 22 * (place + 1)
        chart.add("rect", x=chart.right + 12, y=top, width=16, height=20, fill=_shade(tick / most))
        chart.text(chart.right + 34, top + 15, number(tick))
    return chart.svg()


def _steps(found: PhaseDiagram) -> Markup:
    """Of one η_dec a staircase."""
    order = np.argsort(found.betas)
    betas, counts = found.betas[order], found.active[order, 0]
    most = max(1, int(counts.max()))
    chart = Chart(f"Staircase: {phase_sentence(found)} The numbers are in the table.", (640, 320))
    x, _ = _axis(betas, chart.left, chart.right)
    y = linear(0.0, most * 1.05, chart.bottom, chart.top)
    chart.rows(y, whole_ticks(most))
    chart.columns(x, _ticks(betas), symbol(beta_name(found)))
    points = []
    for i, (beta, count) in enumerate(zip(betas, counts, strict=True)):
        height = y(float(count)) if count >= 0 else np.nan
        points += [(x(float(betas[i - 1 if i else 0])), height), (x(float(beta)), height)]
    chart.line(points, "pc-stairs")
    return chart.svg()


def _axis(values: Any, start: float, end: float) -> tuple[Scale, list[tuple[float, float]]]:
    """A scale, and the edges of each value's cell: half way to its neighbours."""
    low, high = float(np.min(values)), float(np.max(values))
    if low == high:
        return (lambda _: (start + end) / 2), [(start, end)] * len(values)
    n = len(values)
    inset = (end - start) / n / 2
    scale = (logarithmic if is_wide(values) else linear)(low, high, start + inset, end - inset)
    places = np.array([scale(float(v)) for v in values])
    ordered = np.sort(places)
    middles = (ordered[1:] + ordered[:-1]) / 2
    edges = np.concatenate([[min(start, end)], middles, [max(start, end)]])
    ranks = np.searchsorted(ordered, places)
    return scale, [(float(edges[r]), float(edges[r + 1])) for r in ranks]


def _ticks(values: Any) -> list[float]:
    low, high = float(np.min(values)), float(np.max(values))
    if low == high:
        return [low]
    few = sorted({float(v) for v in np.ravel(values)})
    return few if len(few) <= 6 else decades(low, high)


def _shade(share: float) -> str:
    place = share * (len(SHADES) - 1)
    below = min(int(place), len(SHADES) - 2)
    mixed = (
        round(a + (b - a) * (place - below))
        for a, b in zip(SHADES[below], SHADES[below + 1], strict=True)
    )
    return "#" + "".join(f"{c:02x}" for c in mixed)
