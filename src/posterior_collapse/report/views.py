"""The one way to see a result: a figure, a page, or part of a notebook, whatever result it is."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from posterior_collapse import files
from posterior_collapse.errors import InvalidArgumentError, writing
from posterior_collapse.report.figures.forecast import forecast_panels, phase_panels
from posterior_collapse.report.figures.panels import Panels, drawn
from posterior_collapse.report.figures.trained import (
    diagnosis_panels,
    fitted_panels,
    sweep_panels,
    tuned_panels,
)
from posterior_collapse.report.pages.curves import phase_html, phase_parts, tuned_html, tuned_parts
from posterior_collapse.report.pages.diagnosis import diagnosis_html, diagnosis_parts
from posterior_collapse.report.pages.forecast import forecast_page, forecast_parts
from posterior_collapse.report.pages.rendering import render
from posterior_collapse.report.pages.sweep import (
    fitted_html,
    fitted_parts,
    sweep_html,
    sweep_parts,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from posterior_collapse.arrays import ImageShape
    from posterior_collapse.records import Viewed


class View(NamedTuple):
    """How a kind of result is seen.

    Attributes:
        page: As a page of its own, given what `write_page` is told.
        parts: What a notebook shows of it.
    """

    panels: Callable[[Any], Panels]
    page: Callable[..., str]
    parts: Callable[[Any], Mapping[str, Any]]
    template: str


VIEWS = {
    "forecast": View(forecast_panels, forecast_page, forecast_parts, "forecast"),
    "diagnosis": View(diagnosis_panels, diagnosis_html, diagnosis_parts, "diagnosis"),
    "fitted": View(fitted_panels, fitted_html, fitted_parts, "fitted"),
    "sweep": View(sweep_panels, sweep_html, sweep_parts, "sweep"),
    "phase": View(phase_panels, phase_html, phase_parts, "curve"),
    "tuned": View(tuned_panels, tuned_html, tuned_parts, "curve"),
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
    return drawn(_view(result).panels(result), ax, panel)


def html(result: Viewed) -> str:
    """Return a result as HTML for notebooks: figures, tables and sentences, without a script."""
    view = _view(result)
    return render(f"{view.template}.html.jinja", notebook=True, **view.parts(result))


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
    view, target, known = _view(result), check_page_path(path), result._about
    page = view.page(
        result,
        name=name or known.name,
        image_shape=image_shape or known.image_shape,
        source=source,
        feature_names=feature_names or known.features,
        data=data,
    )
    files.write(target, page.encode(errors="backslashreplace"))  # names of files may be any bytes
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


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> Path:
    """Write a figure as PNG, PDF or SVG, without a date; nothing half-written is left.

    See `check_figure_path` for what is refused.
    """
    target = check_figure_path(path)
    content = io.BytesIO()
    kind = target.suffix[1:].lower()
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
    figure.savefig(content, format=kind, dpi=dpi, metadata=undated)
    files.write(target, content.getvalue())
    return target


def check_figure_path(path: str | os.PathLike[str]) -> Path:
    """Return the path if a figure can be written there; see `check_page_path`."""
    return _check_path(path, (".png", ".pdf", ".svg"))


def check_page_path(path: str | os.PathLike[str]) -> Path:
    """Return the path if a page can be written there, so as to fail before long work."""
    return _check_path(path, (".html", ".htm"))


def _check_path(path: str | os.PathLike[str], endings: Sequence[str]) -> Path:
    target = Path(path)
    if target.suffix.lower() not in endings:
        raise InvalidArgumentError(
            str(path),
            f"the ending {target.suffix!r}",
            f"one of {endings}",
            f"Name it e.g. out{endings[0]}.",
        )
    with writing(target):
        if not target.parent.is_dir():
            raise NotADirectoryError(errno.ENOENT, "no such folder")
        if not os.access(target.parent, os.W_OK):
            raise PermissionError(errno.EACCES, "permission denied")
    return target
