"""The one way to see a result: a figure, or a page for a notebook, whatever result it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from posterior_collapse.errors import InvalidArgumentError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from posterior_collapse.diagnosis import Diagnosis
    from posterior_collapse.theory import Forecast

__all__ = ["html", "plot"]


def plot(result: Forecast | Diagnosis) -> Figure:
    """Return a matplotlib figure of a result.

    Of a forecast: the data's spectrum with the threshold, and the phase diagram. Of a diagnosis,
    per level: KL of each unit, collapse curve, and mean variance against the posterior's.

    Args:
        result: What `forecast`, `diagnose` or `diagnose_arrays` returned.

    Raises:
        InvalidArgumentError: It is neither.

    Example:
        >>> import numpy as np
        >>> from posterior_collapse import VAESpec, Moments, forecast
        >>> figure = plot(forecast(Moments.from_matrices(np.diag([4.0, 0.5])), VAESpec(2)))
        >>> [axes.get_ylabel() for axes in figure.axes[:2]]
        ['variance of data mode', 'beta']
    """
    from posterior_collapse.diagnosis import Diagnosis
    from posterior_collapse.report.diagnosis_figure import diagnosis_figure
    from posterior_collapse.report.figures import forecast_figure
    from posterior_collapse.theory import Forecast

    if isinstance(result, Diagnosis):
        return diagnosis_figure(result)
    if isinstance(result, Forecast):
        return forecast_figure(result)
    raise _unknown(result)


def html(result: Forecast | Diagnosis) -> str:
    """Return tables and sentences as HTML, for notebooks.

    Args:
        result: What `forecast`, `diagnose` or `diagnose_arrays` returned.

    Raises:
        InvalidArgumentError: It is neither.
    """
    import io

    from rich.console import Console

    console = Console(record=True, width=100, file=io.StringIO())
    for part in _page(result):
        console.print(part)
    return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def _page(result: Forecast | Diagnosis) -> Iterator[RenderableType]:
    from posterior_collapse.diagnosis import Diagnosis
    from posterior_collapse.report.diagnosis_text import diagnosis_page
    from posterior_collapse.report.text import forecast_page
    from posterior_collapse.theory import Forecast

    if isinstance(result, Diagnosis):
        return diagnosis_page(result)
    if isinstance(result, Forecast):
        return forecast_page(result)
    raise _unknown(result)


def _unknown(result: object) -> InvalidArgumentError:
    return InvalidArgumentError(
        "result",
        type(result).__name__,
        "a Forecast or a Diagnosis",
        "Pass what forecast, diagnose or diagnose_arrays returned.",
    )
