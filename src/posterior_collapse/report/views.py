"""The one way to see a result: a figure, a page, or part of a notebook, whatever result it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posterior_collapse import files
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.report import figures, pages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from posterior_collapse.arrays import ImageShape
    from posterior_collapse.records import Viewed

__all__ = ["html", "plot", "write_page"]


@dataclass(frozen=True)
class View:
    """How a kind of result is seen.

    Attributes:
        panels: The result as a figure.
        page: As a page of its own, given what `write_page` is told.
        parts: What a notebook shows of it.
        notebook: The template of that.
        styles: How that looks.
    """

    panels: Callable[[Any], figures.Panels]
    page: Callable[..., str]
    parts: Callable[[Any], Mapping[str, Any]]
    notebook: str
    styles: Sequence[str] = pages.TRAINED


VIEWS: Mapping[str, View] = {
    "forecast": View(
        figures.forecast_panels,
        pages.forecast_page,
        pages.forecast_parts,
        "notebook",
        pages.FORECAST,
    ),
    "diagnosis": View(
        figures.diagnosis_panels, pages.diagnosis_html, pages.diagnosis_parts, "diagnosis_notebook"
    ),
    "fitted": View(figures.fitted_panels, pages.fitted_html, pages.fitted_parts, "fitted_notebook"),
    "sweep": View(figures.sweep_panels, pages.sweep_html, pages.sweep_parts, "sweep_notebook"),
    "phase": View(figures.phase_panels, pages.phase_html, pages.phase_parts, "curve_notebook"),
    "tuned": View(figures.tuned_panels, pages.tuned_html, pages.tuned_parts, "curve_notebook"),
}
"""By the name of its view that a result carries: rooms above may make results."""


def plot(result: Viewed, ax: Any = None, *, panel: str | None = None) -> Figure:
    """Return a matplotlib figure of a result.

    Of a forecast the panels are "spectrum", with the threshold, and "staircase": active units over
    beta eta_dec^2; of two levels "map", over the two betas. Of a diagnosis, per level: "KL" of each
    unit, "collapse" curve, and "variances". Of a run: "active" units and "KL over epochs", stacked
    by unit. Of a sweep: "loss" and "active" units beside their forecasts, over what varies. Of a
    phase diagram and of what was tuned: "active". With several levels their names end in e.g. "of
    z2".

    Args:
        result: What `forecast`, `phase_diagram`, `fit`, `diagnose`, `diagnose_arrays`, `sweep` or
            `tune` returned.
        ax: Axes to draw the first panel into, or several for as many; None: a figure of its own.
        panel: The only one to draw.

    Raises:
        InvalidArgumentError: It is something else, has no such panel, or has fewer than axes.

    Example:
        >>> import numpy as np
        >>> from posterior_collapse import VAESpec, Moments, forecast
        >>> figure = plot(forecast(Moments.from_matrices(np.diag([4.0, 0.5])), VAESpec(2)))
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['variance of data mode', 'active units']
    """
    return figures.drawn(_view(result).panels(result), ax, panel)


def html(result: Viewed) -> str:
    """Return a result as HTML for notebooks: figures, tables and sentences, without a script.

    Args:
        result: As in `plot`.

    Raises:
        InvalidArgumentError: It is something else.
    """
    view = _view(result)
    template = f"{view.notebook}.html.jinja"
    return pages.render(template, styles=view.styles, **view.parts(result))


def write_page(
    result: Viewed,
    path: str | os.PathLike[str],
    *,
    name: str = "",
    image_shape: ImageShape | None = None,
    source: str | None = None,
    feature_names: Sequence[str] | None = None,
    data: Any = None,
) -> Path:
    """Write a result as one self-contained HTML page, whole or not at all.

    A forecast's has sliders, which work the closed forms out anew.

    Args:
        result: As in `plot`.
        path: Where it goes, e.g. "out.html".
        name: What the data are called; "": as they said themselves.
        image_shape: Shape of what is decoded, if it is an image: pictures are then shown. None: as
            the data said.
        source: Of a forecast, the data as `collapse forecast` takes them, with their options;
            None: the name.
        feature_names: What the features that are decoded are called, if they make no image; None:
            as the data said.
        data: Of a sweep, some rows, x or (x, y), to be shown as each run decodes them.

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
    view, target, known = _view(result), figures.check_page_path(path), result._about
    page = view.page(
        result,
        name=name or known.name,
        image_shape=image_shape or known.image_shape,
        source=source,
        feature_names=feature_names or known.features,
        data=data,
    )
    files.write(target, page.encode())
    return target


def _view(result: object) -> View:
    view = str(getattr(result, "view", None))
    if view not in VIEWS:
        raise InvalidArgumentError(
            "result",
            type(result).__name__,
            "a Forecast, a PhaseDiagram, a Fitted, a Diagnosis, a Sweep or a Tuned",
            "Pass what forecast, fit, diagnose, diagnose_arrays, sweep or tune returned.",
        )
    return VIEWS[view]
