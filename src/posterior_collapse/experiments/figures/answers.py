"""Figures of answers counted: which share of the cases got which."""

from __future__ import annotations

from collections.abc import Mapping

from posterior_collapse.experiments.figures import PAGE, UNDER_AXES, Chart, style
from posterior_collapse.experiments.tables import Table
from posterior_collapse.report.figures.panels import BLUE, GREY, ORANGE

LOOKS = ((BLUE, "white"), (GREY, "black"), (ORANGE, "black"))
"""Fill and type of each answer, in order: the right one, none, the wrong one."""
ROW, REST = 0.2, 1.0
"""Inches that a row takes, and that titles, axes and legend do together."""
NARROW = 0.07
"""Share of a bar in which no number has room."""


def answers(counts: Mapping[str, Mapping[str, Mapping[str, int]]], *, cases: str) -> Chart:
    """Draw for each kind of case which share got the right answer, none and a wrong one.

    Args:
        counts: Title of each panel -> kind of case -> answer (three, in this order) -> how many.
        cases: What is counted.

    Example:
        >>> of = {"recognised": 5, "undecided": 1, "called fine": 0}
        >>> answers({"failed": {"dead start": of}}, cases="runs").table.rows[0]
        ['failed', 'dead start', 'recognised', 5]
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.transforms import ScaledTranslation

    kinds = list(dict.fromkeys(kind for panel in counts.values() for kind in panel))
    with style():
        figure = Figure(layout="constrained")
        boxes = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
        for box, (title, panel) in zip(boxes, counts.items(), strict=True):
            for at, kind in enumerate(kinds):
                whole, left = sum(panel.get(kind, {}).values()), 0.0
                if not whole:
                    box.text(0, at, " none", va="center", size=7, color="0.4")
                    continue
                for number, (fill, ink) in zip(panel[kind].values(), LOOKS, strict=True):
                    share = number / whole
                    box.barh(at, 100 * share, left=100 * left, height=0.75, color=fill, lw=0)
                    if share >= NARROW:
                        middle = 100 * (left + share / 2)
                        box.text(
                            middle, at, str(number), ha="center", va="center", size=7, color=ink
                        )
                    left += share
            box.set_title(title)
            box.set_xlim(0, 100)
            box.set_xlabel(f"share of {cases} (%)")
            box.tick_params(axis="y", length=0)
            named = [Patch(color=fill) for fill, _ in LOOKS]
            names = list(next(iter(panel.values())))
            below = ScaledTranslation(0, -UNDER_AXES, figure.dpi_scale_trans)
            box.legend(
                named, names, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3,
                bbox_transform=box.transAxes + below,
                handlelength=0.8, handletextpad=0.4, columnspacing=1.0,
            )  # fmt: skip
        boxes[0].set_yticks(range(len(kinds)), kinds)
        boxes[0].set_ylim(len(kinds) - 0.5, -0.5)
        figure.set_size_inches(PAGE, ROW * len(kinds) + REST)
    rows = [
        [title, kind, answer, number]
        for title, panel in counts.items()
        for kind, own in panel.items()
        for answer, number in own.items()
    ]
    return Chart(figure, Table(["panel", "kind", "answer", cases], rows))
