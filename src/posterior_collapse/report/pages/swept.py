"""Figures of many runs: measured over forecast, and their course, each run a link to its card."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from posterior_collapse.report.names import symbol, value
from posterior_collapse.report.pages.chart import (
    Chart,
    Scale,
    decades,
    linear,
    logarithmic,
    ticks_of,
    whole_ticks,
)
from posterior_collapse.report.pages.rendering import number
from posterior_collapse.report.stacked import column, levels_of, thinned
from posterior_collapse.report.swept import Layout, Swept, is_wide, lay_out, names_of, side

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["course_chart", "level_map", "line_chart"]

SIZE = (520, 290)
COLOURS = 10
"""Lines that are told apart by colour; more begin anew."""
NAMED = 16
"""Lines that have their names beside them."""
APART = 15
"""Pixels between the names of lines."""
BESIDE = 7.0
"""Pixels between marks that would hide each other."""


def line_chart(found: Swept, level: int, title: str) -> Markup:
    """Return what was measured as dots, and what was forecast as lines, over what varies.

    Args:
        found: What `sweep` returned.
        level: Whose active units; 0: the loss.
        title: What it shows.
    """
    names, layout = names_of(found), lay_out(found.labels)
    pairs = [(side(run, "measured", level), side(run, "forecast", level)) for run in found.runs]
    places = Counter((layout.places[i], pair[0]) for i, pair in enumerate(pairs))
    drawn_there = Counter[tuple[float, float | None]]()
    seen = [v for pair in pairs for v in pair if v is not None] or [0.0]
    most = max([1.0, *seen])
    low, high = (-0.05 * most, 1.05 * most) if level else _room(min(seen), max(seen))
    said = (f"{name}: {_pair(*pair)}" for name, pair in zip(names, pairs, strict=True))
    several = len(layout.series) > 1
    chart = Chart(f"{title}, measured over forecast. {'; '.join(said)}", SIZE,
                  (52, 96 if several else 20, 28, 40))  # fmt: skip
    x, y = _x(chart, layout), linear(low, high, chart.bottom, chart.top)
    chart.rows(y, whole_ticks(high) if level else ticks_of(low, high), "" if level else "nats")
    _x_ticks(chart, x, layout)
    ends = []
    for place, (name, members) in enumerate(layout.series.items()):
        look = place % COLOURS
        forecasts = {layout.places[i]: pairs[i][1] for i in members}
        line = [(x(at), y(v)) for at, v in forecasts.items() if v is not None]
        chart.line(line, f"pc-forecast pc-c{look}" if several else "pc-threshold", "linear optimum")
        drawn = [i for i in members if pairs[i][0] is not None]
        for i in drawn:
            measured = pairs[i][0]
            assert measured is not None
            chart.group("a", href=f"#run-{i + 1}", aria_label=names[i])
            # Seeds side by side, so that equal counts are seen as several.
            spot = layout.places[i], measured
            beside = BESIDE * (drawn_there[spot] - (places[spot] - 1) / 2)
            drawn_there[spot] += 1
            chart.add("circle", f"{names[i]}: {_pair(*pairs[i])}", cx=x(spot[0]) + beside,
                      cy=y(measured), r=5, class_=f"pc-run pc-c{look}")  # fmt: skip
            chart.group()
        if several and drawn:
            ends.append((y(pairs[drawn[-1]][0] or 0.0), name))
    for at, name in spread(ends, chart.top, chart.bottom):
        chart.text(chart.right + 8, at + 4, name)
    return chart.svg()


def level_map(found: Swept, level: int) -> Markup:
    """Return a map over two numbers: the median of the seeds, over what was forecast.

    Args:
        found: What `sweep` returned, laid out over two numbers.
        level: Whose active units.
    """
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
            chart.group("a", href=f"#run-{members[0] + 1}", aria_label=names[members[0]])
            chart.add("rect", f"{names[members[0]]}: {pair}", x=left + 1,
                      y=top + 1, width=wide - 2, height=tall - 2, class_="pc-cell",
                      fill_opacity=f"{0.08 + 0.47 * (middle or 0) / most:.2f}")  # fmt: skip
            chart.text(left + wide / 2, top + tall / 2 + 4, pair, "middle")
            chart.group()
    centres = {place: chart.left + (c + 0.5) * wide for c, place in enumerate(columns)}
    chart.columns(centres.__getitem__, columns, symbol(layout.axis))
    chart.text(2, 14, symbol(across))
    return chart.svg()


def course_chart(found: Swept, level: int) -> Markup:
    """Return the active units of all runs over the steps, coloured by what varies.

    Args:
        found: What `sweep` returned.
        level: Whose active units.
    """
    names, layout, runs = names_of(found), lay_out(found.labels), found.runs
    there = [i for i, run in enumerate(runs) if level in levels_of(run.history)]
    counts = {i: column(runs[i].history, f"active_{level}") for i in there}
    steps = {i: column(runs[i].history, "step") for i in there}
    high = max([1.0, *(float(np.nanmax(c, initial=0.0)) for c in counts.values())])
    last = max([1.0, *(float(s[-1]) for s in steps.values() if len(s))])
    right = 100 if len(layout.series) == 1 else 160
    chart = Chart(
        f"Active units of z{level} of every run over its steps", SIZE, (44, right, 28, 40)
    )
    x = linear(0.0, last, chart.left, chart.right)
    y = linear(0.0, high * 1.05, chart.bottom, chart.top)
    chart.rows(y, whole_ticks(high))
    chart.columns(x, ticks_of(0.0, last), "step")
    colours = {place: n % COLOURS for n, place in enumerate(sorted(set(layout.places)))}
    ends: list[tuple[float, str]] = []
    looks: dict[str, str] = {}
    one_series = len(layout.series) == 1 and layout.axis != "run"
    for i in there:
        some = thinned(len(steps[i]), 60)
        if not len(some):
            continue
        points = [(x(float(s)), y(float(c))) for s, c in zip(steps[i][some], counts[i][some],
                                                            strict=True)]  # fmt: skip
        chart.group("a", href=f"#run-{i + 1}", aria_label=names[i])
        look = f"pc-line pc-c{colours[layout.places[i]]}"
        chart.line(points, look, names[i])
        chart.group()
        name = f"{symbol(layout.axis)} = {value(layout.places[i])}" if one_series else names[i]
        if name not in looks:  # seeds are told by one
            looks[name] = look
            ends.append((y(float(np.nan_to_num(counts[i][-1]))), name))
    for at, name in spread(ends, chart.top, chart.bottom) if len(ends) <= NAMED else ():
        chart.line([(chart.right + 4, at), (chart.right + 14, at)], looks[name])
        chart.text(chart.right + 18, at + 4, name)
    return chart.svg()


def spread(ends: Iterable[tuple[float, str]], top: float, bottom: float) -> list[tuple[float, str]]:
    """Return names with heights that keep them apart, near where they belong.

    Example:
        >>> spread([(50.0, "a"), (51.0, "b")], 0.0, 100.0)
        [(43.0, 'a'), (58.0, 'b')]
        >>> spread([(100.0, "a"), (100.0, "b"), (80.0, "c")], 0.0, 100.0)
        [(70.0, 'c'), (85.0, 'a'), (100.0, 'b')]
    """

    def start(block: Sequence[tuple[float, str]]) -> float:
        middle, length = sum(at for at, _ in block) / len(block), APART * (len(block) - 1)
        return max(top, min(middle - length / 2, bottom - length))

    placed: list[list[tuple[float, str]]] = []
    for at, name in sorted(ends):
        placed.append([(at, name)])
        # Names that touch move as one block, about the middle of where they belong.
        while len(placed) > 1 and start(placed[-1]) < start(placed[-2]) + APART * len(placed[-2]):
            block = placed.pop()
            placed[-1] += block
    return [
        (start(block) + APART * n, name) for block in placed for n, (_, name) in enumerate(block)
    ]


def _x(chart: Chart, layout: Layout) -> Scale:
    low, high = min(layout.places), max(layout.places)
    inner = chart.left + 12, chart.right - 12
    if low == high:
        return lambda _: sum(inner) / 2
    return (logarithmic if layout.wide else linear)(low, high, *inner)


def _x_ticks(chart: Chart, x: Scale, layout: Layout) -> None:
    places = sorted(set(layout.places))
    if len(places) > 8:
        low, high = places[0], places[-1]
        places = decades(low, high) if is_wide(places) else ticks_of(low, high)
    chart.columns(x, places, symbol(layout.axis))


def _room(low: float, high: float) -> tuple[float, float]:
    room = 0.06 * ((high - low) or abs(high) or 1.0)
    return low - room, high + room


def _pair(found: float | None, expected: float | None) -> str:
    return "/".join("-" if v is None else number(v) for v in (found, expected))
