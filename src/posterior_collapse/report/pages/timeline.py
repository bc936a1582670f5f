"""The course of training: KL stacked by unit, active units, and the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from posterior_collapse.report.pages.chart import Chart, linear, ticks_of, whole_ticks
from posterior_collapse.report.pages.rendering import number
from posterior_collapse.report.stacked import bands, column, levels_of, thinned

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["active_chart", "loss_chart", "stack_chart", "timeline"]

POINTS = 80
"""Epochs that are drawn."""
LABELLED = 13
"""Pixels that a band needs for its name."""
SIZE = (520, 250)
LEAST = 0.05
"""Nats that the axis of the KL reaches at least: of less nothing is to be seen."""


def timeline(
    history: Mapping[str, Sequence[float]], expected: Mapping[str, Any] | None
) -> Iterator[tuple[str, Markup]]:
    """Yield title and figure of each thing that a history tells.

    Args:
        history: Of `Fitted`; nothing is yielded of one without epochs.
        expected: What theory says: `loss`, and `levels` with `kl` and `n_active`; or None.
    """
    if not len(history.get("epoch", ())):
        return
    levels = levels_of(history)
    for level in levels:
        name = f" of z{level}" if len(levels) > 1 else ""
        yield f"KL{name}, stacked by unit", stack_chart(history, level, expected)
    yield "Active units", active_chart(history, expected)
    yield "Loss", loss_chart(history, expected)


def stack_chart(
    history: Mapping[str, Sequence[float]],
    level: int,
    expected: Mapping[str, Any] | None,
    size: tuple[int, int] = SIZE,
    points: int = POINTS,
) -> Markup:
    """Return the KL of a level's units over the epochs, one upon the other.

    Args:
        history: Of `Fitted`.
        level: From 1.
        expected: As in `timeline`.
        size: In pixels.
        points: Epochs that are drawn.
    """
    epochs, layers = column(history, "epoch"), bands(history, level)
    some = thinned(len(epochs), points)
    total = layers[-1].high
    optimum = None if expected is None else float(sum(expected["levels"][level - 1]["kl"]))
    high = max(float(np.nanmax(total, initial=0.0)), optimum or 0.0, LEAST)
    chart = Chart(
        f"KL of z{level} over {len(epochs)} epochs, stacked by unit: in the end "
        + f"{number(total[-1])} nats, "
        + ", ".join(f"{b.name} {number(b.high[-1] - b.low[-1])}" for b in layers[:3]),
        size,
        (44, 64, 18, 36),
    )
    x, y = _axes(chart, epochs, high)
    chart.rows(y, ticks_of(0, high, _most_ticks(chart)), "nats")
    for place, band in enumerate(layers):
        look = f"pc-band pc-k{place}" if band.unit is not None else "pc-band pc-rest"
        low, high_ = ([y(v) for v in edge[some]] for edge in (band.low, band.high))
        last = band.high[-1] - band.low[-1]
        chart.area([x(e) for e in epochs[some]], low, high_, look, f"{band.name}: {number(last)}")
        if low[-1] - high_[-1] >= LABELLED:
            chart.text(chart.right + 5, (low[-1] + high_[-1]) / 2 + 4, band.name)
    if optimum:
        chart.line([(chart.left, y(optimum)), (chart.right, y(optimum))], "pc-threshold",
                   f"linear optimum: {number(optimum)}")  # fmt: skip
    return chart.svg()


def active_chart(
    history: Mapping[str, Sequence[float]],
    expected: Mapping[str, Any] | None,
    size: tuple[int, int] = SIZE,
    points: int = POINTS,
) -> Markup:
    """Return the active units of each level over the epochs, beside those of the linear optimum.

    Args:
        history: Of `Fitted`.
        expected: As in `timeline`.
        size: In pixels.
        points: Epochs that are drawn.
    """
    epochs, levels = column(history, "epoch"), levels_of(history)
    some = thinned(len(epochs), 2 * points)
    counts = {level: column(history, f"active_{level}") for level in levels}
    kept = {} if expected is None else {n: expected["levels"][n - 1]["n_active"] for n in levels}
    high = max([1.0, *kept.values(), *(float(np.nanmax(c, initial=0)) for c in counts.values())])
    told = "; ".join(f"z{n}: {number(c[-1])}" for n, c in counts.items())
    chart = Chart(f"Active units over {len(epochs)} epochs, in the end {told}", size,
                  (44, 64, 18, 36))  # fmt: skip
    x, y = _axes(chart, epochs, high * 1.05)
    chart.rows(y, whole_ticks(high, _most_ticks(chart)))
    for place, (level, count) in enumerate(counts.items()):
        name = f"z{level}: " if len(levels) > 1 else ""
        chart.line(_stairs([x(e) for e in epochs[some]], [y(c) for c in count[some]]),
                   f"pc-line pc-s{place}")  # fmt: skip
        if level in kept:
            at = y(kept[level])
            chart.line([(chart.left, at), (chart.right, at)], "pc-threshold",
                       f"{name}the linear optimum keeps {kept[level]}")  # fmt: skip
        if np.isfinite(count[-1]):
            chart.text(chart.right + 5, y(count[-1]) + 4, f"{name}{number(count[-1])}")
    return chart.svg()


def loss_chart(
    history: Mapping[str, Sequence[float]],
    expected: Mapping[str, Any] | None,
    size: tuple[int, int] = SIZE,
    points: int = POINTS,
) -> Markup:
    """Return the loss over the epochs, from the tenth part of them on, beside the linear optimum.

    Args:
        history: Of `Fitted`.
        expected: As in `timeline`.
        size: In pixels.
        points: Epochs that are drawn.
    """
    epochs = column(history, "epoch")
    some = thinned(len(epochs), points)
    lines = {"trained on": column(history, "loss")}
    if "validation_loss" in history:
        lines["validation"] = column(history, "validation_loss")
    optimum = None if expected is None else float(expected["loss"])
    # The first epochs would flatten all that follows.
    late = np.concatenate([line[len(line) // 10 :] for line in lines.values()])
    seen = [v for v in [*late, optimum] if v is not None and np.isfinite(v)] or [0.0, 1.0]
    low, high = min(seen), max(seen)
    room = 0.06 * ((high - low) or 1.0)
    low, high = low - room, high + room
    last = lines["trained on"][-1]
    chart = Chart(f"Loss over {len(epochs)} epochs, in the end {number(last)} nats", size,
                  (56, 64, 18, 36))  # fmt: skip
    x, y = _axes(chart, epochs, high, low)
    chart.rows(y, ticks_of(low, high), "nats")
    for place, (name, line) in enumerate(lines.items()):
        path = [
            (x(e), y(v)) if v <= high else (np.nan, np.nan)
            for e, v in zip(epochs[some], line[some], strict=True)
        ]
        chart.line(path, f"pc-line pc-s{place}", name)
        if np.isfinite(line[-1]):
            end = number(line[-1]) if len(lines) == 1 else name
            chart.text(chart.right + 5, y(line[-1]) + 4, end)
    if optimum is not None and np.isfinite(optimum):
        chart.line([(chart.left, y(optimum)), (chart.right, y(optimum))], "pc-threshold",
                   f"linear optimum: {number(optimum)}")  # fmt: skip
    return chart.svg()


def _most_ticks(chart: Chart) -> int:
    return max(2, int(chart.bottom - chart.top) // 35)


def _axes(chart: Chart, epochs: Any, high: float, low: float = 0.0) -> tuple[Any, Any]:
    first, last = float(epochs[0]), float(epochs[-1])
    x = linear(min(first, last - 1), last, chart.left, chart.right)
    y = linear(low, high, chart.bottom, chart.top)
    chart.columns(x, [t for t in ticks_of(first, last) if t == round(t)], "epoch")
    return x, y


def _stairs(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    """A line that moves along one axis at a time."""
    points = [(x[0], y[0])]
    for i in range(1, len(x)):
        if y[i] != y[i - 1] or i == len(x) - 1:
            points += [(x[i], y[i - 1]), (x[i], y[i])]
    return points
