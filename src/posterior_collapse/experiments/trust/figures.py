"""The figures of the study: shares alive, brackets of counts, gains said and brought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from posterior_collapse.experiments.figures.chart import Chart, Line, Panels, array, long, panels
from posterior_collapse.experiments.tables import Table
from posterior_collapse.report.figures.panels import BLUE, GREY, ORANGE

__all__ = ["brackets", "curves", "predicted"]

LEAST = 1e-3
"""Nats at which smaller gains are drawn."""
BEYOND = 10.0
"""Times the most that any unit brought at which what was said is cut off."""
ANSWER_LOOKS: Mapping[str, tuple[str, str]] = {
    "pays": (BLUE, "o"), "undecided": (GREY, "s"), "does not pay": (ORANGE, "^"),
}  # fmt: skip
LOOKS: Sequence[dict[str, Any]] = (
    {"color": BLUE, "marker": "o", "ls": "-"},
    {"color": ORANGE, "marker": "x", "ls": "--"},
)


def curves(lines: Panels, *, x: str, y: str) -> Chart:
    """Draw quantities over beta as a share of the predicted onset, which is dotted.

    Args:
        lines: Title -> label -> (shares of the onset, values).
        x: Name of the x axis.
        y: Name of the y axis.

    Example:
        >>> curves({"digits": {"plain": ([0.9, 1.1], [1, 0])}}, x="beta", y="alive").table.rows[0]
        ['digits', 'plain', 0.9, 1.0]
    """
    with panels(lines, x=x, y=y, sharey=True, height=1.9) as (figure, drawn):
        for box, each in drawn:
            for (label, line), look in zip(each.items(), LOOKS, strict=False):
                box.plot(*map(array, line), label=label, ms=3, lw=1, mfc="none", **look)
            box.axvline(1.0, color="black", lw=0.8, ls=":")
            box.set_xlim(0.6, 1.45)
    return Chart(figure, long(lines, x, y))


def brackets(lines: Mapping[str, Mapping[str, Line]]) -> Chart:
    """Draw counts of active units between the fewest and the linear count.

    Args:
        lines: Title -> `fewest`, `linear` and labels of counts -> (shares of the onset, units).

    Example:
        >>> each = {"fewest": ([0.1, 0.5], [3, 1]), "linear": ([0.1, 0.5], [9, 4])}
        >>> chart = brackets({"digits": {**each, "kept": ([0.1, 0.5], [6, 3])}})
        >>> len(chart.table.rows)
        6
    """
    from matplotlib.ticker import MaxNLocator

    x, y = "beta / predicted onset", "active units"
    with panels(lines, x=x, y=y, height=2.1) as (figure, drawn):
        for box, each in drawn:
            fewest, linear = (array(each[name][1]) for name in ("fewest", "linear"))
            at = array(each["linear"][0])
            box.fill_between(at, fewest, linear, color=GREY, alpha=0.3, lw=0, label="bracket")
            box.plot(at, linear, color="black", lw=0.8, label="linear optimum")
            measured = {k: v for k, v in each.items() if k not in ("fewest", "linear")}
            for (label, line), look in zip(measured.items(), LOOKS, strict=False):
                box.plot(*map(array, line), label=label, ms=3, lw=1, mfc="none", **look)
            box.set_xscale("log")
            box.set_xticks([0.05, 0.1, 0.2, 0.5, 1], ["0.05", "0.1", "0.2", "0.5", "1"])
            box.minorticks_off()
            box.set_ylim(bottom=0)
            box.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return Chart(figure, long(lines, x, y))


def predicted(points: Mapping[str, Sequence[tuple[float, float, str]]]) -> Chart:
    """Draw what one more unit brought against what was said, on log scales.

    Args:
        points: Title -> (said, brought, answer), in nats.

    Example:
        >>> predicted({"digits": [(0.1, 0.2, "pays")]}).table.rows
        [['digits', 'pays', 0.1, 0.2]]
    """
    x, y = "said (nats)", "brought (nats)"
    with panels(points, x=x, y=y, height=2.3) as (figure, drawn):
        for box, each in drawn:
            numbers = np.array([[said, got] for said, got, _ in each])
            shown = np.clip(numbers, LEAST, [BEYOND * max(numbers[:, 1].max(), LEAST), np.inf])
            for answer, (color, marker) in ANSWER_LOOKS.items():
                own = np.array([a == answer for _, _, a in each])
                look: dict[str, Any] = {"color": color, "marker": marker, "mfc": "none", "ls": ""}
                box.plot(*shown[own].T, ms=3.5, label=f"said: {answer}", **look)
            ends = [LEAST, float(shown.max()) * 1.5]
            box.plot(ends, ends, color="black", lw=0.8, ls=":")
            box.set_xscale("log")
            box.set_yscale("log")
    rows = [
        [title, answer, said, got] for title, each in points.items() for said, got, answer in each
    ]
    return Chart(figure, Table(["panel", "answer", x, y], rows))
