"""What was tuned as a figure: active units of networks beside those of a linear model."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from posterior_collapse.report.figures.panels import (
    BLUE,
    GREEN,
    ORANGE,
    Panel,
    Panels,
    plain_log,
    side_by_side,
    titled,
    whole_numbers,
)
from posterior_collapse.report.names import label, settings
from posterior_collapse.report.tuned import Found, named

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["tuned_panels"]


def tuned_panels(found: Found) -> Panels:
    """Return active units over what was tuned, of each seed and of a linear model.

    Args:
        found: What `tune` returned.
    """
    wanted = f"{found.wanted} active units{named(found)[1]} wanted"
    title = titled(settings(found.spec), found._about.name, wanted)
    return Panels(((Panel("active", partial(_counts, found=found)),),), title, (5.6, 3.9))


def _counts(axes: Axes, found: Found) -> None:
    known = sorted((one.value, one.linear) for one in found.curve if one.linear is not None)
    if known:
        axes.plot(*zip(*known, strict=True), "--", color="black", lw=1, label="linear optimum")
    for still, fill, name in ((True, BLUE, "measured"), (False, "none", "still changing")):
        dots = [(t.value, n) for t in found.curve if t.still == still for n in t.active]
        side_by_side(axes, dots, "o", color=BLUE, mfc=fill, label=name)
    axes.axhline(found.wanted, color=GREEN, lw=1, zorder=0, label="wanted")
    axes.axvline(found.chosen.value, color=ORANGE, lw=1, label="chosen")
    if found.parameter.startswith("beta"):
        plain_log(axes)
    axes.set_xlabel(label(found.parameter))
    axes.set_ylabel("active units")
    most = max([1, found.wanted, *(n for t in found.curve for n in t.active)])
    axes.set_ylim(-0.04 * most, 1.1 * most)  # a marker at 0 is seen whole
    whole_numbers(axes.yaxis)
    axes.legend(frameon=False, fontsize=8)
