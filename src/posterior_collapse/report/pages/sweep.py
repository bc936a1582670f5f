"""A sweep, or a single run, as a page: what came out beside what was forecast, and its course."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from posterior_collapse.arrays import ImageShape
from posterior_collapse.errors import InvalidArgumentError, count_of, of_level
from posterior_collapse.report.comparison import (
    FEW,
    comparison_cells,
    comparison_columns,
    comparison_kind,
    comparison_sentences,
    comparison_verdict,
)
from posterior_collapse.report.names import named, symbol, theory
from posterior_collapse.report.pages.chart import (
    Chart,
    decades,
    linear,
    room_for,
    scale_over,
    ticks_of,
    whole_ticks,
)
from posterior_collapse.report.pages.pictures import check_image_shape, strip
from posterior_collapse.report.pages.rendering import number, render, words
from posterior_collapse.report.pages.timeline import (
    COLOURS,
    Timeline,
    course_chart,
    spread,
    timeline,
)
from posterior_collapse.report.runs import (
    beside,
    expected,
    lay_out,
    levels_of,
    names_of,
    optimum_of,
    side,
    theories,
    varying,
)

KINDS = {
    "as forecast": ("same", "●"),
    "fewer units": ("fewer", "▼"),
    "more units": ("more", "▲"),
    "undertrained": ("under", "◔"),
    "no forecast": ("unknown", "?"),
    "stopped": ("stopped", "×"),
}
"""What each kind of outcome is marked by: a class, and a shape for those who see no colour."""
MEASURED = "measured/forecast, loss and KL in nats per row"
TERMS = ("active", "KL", "β", "η_dec")
MOST_STACKED = 24
"""Runs up to which each card has its KL stacked by unit."""
BESIDE = 7.0
"""Pixels between marks that would hide each other."""
CARD = (250, 144)
CARD_POINTS = 24
ROWS = 6


def sweep_html(
    found: Any,
    *,
    name: str = "",
    image_shape: ImageShape | None = None,
    data: Any = None,
    **_: Any,
) -> str:
    """Return a self-contained page of a sweep.

    Of rows of images, x or (x, y), the first are shown as each run decodes them.
    """
    parts = sweep_parts(found)
    pictures, targets = _decoded(found, data, image_shape)
    for run, card, picture in zip(found.runs, parts["runs"], pictures, strict=True):
        stacked = len(found.runs) <= MOST_STACKED
        card |= {"charts": list(_course(run, stacked=stacked)), "outputs": picture}
    courses = [
        (_title("Active units over training", level, found), course_chart(found, level))
        for level in _levels(found)
        if any(level in levels_of(run.history) for run in found.runs)
    ]
    return render(
        "sweep.html.jinja",
        title="Sweep",
        name=name,
        about=f"Sweep of {count_of(len(found.runs), 'run')}{f' on {name}' if name else ''}; "
        f"{varying(found)}",
        courses=courses if len(found.runs) > 1 else [],
        targets=targets,
        words=words([*TERMS, *(theory(run.run.spec) for run in found.runs)]),
        kinds=[
            (*_status(kind)[:2], kind, count)
            for kind in KINDS
            if (count := sum(run["status"][2] == kind for run in parts["runs"]))
        ],
        **parts,
    )


def fitted_html(found: Any, *, name: str = "", **_: Any) -> str:
    """Return a self-contained page of one trained run."""
    summary = found.summary()
    run = _run("", named({"seed": found.settings.seed}), summary)
    return render(
        "fitted.html.jinja",
        title="Training",
        name=name,
        about=f"{found.spec.model.upper()}{f' on {name}' if name else ''}, "
        f"{found.model.architecture.name}",
        described=repr(found.spec),
        **fitted_parts(found) | {"sentence": run["verdict"]},
        run=run,
        columns=_columns(len(found.spec.dims)),
        caption=MEASURED,
        words=words([*TERMS, theory(found.spec)]),
    )


def fitted_parts(found: Any) -> dict[str, Any]:
    """Return what a notebook shows of a trained run: its course, without measuring it anew."""
    against = expected(optimum_of(found))
    charts = list(timeline(found.history, against))
    return {"sentence": repr(found), "charts": charts, "theory": against and against["theory"]}


def sweep_parts(found: Any) -> dict[str, Any]:
    """Return what page and notebook both show."""
    pairs = list(zip(names_of(found), (run.summary() for run in found.runs), strict=True))
    runs = [_run(f"run-{n}", name, summary) for n, (name, summary) in enumerate(pairs, 1)]
    sentence, *further = comparison_sentences(pairs, where="Each run has a card below.")
    if 1 < len(runs) <= FEW:
        # A verdict per run is long for a headline, and stands on the cards.
        sentence, *further = comparison_sentences(pairs, "", few=1)
    return {
        "sentence": sentence,
        "further": [line for line in further if line],
        "charts": list(_charts(found)),
        "theory": theories(found),
        "runs": runs,
        "tables": [
            {
                "caption": MEASURED + (f", {levels} levels" if levels > 1 else ""),
                "columns": _columns(levels),
                "rows": [run for run in runs if run["levels"] == levels],
            }
            for levels in dict.fromkeys(run["levels"] for run in runs)
        ],
    }


def _columns(levels: int) -> list[str]:
    return ["run", *comparison_columns(levels), "outcome"]


def _run(link: str, name: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """A run as a row of a table, and as a card that its name leads to."""
    kind, levels = comparison_kind(summary), len(summary["measured"]["levels"])
    return {
        "link": link, "head": name, "status": _status(kind), "mark": KINDS[kind][0],
        "verdict": comparison_verdict(summary),
        "cells": list(comparison_cells(summary, levels)), "levels": levels,
    }  # fmt: skip


def _status(kind: str) -> tuple[str, str, str]:
    """The class, the icon and the word of an outcome."""
    mark, icon = KINDS[kind]
    return f"pc-kind-{mark}", icon, kind


def _levels(found: Any) -> range:
    return range(1, max(len(run.measured["levels"]) for run in found.runs) + 1)


def _title(what: str, level: int, found: Any) -> str:
    return f"{what}{of_level(level, len(_levels(found)))}"


def _charts(found: Any) -> Iterator[tuple[str, Markup]]:
    layout = lay_out(found.labels)
    for level in _levels(found):
        title = _title("Active units", level, found)
        if layout.across:
            yield title, level_map(found, level)
        else:
            yield title, line_chart(found, level, title)
    yield "Loss", line_chart(found, 0, "Loss")


def _course(run: Any, *, stacked: bool) -> Iterator[tuple[str, Markup]]:
    """Small figures of one run's course."""
    history, levels = run.history, levels_of(run.history)
    if not len(history.get("epoch", ())):
        return
    drawn = Timeline(history, beside(run.forecast, run.run.spec), CARD, CARD_POINTS)
    for level in levels if stacked else ():
        yield f"KL{of_level(level, len(levels))} by unit", drawn.stack(level)
    yield "Active units", drawn.active()


def _decoded(
    found: Any, data: Any, shape: ImageShape | None
) -> tuple[list[str | None], str | None]:
    """Some rows as each run decodes them, and the rows, where these are images."""
    pictures: list[str | None] = [None] * len(found.runs)
    if data is None or shape is None:
        return pictures, None
    import torch

    x, *y = (np.asarray(part)[:ROWS] for part in (data if isinstance(data, tuple) else (data,)))
    target = (y[0] if y else x).reshape(len(x), -1)
    check_image_shape(shape, target.shape[1])
    limits = float(target.min()), float(target.max())
    for i, run in enumerate(found.runs):
        model = run.model
        own = next(model.parameters())
        rows = [torch.as_tensor(p.reshape(len(p), -1), dtype=own.dtype) for p in (x, *y)]
        if model.shapes.x_dim != rows[0].shape[1]:
            raise InvalidArgumentError(
                "data", f"{rows[0].shape[1]} features", f"{model.shapes.x_dim}, as trained on",
                "Pass rows of the data of the sweep.",
            )  # fmt: skip
        with torch.no_grad():
            outputs = model.eval().reconstruct(*rows).numpy()
        pictures[i] = strip(outputs, shape, limits) if np.isfinite(outputs).all() else None
    return pictures, strip(target, shape, limits)


def line_chart(found: Any, level: int, title: str) -> Markup:
    """Return what was measured as dots, and what was forecast as lines, over what varies.

    Of a level's active units, or of level 0 the loss.
    """
    names, layout = names_of(found), lay_out(found.labels)
    pairs = [(side(run, "measured", level), side(run, "forecast", level)) for run in found.runs]
    places = Counter((layout.places[i], pair[0]) for i, pair in enumerate(pairs))
    drawn_there = Counter[tuple[float, float | None]]()
    seen = [v for pair in pairs for v in pair if v is not None] or [0.0]
    most = max([1.0, *seen])
    low, high = (-0.05 * most, 1.05 * most) if level else room_for(min(seen), max(seen))
    said = (f"{name}: {_pair(*pair)}" for name, pair in zip(names, pairs, strict=True))
    several = len(layout.series) > 1
    told = several and layout.named
    chart = Chart(f"{title}, measured over forecast. {'; '.join(said)}", (520, 290),
                  (52, 96 if told else 20, 28, 40))  # fmt: skip
    inner = chart.left + 12, chart.right - 12
    x = scale_over(layout.places, *inner, wide=layout.wide)
    y = linear(low, high, chart.bottom, chart.top)
    chart.rows(y, whole_ticks(high) if level else ticks_of(low, high), "" if level else "nats")
    ticks = sorted(set(layout.places))
    if len(ticks) > 8:
        ticks = (decades if layout.wide else ticks_of)(ticks[0], ticks[-1])
    chart.columns(x, ticks, symbol(layout.axis))
    ends = []
    for place, (name, members) in enumerate(layout.series.items()):
        look = place % COLOURS
        forecasts = {layout.places[i]: pairs[i][1] for i in members}
        line = [(x(at), y(v)) for at, v in forecasts.items() if v is not None]
        dashes = f"pc-forecast pc-c{look}" if several else "pc-threshold"
        chart.line(line, dashes, theories(found))
        drawn = [i for i in members if pairs[i][0] is not None]
        for i in drawn:
            measured = pairs[i][0]
            assert measured is not None
            # Seeds side by side, so that equal counts are seen as several.
            spot = layout.places[i], measured
            beside = BESIDE * (drawn_there[spot] - (places[spot] - 1) / 2)
            drawn_there[spot] += 1
            with chart.link(i, names[i]):
                chart.add("circle", f"{names[i]}: {_pair(*pairs[i])}", cx=x(spot[0]) + beside,
                          cy=y(measured), r=5, class_=f"pc-run pc-c{look}")  # fmt: skip
        if told and drawn:
            ends.append((y(pairs[drawn[-1]][0] or 0.0), name))
    for at, name in spread(ends, chart.top, chart.bottom):
        chart.text(chart.right + 8, at + 4, name)
    return chart.svg()


def level_map(found: Any, level: int) -> Markup:
    """Return a map over two numbers: the median of the seeds' active units, over the forecast."""
    names, layout, runs = names_of(found), lay_out(found.labels), found.runs
    across = layout.across or ""
    columns = sorted(set(layout.places))
    rows = sorted({float(label[across]) for label in found.labels}, reverse=True)
    cells: dict[tuple[float, float], list[int]] = {}
    for i, label in enumerate(found.labels):
        cells.setdefault((layout.places[i], float(label[across])), []).append(i)
    most = max(
        [1.0, *(v for run in runs for w in ("measured", "forecast")
                if (v := side(run, w, level)) is not None)]
    )  # fmt: skip
    height = 68 + 38 * len(rows)
    chart = Chart(f"Active units of z{level} over {symbol(layout.axis)} and {symbol(across)}: "
                  "measured over forecast", (520, height), (64, 14, 28, 40))  # fmt: skip
    wide, tall = (chart.right - chart.left) / len(columns), (chart.bottom - chart.top) / len(rows)
    for r, row in enumerate(rows):
        top = chart.top + r * tall
        chart.text(chart.left - 6, top + tall / 2 + 4, number(row), "end")
        for c, place in enumerate(columns):
            members = cells[place, row]
            known = [v for i in members if (v := side(runs[i], "measured", level)) is not None]
            middle = statistics.median(known) if known else None
            pair = _pair(middle, side(runs[members[0]], "forecast", level))
            left = chart.left + c * wide
            with chart.link(members[0], names[members[0]]):
                chart.add("rect", f"{names[members[0]]}: {pair}", x=left + 1,
                          y=top + 1, width=wide - 2, height=tall - 2, class_="pc-cell",
                          fill_opacity=f"{0.08 + 0.47 * (middle or 0) / most:.2f}")  # fmt: skip
                chart.text(left + wide / 2, top + tall / 2 + 4, pair, "middle")
    centres = {place: chart.left + (c + 0.5) * wide for c, place in enumerate(columns)}
    chart.columns(centres.__getitem__, columns, symbol(layout.axis))
    chart.text(2, 14, symbol(across))
    return chart.svg()


def _pair(found: float | None, expected: float | None) -> str:
    return "/".join("-" if v is None else number(v) for v in (found, expected))
