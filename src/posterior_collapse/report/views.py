"""The one way to see a result: a figure, or a page for a notebook, whatever result it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from posterior_collapse import files
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.report.diagnosis_text import diagnosis_page
from posterior_collapse.report.figures import (
    check_page_path,
    diagnosis_figure,
    forecast_figure,
    sweep_figure,
    sweep_page,
)
from posterior_collapse.report.pages import forecast_fragment, forecast_page
from posterior_collapse.report.tuned import tuned_figure, tuned_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from posterior_collapse.arrays import ImageShape
    from posterior_collapse.records import Viewed
    from posterior_collapse.theory import Forecast

__all__ = ["html", "plot", "write_page"]

Views: TypeAlias = "tuple[Callable[[Any], Figure], Callable[[Any], str]]"


def _as_text(parts: Callable[[Any], Iterator[RenderableType]]) -> Callable[[Any], str]:
    """Return what shows a terminal's tables and sentences in a notebook."""

    def shown(result: Any) -> str:
        import io

        from rich.console import Console

        console = Console(record=True, width=100, file=io.StringIO())
        for part in parts(result):
            console.print(part)
        return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")

    return shown


VIEWS: Mapping[str, Views] = {
    "forecast": (forecast_figure, forecast_fragment),
    "diagnosis": (diagnosis_figure, _as_text(diagnosis_page)),
    "sweep": (sweep_figure, _as_text(sweep_page)),
    "tuned": (tuned_figure, _as_text(tuned_page)),
}
"""Figure and HTML by the name of its view that a result carries: rooms above may make results."""


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
    """Return a result as HTML for notebooks: figure, tables and sentences, without a script.

    Args:
        result: What `forecast`, `diagnose`, `diagnose_arrays`, `sweep` or `tune` returned.

    Raises:
        InvalidArgumentError: It is something else.
    """
    return _views(result)[1](result)


def write_page(
    result: Viewed,
    path: str | os.PathLike[str],
    *,
    name: str = "",
    image_shape: ImageShape | None = None,
    source: str | None = None,
) -> Path:
    """Write a result as one self-contained HTML page, whole or not at all.

    A forecast's has sliders, which work the closed forms out anew.

    Args:
        result: What `forecast` returned.
        path: Where it goes, e.g. "out.html".
        name: What the data are called.
        image_shape: Shape of what is decoded, if it is an image: the modes are then shown.
        source: The data as `collapse forecast` takes them, with their options; None: the name.

    Raises:
        InvalidArgumentError: Another result or ending, or a shape that is not the features'.
        OutputError: The path cannot be written.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from posterior_collapse import VAESpec, Moments, forecast
        >>> f = forecast(Moments.from_matrices(np.diag([4.0, 0.5])), VAESpec(2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_page(f, f"{folder}/out.html").stat().st_size < 150_000
        True
    """
    target = check_page_path(path)
    if getattr(result, "view", None) != "forecast":
        raise InvalidArgumentError(
            "result", type(result).__name__, "a Forecast", "Pass what forecast returned."
        )
    page = forecast_page(
        cast("Forecast", result), name=name, image_shape=image_shape, source=source
    )
    files.write(target, page.encode())
    return target


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
