"""A phase diagram as a figure: a map, or a staircase where only beta varies."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from posterior_collapse.report.figures.panels import (
    BLUE,
    Panel,
    Panels,
    map_of_counts,
    plain_log,
    titled,
    whole_numbers,
)
from posterior_collapse.report.names import label
from posterior_collapse.report.phases import beta_name, counted, fixed
from posterior_collapse.report.swept import is_wide

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from posterior_collapse.theory import PhaseDiagram

__all__ = ["phase_panels"]


def phase_panels(found: PhaseDiagram) -> Panels:
    """Return the active units over beta and eta_dec.

    Args:
        found: What `phase_diagram` returned.
    """
    draw = _map if len(found.eta_decs) > 1 else _steps
    title = titled(fixed(found), found._about.name)
    return Panels(((Panel("active", partial(draw, found=found)),),), title, (5.6, 4))


def _map(axes: Axes, found: PhaseDiagram) -> None:
    rows, columns = np.argsort(found.betas), np.argsort(found.eta_decs)
    counts = found.active[np.ix_(rows, columns)]
    map_of_counts(axes, found.eta_decs[columns], found.betas[rows], counts, counted(found))
    if is_wide(found.eta_decs):
        plain_log(axes)
    if is_wide(found.betas):
        plain_log(axes, "y")
    axes.set_xlabel(f"{label('eta_dec')} (data units)")
    axes.set_ylabel(label(beta_name(found)))


def _steps(axes: Axes, found: PhaseDiagram) -> None:
    order = np.argsort(found.betas)
    counts = np.where(found.active[order, 0] < 0, np.nan, found.active[order, 0])
    axes.step(found.betas[order], counts, where="post", color=BLUE)
    if is_wide(found.betas):
        plain_log(axes)
    whole_numbers(axes.yaxis)
    axes.set_xlabel(label(beta_name(found)))
    axes.set_ylabel(counted(found))
