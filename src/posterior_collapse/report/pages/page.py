"""A forecast as a page of its own: no network, no library, nothing that runs but its own script.

The page works the closed forms out anew as its sliders move (`scripts`); without a script it shows
the forecast as it was made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from posterior_collapse.arrays import ImageShape
from posterior_collapse.report.pages.problem import laws, numbers
from posterior_collapse.report.pages.rendering import FORECAST, json_in_html, number, render, text
from posterior_collapse.report.pages.spectrum import spectrum_chart
from posterior_collapse.report.pages.thumbnails import strongest, thumbnails
from posterior_collapse.theory import Forecast

__all__ = ["forecast_page", "forecast_parts", "laws_script"]

LAWS = ("closed_forms.js", "thresholds.js", "forecast.js")
PAGE = ("state.js", "controls.js", "loss.js", "figures.js", "page.js")
ENOUGH_ROWS = 10
"""Rows per feature below which weak modes of a sample are not those of the population."""
ICONS = {"active": "●", "noise": "■", "collapsed": "○"}
"""What tells statuses apart where colours do not."""


def forecast_page(
    forecast: Forecast,
    *,
    name: str = "",
    image_shape: ImageShape | None = None,
    source: str | None = None,
    feature_names: Sequence[str] | None = None,
    **_: Any,
) -> str:
    """Return a self-contained page of a forecast, with sliders.

    Args:
        forecast: What `posterior_collapse.forecast` returned.
        name: What the data are called.
        image_shape: Shape of what is decoded, if it is an image: the modes are then shown.
        source: The data as `collapse forecast` takes them, with their options; None: the name.
        feature_names: Of what is decoded, if it is no image: the strongest in each mode are named.

    Raises:
        InvalidArgumentError: The image shape is not that of the features.

    Example:
        >>> import posterior_collapse as pc
        >>> f = pc.forecast(pc.Moments.from_matrices(np.diag([4.0, 0.5])), pc.VAESpec(2))
        >>> forecast_page(f).count("default-src")
        1
    """
    script = f"{laws_script()}\n(() => {{\n{_scripts(PAGE)}}})();\n"
    images, named, most = [], [], max(2 * forecast.spec.dims[0], 16)
    if image_shape is not None:
        images = thumbnails(forecast._modes, image_shape, most)
    else:
        named = strongest(forecast._modes, feature_names, most)
    data = _payload(forecast) | {"name": name, "source": source, "images": images, "named": named}
    return render(
        "page.html.jinja",
        styles=FORECAST,
        title="Which units live",
        script=script,
        data=json_in_html(data),
        name=name,
        pictures=len(images),
        patterns=len(images) or len(named),
        **forecast_parts(forecast),
    )


def laws_script() -> str:
    """Return the part of the script that forecasts: `laws.forecast` and `laws.active`.

    Example:
        >>> "document" in laws_script()
        False
    """
    body = f"{_scripts(LAWS)}return {{ forecast, active }};\n"
    return f'"use strict";\nconst laws = (() => {{\n{body}}})();\n'


def _scripts(names: tuple[str, ...]) -> str:
    return "\n".join(text(f"scripts/{name}") for name in names)


def sentence(forecast: Forecast) -> str:
    """Return what becomes of the units, in one sentence.

    Args:
        forecast: What `posterior_collapse.forecast` returned.

    Example:
        >>> import posterior_collapse as pc
        >>> m = pc.Moments.from_matrices(np.diag([4.0, 2.0, 0.5]))
        >>> sentence(pc.forecast(m, pc.VAESpec(3)))
        '2 of your 3 units will live; this data supports 2 at this loss.'
        >>> sentence(pc.forecast(m, pc.VAESpec(3, beta=9.0)))
        'None of your 3 units will live: this loss is past the onset of collapse.'
    """
    dims, levels = forecast.spec.dims, forecast.levels
    if all(level.n_active == 0 for level in levels):
        whose = "your units" if len(dims) > 1 else _units(dims[0])
        if not forecast.spectrum.any():
            return f"None of {whose} will live: there is no variance for them to carry."
        return f"None of {whose} will live: this loss is past the onset of collapse."
    if len(dims) == 1:
        supports = f"this data supports {forecast.n_possible} at this loss"
        return f"{levels[0].n_active} of {_units(dims[0])} will live; {supports}."
    said = [f"z{n}: {found.n_active} of {dims[n - 1]}" for n, found in enumerate(levels, 1)]
    return f"Units that will live: {', '.join(said)}."


def _units(count: int) -> str:
    return f"your {count} unit{'s' * (count != 1)}"


def _payload(forecast: Forecast) -> dict[str, Any]:
    moments = forecast._modes.moments
    noise, means = forecast._modes.noise, moments.feature_means
    if noise is not None and noise.divisor is not None:
        # Back from the data's own noise; of one-hot positions all means that count have one.
        means = means * np.where(np.isfinite(noise.divisor), noise.divisor, 1.0)
    solved = set(forecast._solution.notes)
    return {
        "model": forecast.spec.model,
        "likelihood": forecast.spec.likelihood,
        "spec": numbers(forecast.spec),
        "laws": laws(forecast),
        "notes": [note for note in forecast.notes if note not in solved],
        "positions": max(1, round(float(means.sum()))),
        "dispersion": forecast.spec.dispersion,
    }


def forecast_parts(forecast: Forecast) -> dict[str, Any]:
    """Return what page and notebook both show.

    Args:
        forecast: What `posterior_collapse.forecast` returned.
    """
    said = sentence(forecast)
    return {
        "forecast": forecast,
        "sentence": said,
        "drawn": spectrum_chart(forecast, said),
        "icons": ICONS,
        "infinity": math.inf,
        "onset": _onset(forecast),
        "trust": _trust(forecast),
        "informed": any(
            not np.allclose(level.kl, level.information, rtol=1e-3, atol=1e-6)
            for level in forecast.levels
        ),
    }


def _onset(forecast: Forecast) -> str:
    if not (math.isfinite(forecast.onset) and forecast.onset > 0):
        return ""
    beta = "β of z1" if len(forecast.levels) > 1 else "β"
    onset = number(forecast.onset)
    return f"Onset: from {beta} = {onset} on total collapse is stable, in any network."


def _trust(forecast: Forecast) -> list[str]:
    """What the forecast rests on, and how far it carries."""
    moments, said = forecast._modes.moments, []
    features = moments.features[1]
    if moments.n is not None:
        said.append(f"Measured on {moments.n:,} rows of {features:,} features.")
        if moments.n < ENOUGH_ROWS * features:
            said.append(
                f"That is fewer than {ENOUGH_ROWS} rows per feature: weak modes come out weaker or "
                "stronger than they are, and units near the threshold may go either way."
            )
    else:
        said.append(f"Measured as moments of {features:,} features; the rows are not known.")
    said.append(
        "Counts are those of the best linear model. A network folds several modes into one unit "
        "and keeps fewer, the more so the longer it trains."
        if forecast.bracket is None
        else "A network trained to convergence keeps between {} and {} units at the settings that "
        "this page opened with.".format(*forecast.bracket)
    )
    return said
