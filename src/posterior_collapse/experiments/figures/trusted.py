"""The figure of the study of trust: how far theory held, network by network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from posterior_collapse.experiments.figures import PAGE, Chart, style
from posterior_collapse.experiments.tables import Table
from posterior_collapse.report.figures.panels import BLUE, GREY, ORANGE

LOOKS: tuple[dict[str, Any], ...] = (
    {"color": ORANGE, "marker": "o", "ms": 3.5, "mfc": "white"},
    {"color": BLUE, "marker": "o", "ms": 3.5},
)
"""Of the ways to train, in the order in which a network is trained in them."""
ENDS: dict[str, Any] = {"solid_capstyle": "butt"}
"""Of a bar: where the number is, and not half a line's width beyond it."""
APART = 0.17
"""Rows by which the ways to train lie above and below the middle of a network's row."""
ROW, REST = 0.15, 1.0
"""Inches that a row takes, and that titles, axes and legend do together."""


class Held(NamedTuple):
    """How far theory held for a network that was trained in one way.

    Attributes:
        onset: The last beta at which a unit lives and the first at which none does, as shares of
            the predicted one; none where units live, or none does, at all betas that were tried.
        near: Share of the runs whose active units are within one of their bracket; none if there
            are none.
    """

    onset: tuple[float, float] | None
    near: float | None


def trusted(networks: Mapping[str, Mapping[str, Mapping[str, Held]]], within: float) -> Chart:
    """Draw for each network when its last unit dies, and how often its count is as predicted.

    Args:
        networks: Kind of network -> network -> way to train (at most two) -> what held.
        within: Error of an onset that counts as agreement; it is shaded.

    Example:
        >>> each = {"digits, mlp": {"after a warm-up": Held((0.95, 0.97), 0.9)}}
        >>> trusted({"of one hidden layer": each}, 0.05).table.rows
        [['of one hidden layer', 'digits, mlp', 'after a warm-up', 0.95, 0.97, 0.9]]
    """
    from matplotlib.figure import Figure

    rows: list[list[Any]] = []
    labels: list[tuple[str, bool]] = []  # whether it is a heading
    ways = {way: None for own in networks.values() for each in own.values() for way in each}
    looks = dict(zip(ways, LOOKS, strict=False))
    with style():
        figure = Figure(layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.6, 1))
        left.axvspan(1 - within, 1 + within, color=GREY, alpha=0.25, lw=0)
        left.axvline(1, color="black", lw=0.8, ls=":")
        for kind, own in networks.items():
            labels.append((kind, True))
            for network, each in own.items():
                for way, held in each.items():
                    look, place = looks[way], 2 * list(ways).index(way) - 1
                    at = len(labels) + APART * place
                    if held.onset is not None:
                        left.plot(held.onset, (at, at), color=look["color"], lw=2.5, **ENDS)
                    if held.near is not None:
                        right.plot(100 * held.near, at, ls="", clip_on=False, zorder=3, **look)
                    rows.append([kind, network, way, *(held.onset or (None, None)), held.near])
                labels.append((network, False))
        left.set_yticks(range(len(labels)), [text for text, _ in labels])
        for tick, (_, heading) in zip(left.get_yticklabels(), labels, strict=True):
            tick.set_weight("bold" if heading else "normal")
        left.set_ylim(len(labels) - 0.5, -0.5)
        for box in (left, right):
            box.tick_params(axis="y", length=0)
            for at, (_, heading) in enumerate(labels):
                if not heading:
                    box.axhline(at, color=GREY, lw=0.3, alpha=0.5, zorder=0)
        left.set_xlabel("the last unit dies at, as a share of\nthe predicted beta")
        right.set_xlabel("runs within a unit of\nwhat --network predicts (%)")
        right.set_xlim(0, 100)
        figure.legend(
            [left.plot([], [], **look)[0] for look in looks.values()],
            list(looks), loc="outside lower center", ncols=2,
        )  # fmt: skip
        figure.set_size_inches(PAGE, ROW * len(labels) + REST)
    columns = ["kind", "network", "training", "last beta alive / predicted onset"]
    columns += ["first beta dead / predicted onset", "share of runs within a unit of the bracket"]
    return Chart(figure, Table(columns, rows))
