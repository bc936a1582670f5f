"""The one way to see a result: a figure, or a page for a notebook, whatever result it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.report.diagnosis_text import diagnosis_page
from posterior_collapse.report.figures import (
    diagnosis_figure,
    forecast_figure,
    sweep_figure,
    sweep_page,
)
from posterior_collapse.report.text import forecast_page
from posterior_collapse.report.tuned import tuned_figure, tuned_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from posterior_collapse.records import Viewed

__all__ = ["html", "plot"]

Views: TypeAlias = "tuple[Callable[[Any], Figure], Callable[[Any], Iterator[RenderableType]]]"

VIEWS: Mapping[str, Views] = {
    "forecast": (forecast_figure, forecast_page),
    "diagnosis": (diagnosis_figure, diagnosis_page),
    "sweep": (sweep_figure, sweep_page),
    "tuned": (tuned_figure, tuned_page),
}
"""Figure and page by the name of its view that a result carries: rooms above may make results."""


def plot(result: Viewed) -> Figure:
    """Return a matplotlib figure of a result.

    Of a forecast: the data's spectrum with the threshold, and the phase diagram. Of a diagnosis,
    per level: KL of each unit, collapse curve, and mean variance against the posterior's. Of a
    sweep: loss and active units beside their forecasts, over what varies. Of what was tuned:
    active units beside those of a linear model, over what was tried.

    Args:
        result: What `forecast`, `diagnose`, `diagnose_arrays`, `sweep` or `tune` returned.

    Raises:
        InvalidArgumentError: It is something else.

    Example:
        >>> import numpy as np
        >>> from posterior_collapse import VAESpec, Moments, forecast
        >>> figure = plot(forecast(Moments.from_matrices(np.diag([4.0, 0.5])), VAESpec(2)))
        >>> [axes.get_ylabel() for axes in figure.axes[:2]]
        ['variance of data mode', 'beta']
    """
    return _views(result)[0](result)


def html(result: Viewed) -> str:
    """Return tables and sentences as HTML, for notebooks.

    Args:
        result: What `forecast`, `diagnose`, `diagnose_arrays`, `sweep` or `tune` returned.

    Raises:
        InvalidArgumentError: It is something else.
    """
    import io

    from rich.console import Console

    console = Console(record=True, width=100, file=io.StringIO())
    for part in _views(result)[1](result):
        console.print(part)
    return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def _views(result: object) -> Views:
    view = str(getattr(result, "view", None))
    if view not in VIEWS:
        raise InvalidArgumentError(
            "result",
            type(result).__name__,
            "a Forecast, a Diagnosis, a Sweep or a Tuned",
            "Pass what forecast, diagnose, diagnose_arrays, sweep or tune returned.",
        )
    return VIEWS[view]
