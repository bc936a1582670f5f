"""A sweep: its figure over what varies, and its page, measured beside forecast."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from posterior_collapse.report.comparison import comparison_sentences, comparison_table
from posterior_collapse.report.figures import BLUE, GREEN, GREY, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["Swept", "sweep_figure", "sweep_page"]

LOOKS = tuple(zip((BLUE, ORANGE, GREEN, GREY), "osv^", strict=True))
WIDE = 10.0
"""Ratio of the ends of an axis from which on it is logarithmic."""


class Swept(Protocol):
    """What is looked at: a `Sweep`, which a room above makes."""

    @property
    def labels(self) -> Sequence[Mapping[str, Any]]:
        """Per run the values of what varies."""

    @property
    def runs(self) -> Sequence[Any]:
        """The runs, each with `measured`, `forecast` and `stopped`."""


def sweep_figure(found: Swept) -> Figure:
    """Return a figure: the loss, and the active units of each level, over what varies.

    Markers are what was measured, lines the forecast; where several things vary, the first that is
    a number is the axis, and each combination of the others has a look of its own.

    Args:
        found: What `sweep` returned.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    levels = max(len(run.measured["levels"]) for run in found.runs)
    figure = Figure(figsize=(4.2 * (1 + levels), 3.8), layout="constrained")
    panels = figure.subplots(1, 1 + levels, squeeze=False)[0]
    axis, places, series = _series(found.labels)
    for level, axes in enumerate(panels):
        for (name, members), (color, marker) in zip(
            series.items(), LOOKS * len(series), strict=False
        ):
            pairs = [(places[i], *_values(found.runs[i], level)) for i in members]
            known = [(x, forecast) for x, _, forecast in pairs if forecast is not None]
            axes.plot(*zip(*known, strict=True) if known else ((), ()), "--", color=color, lw=1)
            there = [(x, measured) for x, measured, _ in pairs if measured is not None]
            axes.plot(
                *zip(*there, strict=True) if there else ((), ()),
                marker, color=color, mfc="none", label=name or "measured",
            )  # fmt: skip
        axes.set_xlabel(axis)
        of = f" of z{level}" if levels > 1 else ""
        axes.set_ylabel(f"active units{of}" if level else "loss (nats)")
        if level:
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        _scale(axes, places)
    panels[0].plot([], [], "--", color="black", lw=1, label="linear optimum")
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def sweep_page(found: Swept) -> Iterator[RenderableType]:
    """Yield a table of the runs of each number of levels, and sentences on them."""
    by_levels: dict[int, list[tuple[str, dict[str, Any]]]] = {}
    for number, (label, run) in enumerate(zip(found.labels, found.runs, strict=True), 1):
        sides = {"measured": run.measured, "forecast": run.forecast, "stopped": run.stopped}
        name = _named(label) or str(number)
        by_levels.setdefault(len(run.measured["levels"]), []).append((name, sides))
    for named in by_levels.values():
        yield comparison_table(named)
        yield from comparison_sentences(named, where="to_dict() has the numbers of each run.")


def _series(
    labels: Sequence[Mapping[str, Any]],
) -> tuple[str, list[float], dict[str, list[int]]]:
    """Return the axis, where each run is on it, and the runs of each series in that order."""
    numeric = [n for n in labels[0] if all(isinstance(v[n], (int, float)) for v in labels)]
    axis = numeric[0] if numeric else "run"
    places = [float(label[axis]) if numeric else i for i, label in enumerate(labels, 1)]
    series: dict[str, list[int]] = {}
    for i in sorted(range(len(labels)), key=places.__getitem__):
        others = {name: value for name, value in labels[i].items() if name != axis}
        series.setdefault(_named(others) if numeric else "", []).append(i)
    return axis, places, series


def _values(run: Any, level: int) -> Iterator[float | None]:
    """Yield the loss (level 0) or the active units of a level, measured and forecast."""
    for side in (run.measured, run.forecast):
        if side is None or level > len(side["levels"]):
            yield None
        else:
            yield side["levels"][level - 1]["n_active"] if level else side["loss"]


def _scale(axes: Axes, places: Sequence[float]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    if min(places) > 0 and max(places) > WIDE * min(places):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())


def _named(label: Mapping[str, Any]) -> str:
    numbers = (int, float)
    shown = {n: f"{v:g}" if isinstance(v, numbers) else str(v) for n, v in label.items()}
    return ", ".join(f"{name}={value}" for name, value in shown.items())
