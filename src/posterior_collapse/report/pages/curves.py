"""What varies with a hyperparameter, as a page: phase diagrams, and what `tune` found.

A page is a figure, the sentence and the table that say the same, and the spec to use.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from posterior_collapse.errors import count_of
from posterior_collapse.report.comparison import trial_cells, tuned_name, tuned_verdict
from posterior_collapse.report.names import beta_name, counted, fixed, symbol, theory, value
from posterior_collapse.report.pages.chart import (
    Chart,
    Scale,
    decades,
    linear,
    logarithmic,
    scale_over,
    ticks_of,
    whole_ticks,
)
from posterior_collapse.report.pages.rendering import number, render, words
from posterior_collapse.report.runs import is_wide, thinned

if TYPE_CHECKING:
    from posterior_collapse.theory import PhaseDiagram

MOST_COLUMNS, MOST_ROWS = 6, 21
"""Of the table of a phase diagram; the figure has all."""
SHADES = ((0, 34, 78), (53, 69, 108), (102, 105, 112), (148, 142, 119), (200, 184, 102),
          (254, 232, 56))  # fmt: skip
"""Of few to many, told apart by all eyes: from cividis."""
TRIAL_COLUMNS = ("steps", "active, per seed", "at half")


def phase_html(found: PhaseDiagram, *, name: str = "", **_: Any) -> str:
    """Return a self-contained page of a phase diagram."""
    return render(
        "curve.html.jinja",
        title="Phase diagram",
        name=name,
        about=f"{fixed(found)}{f' on {name}' if name else ''}",
        heading=counted(found).capitalize(),
        snippet="",
        words=words(["active", "collapsed", "β", "η_dec"]),
        **phase_parts(found),
    )


def phase_parts(found: PhaseDiagram) -> dict[str, Any]:
    """Return what page and notebook both show."""
    rows, columns = thinned(len(found.betas), MOST_ROWS), thinned(len(found.eta_decs), MOST_COLUMNS)
    several = len(found.eta_decs) > 1
    beta = symbol(beta_name(found))
    over = f"{beta} (down) and η_dec (across)" if several else beta
    part = len(rows) < len(found.betas) or len(columns) < len(found.eta_decs)
    table = [
        {
            "head": number(float(found.betas[r])),
            "cells": [str(n) if n >= 0 else "-" for n in found.active[r, columns].tolist()],
        }
        for r in rows
    ]
    etas = [number(eta) for eta in found.eta_decs[columns].tolist()] if several else ["active"]
    return {
        "sentence": phase_sentence(found),
        "further": "",
        "chart": _map(found) if several else _steps(found),
        "legend": [],
        "caption": f"active units over {over}" + ", some of the grid" * part,
        "columns": [beta, *etas],
        "rows": table,
        "sortable": False,
        "notes": ["without a number the loss is unbounded"] * bool((found.active < 0).any()),
    }


def phase_sentence(found: PhaseDiagram) -> str:
    """Return in a sentence how many units live within the grid."""
    units, known = found.spec.dims[found.level], found.active[found.active >= 0]
    beta = symbol(beta_name(found))
    if not known.size:
        return "The loss is unbounded everywhere on this grid."
    low, high = int(known.min()), int(known.max())
    kept = str(low) if low == high else f"{low} to {high}"
    span = f"{beta} {_span(found.betas)}"
    if len(found.eta_decs) > 1:
        span += f" and η_dec {_span(found.eta_decs)}"
    if known.size < found.active.size:
        span += f", where the loss has a minimum ({known.size} of {found.active.size} cells)"
    are = "is" if kept == "1" or units == 1 else "are"
    return f"{kept} of {count_of(units, 'unit')} {are} active for {span}."


def _span(values: Any) -> str:
    low, high = (number(float(end)) for end in (values.min(), values.max()))
    return f"= {low}" if low == high else f"from {low} to {high}"


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
    """Of one η_dec a staircase: a beta's count reaches half way to its neighbours, as on a map."""
    order = np.argsort(found.betas)
    betas, counts = found.betas[order], found.active[order, 0]
    most = max(1, int(counts.max()))
    chart = Chart(f"Staircase: {phase_sentence(found)} The numbers are in the table.", (640, 320))
    x, along = _axis(betas, chart.left, chart.right)
    y = linear(0.0, most * 1.05, chart.bottom, chart.top)
    chart.rows(y, whole_ticks(most))
    chart.columns(x, _ticks(betas), symbol(beta_name(found)))
    points = []
    for ends, count in zip(along, counts, strict=True):
        height = y(float(count)) if count >= 0 else np.nan
        points += [(end, height) for end in ends]
    chart.line(points, "pc-stairs")
    return chart.svg()


def _axis(values: Any, start: float, end: float) -> tuple[Scale, list[tuple[float, float]]]:
    """A scale, and the edges of each value's cell: half way to its neighbours."""
    inset = (end - start) / len(values) / 2
    scale = scale_over(values, start + inset, end - inset, wide=is_wide(values))
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
    place, stops = share * (len(SHADES) - 1), range(len(SHADES))
    mixed = (round(float(np.interp(place, stops, one))) for one in zip(*SHADES, strict=True))
    return "#" + "".join(f"{c:02x}" for c in mixed)


def tuned_html(found: Any, *, name: str = "", **_: Any) -> str:
    """Return a self-contained page of what was tuned."""
    parts = tuned_parts(found)
    kind = found.spec.model.upper()
    return render(
        "curve.html.jinja",
        title="Tuned",
        name=name,
        about=f"{kind}{f' on {name}' if name else ''}, {symbol(found.parameter)} tuned for "
        f"{count_of(found.wanted, 'active unit')}{tuned_name(found)[1]}",
        heading=f"Active units over {symbol(found.parameter)}",
        snippet=f"import posterior_collapse as pc\n\nspec = pc.{found.spec!r}",
        words=words(["active", theory(found.spec), "β"]),
        **parts,
    )


def tuned_parts(found: Any) -> dict[str, Any]:
    """Return what page and notebook both show."""
    name = symbol(found.parameter)
    sentence, _, further = tuned_verdict(found).partition(". ")
    return {
        "sentence": f"{sentence.removesuffix('.')}.".replace(f"{found.parameter} ", f"{name} = "),
        "further": further,
        "chart": tuned_chart(found),
        "legend": [
            ("●", "a network, settled"), ("○", "still changing"), ("╌", theory(found.spec)),
            ("◇", "chosen"),
        ],
        "caption": "every trial",
        "columns": [name, *TRIAL_COLUMNS, theory(found.spec).split()[0]],
        "rows": [
            {"head": value(one.value), "cells": trial_cells(one), "chosen": one is found.chosen}
            for one in found.curve
        ],
        "sortable": True,
        "notes": found.notes,
    }  # fmt: skip


def tuned_chart(found: Any) -> Markup:
    """Return the counts of each seed over what was tried, beside those of theory."""
    trials = sorted(found.curve, key=lambda trial: (trial.value, trial.steps))
    name = symbol(found.parameter)
    counts = [n for t in trials for n in (*t.active, *[t.linear] * (t.linear is not None))]
    high = max([1, found.wanted, *counts])
    said = "; ".join(
        f"{name} = {value(t.value)}: {' '.join(map(str, t.active))} active" for t in trials
    )
    chart = Chart(f"Active units over {name}, per seed. {said}", (640, 320), (44, 24, 28, 40))
    low, top = trials[0].value, trials[-1].value
    ends = chart.left + 16, chart.right - 16
    log = found.parameter.startswith("beta") and low < top
    x = logarithmic(low, top, *ends) if log else linear(low, top, *ends)
    y = linear(0, high * 1.06, chart.bottom, chart.top)
    chart.rows(y, whole_ticks(high))
    chart.columns(x, decades(low, top) if log else ticks_of(low, top), name)
    at = y(found.wanted)
    chart.across(at, "pc-wanted", f"{found.wanted} wanted")
    chart.text(chart.right, at - 5, f"{found.wanted} wanted", "end")
    linear_counts = {t.value: t.linear for t in trials if t.linear is not None}
    line = [(x(v), y(n)) for v, n in linear_counts.items()]
    chart.line(line, "pc-threshold", theory(found.spec))
    for trial in trials:
        for nth, count in enumerate(trial.active):
            # Seeds side by side, so that equal counts are seen as several.
            place = x(trial.value) + 5 * (nth - (len(trial.active) - 1) / 2)
            look = "pc-active" if trial.still else "pc-open"
            seed = found.settings.seed + nth
            title = f"{name} = {value(trial.value)}, seed {seed}: {count} active"
            chart.add("circle", title, cx=place, cy=y(count), r=4, class_=look)
    chosen = found.chosen
    chart.here(x(chosen.value), y(chosen.mean) - 16, f"chosen: {value(chosen.value)}")
    return chart.svg()
