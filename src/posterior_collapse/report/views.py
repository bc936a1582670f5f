"""The one way to see a result: a figure, or a page for a notebook, whatever result it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from posterior_collapse.report.pages import (
    forecast_fragment,
    forecast_page,
    told_fragment,
    told_page,
)
from posterior_collapse.report.tuned import tuned_figure, tuned_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from posterior_collapse.arrays import ImageShape
    from posterior_collapse.records import Viewed

__all__ = ["html", "plot", "write_page"]


@dataclass(frozen=True)
class View:
    """How a kind of result is seen.

    Attributes:
        figure: The result as a figure.
        fragment: As HTML for notebooks.
        page: As a page of its own, given what `write_page` is told.
    """

    figure: Callable[[Any], Figure]
    fragment: Callable[[Any], str]
    page: Callable[..., str]


def _told(
    title: str,
    figure: Callable[[Any], Figure],
    parts: Callable[[Any], Iterator[RenderableType]],
) -> View:
    """A result whose page is its figure and what a terminal says of it."""

    def page(result: Any, *, name: str, **_: Any) -> str:
        return told_page(title, figure(result), parts(result), name=name)

    return View(figure, lambda result: told_fragment(parts(result)), page)


VIEWS: Mapping[str, View] = {
    "forecast": View(forecast_figure, forecast_fragment, forecast_page),
    "diagnosis": _told("Diagnosis", diagnosis_figure, diagnosis_page),
    "sweep": _told("Sweep", sweep_figure, sweep_page),
    "tuned": _told("Tuned", tuned_figure, tuned_page),
}
"""By the name of its view that a result carries: rooms above may make results."""


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
    return _view(result).figure(result)


def html(result: Viewed) -> str:
    """Return a result as HTML for notebooks: figure, tables and sentences, without a script.

    Args:
        result: What `forecast`, `diagnose`, `diagnose_arrays`, `sweep` or `tune` returned.

    Raises:
        InvalidArgumentError: It is something else.
    """
    return _view(result).fragment(result)


def write_page(
    result: Viewed,
    path: str | os.PathLike[str],
    *,
    name: str = "",
    image_shape: ImageShape | None = None,
    source: str | None = None,
) -> Path:
    """Write a result as one self-contained HTML page, whole or not at all.

    A forecast's has sliders, which work the closed forms out anew; the others show their figure
    and what a terminal says of them.

    Args:
        result: What `forecast`, `diagnose`, `diagnose_arrays`, `sweep` or `tune` returned.
        path: Where it goes, e.g. "out.html".
        name: What the data are called.
        image_shape: Of a forecast, shape of what is decoded, if it is an image: the modes are then
            shown.
        source: Of a forecast, the data as `collapse forecast` takes them, with their options;
            None: the name.

    Raises:
        InvalidArgumentError: It is something else, another ending, or no shape of the features.
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
    view, target = _view(result), check_page_path(path)
    page = view.page(result, name=name, image_shape=image_shape, source=source)
    files.write(target, page.encode())
    return target


def _view(result: object) -> View:
    view = str(getattr(result, "view", None))
    if view not in VIEWS:
        raise InvalidArgumentError(
            "result",
            type(result).__name__,
            "a Forecast, a Diagnosis, a Sweep or a Tuned",
            "Pass what forecast, diagnose, diagnose_arrays, sweep or tune returned.",
        )
    return VIEWS[view]
