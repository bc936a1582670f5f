"""The course of training: KL stacked by unit, active units, and the loss; of one run or of many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from posterior_collapse.errors import at_level, count_of, of_level
from posterior_collapse.report.names import symbol, value
from posterior_collapse.report.pages.chart import (
    Chart,
    Scale,
    linear,
    room_for,
    ticks_of,
    whole_ticks,
)
from posterior_collapse.report.pages.rendering import number
from posterior_collapse.report.runs import (
    History,
    bands,
    column,
    lay_out,
    levels_of,
    names_of,
    thinned,
    unit_of_time,
)

COLOURS = 10
"""Lines that are told apart by colour; more begin anew."""
NAMED = 16
"""Lines that have their names beside them."""
APART = 15
"""Pixels between the names of lines."""
LABELLED = 13
"""Pixels that a band needs for its name."""
LEAST = 0.05
"""Nats that the axis of the KL reaches at least: of less nothing is to be seen."""


def timeline(history: History, expected: Mapping[str, Any] | None) -> Iterator[tuple[str, Markup]]:
    """Yield title and figure of each thing that a history tells, if it has epochs.

    Theory says `loss`, `levels` with `kl` and `n_active`, and how it is called, `theory`; None:
    nothing.
    """
    if not len(history.get("epoch", ())):
        return
    drawn, levels = Timeline(history, expected), levels_of(history)
    for level in levels:
        yield f"KL{of_level(level, len(levels))}, stacked by unit", drawn.stack(level)
    yield "Active units", drawn.active()
    yield "Loss" + " with beta in full" * ("beta_factor" in history), drawn.loss()


@dataclass(frozen=True)
class Timeline:
    """The figures of one history, with an epoch at least: of so many pixels, and so many epochs."""

    history: History
    expected: Mapping[str, Any] | None
    size: tuple[int, int] = (520, 250)
    points: int = 80

    def stack(self, level: int) -> Markup:
        """Return the KL of a level's units over the epochs, one upon the other."""
        layers = bands(self.history, level)
        total = layers[-1].high
        optimum = self.expected and float(sum(self.expected["levels"][level - 1]["kl"]))
        high = max(float(np.nanmax(total, initial=0.0)), optimum or 0.0, LEAST)
        said = ", ".join(f"{b.name} {number(b.high[-1] - b.low[-1])}" for b in layers[:3])
        chart, x, y = self._chart(
            f"KL of z{level}, stacked by unit", f"{number(total[-1])} nats, {said}", 0.0, high
        )
        chart.rows(y, ticks_of(0, high, _most_ticks(chart)), "nats")
        some = thinned(len(total), self.points)
        places = [x(epoch) for epoch in self._epochs[some]]
        for place, band in enumerate(layers):
            look = f"pc-band pc-k{place}" if band.unit is not None else "pc-band pc-rest"
            low, top = ([y(v) for v in edge[some]] for edge in (band.low, band.high))
            last = number(band.high[-1] - band.low[-1])
            chart.area(places, low, top, look, f"{band.name}: {last}")
            if low[-1] - top[-1] >= LABELLED:
                chart.text(chart.right + 5, (low[-1] + top[-1]) / 2 + 4, band.name)
        self._draw_optimum(chart, y, optimum or np.nan)
        return chart.svg()

    def active(self) -> Markup:
        """Return the active units of each level over the epochs, beside those of theory."""
        counts = {n: column(self.history, f"active_{n}") for n in levels_of(self.history)}
        levels = None if self.expected is None else self.expected["levels"]
        kept = {} if levels is None else {n: levels[n - 1]["n_active"] for n in counts}
        seen = (float(np.nanmax(count, initial=0)) for count in counts.values())
        high = max([1.0, *kept.values(), *seen])
        told = "; ".join(f"z{n}: {number(count[-1])}" for n, count in counts.items())
        chart, x, y = self._chart("Active units", told, 0.0, high * 1.05)
        chart.rows(y, whole_ticks(high, _most_ticks(chart)))
        some = thinned(len(self._epochs), 2 * self.points)
        for place, (level, count) in enumerate(counts.items()):
            name = at_level(level, len(counts))
            stairs = _stairs([x(e) for e in self._epochs[some]], [y(c) for c in count[some]])
            chart.line(stairs, f"pc-line pc-s{place}")
            if self.expected and level in kept:
                words = f"{name}the {self.expected['theory']} keeps {kept[level]}"
                chart.across(y(kept[level]), "pc-threshold", words)
            if np.isfinite(count[-1]):
                chart.text(chart.right + 5, y(count[-1]) + 4, f"{name}{number(count[-1])}")
        return chart.svg()

    def loss(self) -> Markup:
        """Return the loss over the epochs, from the tenth part of them on, beside the optimum."""
        # With beta below its own the loss is another, and may be below the optimum.
        whole = ~(column(self.history, "beta_factor") < 1)
        lines = {"trained on": np.where(whole, column(self.history, "loss"), np.nan)}
        if "validation_loss" in self.history:
            lines["validation"] = column(self.history, "validation_loss")
        optimum = np.nan if self.expected is None else float(self.expected["loss"])
        # The first epochs would flatten all that follows.
        late = np.array([*np.concatenate([v[len(v) // 10 :] for v in lines.values()]), optimum])
        seen = late[np.isfinite(late)] if np.isfinite(late).any() else np.array([0.0, 1.0])
        low, high = room_for(float(seen.min()), float(seen.max()))
        last = lines["trained on"][-1]
        chart, x, y = self._chart("Loss", f"{number(last)} nats", low, high, left=66)
        chart.rows(y, ticks_of(low, high), "nats")
        some = thinned(len(self._epochs), self.points)
        for place, (name, line) in enumerate(lines.items()):
            within = np.where(line <= high, line, np.nan)[some]
            path = [(x(e), y(v)) for e, v in zip(self._epochs[some], within, strict=True)]
            chart.line(path, f"pc-line pc-s{place}", name)
            if np.isfinite(line[-1]):
                end = number(line[-1]) if len(lines) == 1 else name
                chart.text(chart.right + 5, y(line[-1]) + 4, end)
        self._draw_optimum(chart, y, optimum)
        return chart.svg()

    def _draw_optimum(self, chart: Chart, y: Scale, optimum: float) -> None:
        if self.expected and np.isfinite(optimum):
            said = f"{self.expected['theory']}: {number(optimum)}"
            chart.across(y(optimum), "pc-threshold", said)

    @property
    def _epochs(self) -> Any:
        return column(self.history, "epoch")

    def _chart(
        self, what: str, in_the_end: str, low: float, high: float, left: int = 44
    ) -> tuple[Chart, Scale, Scale]:
        """A figure with the epochs along, and the scales of both axes."""
        first, last = (float(self._epochs[at]) for at in (0, -1))
        unit = unit_of_time(self.history)
        label = f"{what}, over {count_of(int(last), unit)}; in the end {in_the_end}"
        chart = Chart(label, self.size, (left, 78, 28, 40))
        x = linear(min(first, last - 1), last, chart.left, chart.right)
        chart.columns(x, [t for t in ticks_of(first, last) if t == round(t)], unit)
        return chart, x, linear(low, high, chart.bottom, chart.top)


def course_chart(found: Any, level: int) -> Markup:
    """Return the active units of a level of all runs over the steps, coloured by what varies."""
    names, layout, runs = names_of(found), lay_out(found.labels), found.runs
    there = [i for i, run in enumerate(runs) if level in levels_of(run.history)]
    counts = {i: column(runs[i].history, f"active_{level}") for i in there}
    steps = {i: column(runs[i].history, "step") for i in there}
    high = max([1.0, *(float(np.nanmax(c, initial=0.0)) for c in counts.values())])
    last = max([1.0, *(float(s[-1]) for s in steps.values() if len(s))])
    right = 100 if len(layout.series) == 1 else 160
    chart = Chart(
        f"Active units of z{level} of every run over its steps", (520, 290), (44, right, 28, 40)
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
        look = f"pc-line pc-c{colours[layout.places[i]]}"
        with chart.link(i, names[i]):
            chart.line(points, look, names[i])
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


def _most_ticks(chart: Chart) -> int:
    return max(2, int(chart.bottom - chart.top) // 35)


def _stairs(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    """A line that moves along one axis at a time."""
    points = [(x[0], y[0])]
    for i in range(1, len(x)):
        if y[i] != y[i - 1] or i == len(x) - 1:
            points += [(x[i], y[i - 1]), (x[i], y[i])]
    return points
