"""A forecast as a page of its own: no network, no library, nothing that runs but its own script.

The page works the closed forms out anew as its sliders move (`scripts`); without a script it shows
the forecast as it was made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from posterior_collapse.arrays import ImageShape
from posterior_collapse.checks import Likelihood
from posterior_collapse.errors import PosteriorCollapseError, count_of
from posterior_collapse.moments import Moments
from posterior_collapse.records import plain
from posterior_collapse.report.names import theory, whose_onset
from posterior_collapse.report.pages.chart import Chart, decades, logarithmic, whole_ticks
from posterior_collapse.report.pages.pictures import strongest, thumbnails
from posterior_collapse.report.pages.rendering import FORECAST, json_in_html, number, render, text
from posterior_collapse.specs import Spec, VAESpec
from posterior_collapse.theory import Forecast
from posterior_collapse.theory.reading import as_modes
from posterior_collapse.theory.spectrum import Modes

LAWS = ("closed_forms.js", "thresholds.js", "forecast.js")
PAGE = ("state.js", "controls.js", "loss.js", "figures.js", "page.js")
ENOUGH_ROWS = 10
"""Rows per feature below which weak modes of a sample are not those of the population."""
DIGITS = 12
"""Of what a page only offers beside the forecast that it is of: fewer make a smaller file."""
LEAST_SHOWN = 24
"""Modes of the figure, where there are so many."""
DEEPEST = 1e-6
"""Of the strongest mode, below which a mode is not shown, unless it is near what a unit needs."""


def forecast_page(
    forecast: Forecast,
    *,
    name: str = "",
    image_shape: ImageShape | None = None,
    source: str | None = None,
    feature_names: Sequence[str] | None = None,
    **_: Any,
) -> str:
    """Return a self-contained page of a forecast, with sliders; see `write_page`.

    Of images the modes are shown, of other features the strongest in each mode are named.

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
        "forecast.html.jinja",
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
        none = f"None of {'your units' if len(dims) > 1 else _units(dims[0])} will live"
        if dims == (1,):
            none = "Your unit will not live"
        if not forecast.spectrum.any():
            return f"{none}: there is no variance to carry."
        return f"{none}: this loss is past the onset of collapse."
    if len(dims) == 1:
        supports = f"this data supports {forecast.n_possible} at this loss"
        whose = "Your unit" if dims == (1,) else f"{levels[0].n_active} of {_units(dims[0])}"
        return f"{whose} will live; {supports}."
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
        "whose": whose_onset(forecast),
        "likelihood": forecast.spec.likelihood,
        "spec": numbers(forecast.spec),
        "laws": laws(forecast),
        "notes": [note for note in forecast.notes if note not in solved],
        "positions": max(1, round(float(means.sum()))),
        "dispersion": forecast.spec.dispersion,
        "bias": forecast._bias or ("both" if moments.center else "none"),
    }


def forecast_parts(forecast: Forecast) -> dict[str, Any]:
    """Return what page and notebook both show."""
    said = sentence(forecast)
    return {
        "forecast": forecast,
        "sentence": said,
        "drawn": spectrum_chart(forecast, said),
        "styles": FORECAST,
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
    noise = forecast._modes.noise
    if noise is None or noise.exact:
        whose = whose_onset(forecast)
        return f"Onset: from {beta} = {onset} on total collapse is stable, in any network{whose}."
    return f"Onset, as far as moments tell: total collapse is stable from {beta} = {onset} on."


def _trust(forecast: Forecast) -> list[str]:
    """What the forecast rests on, and how far it carries."""
    moments, said = forecast._modes.moments, []
    linear = forecast.spec.likelihood == "gaussian"
    whose = "best linear model" if linear else theory(forecast.spec)
    features = moments.features[1]
    if moments.n is not None:
        said.append(f"Measured on {count_of(moments.n, 'row')} of {count_of(features, 'feature')}.")
        if moments.n < ENOUGH_ROWS * features:
            said.append(
                f"That is fewer than {ENOUGH_ROWS} rows per feature: weak modes come out weaker or "
                "stronger than they are, and units near the threshold may go either way."
            )
    else:
        said.append(
            f"Measured as moments of {count_of(features, 'feature')}; the rows are not known."
        )
    fewest, most = forecast.bracket or (0, 0)
    keeps = (
        f"about as many units ({most})" if fewest == most else f"between {fewest} and {most} units"
    )
    said.append(
        f"A network trained to convergence keeps {keeps} at the settings that this page opened "
        "with."
        if most
        else f"Counts are those of the {whose}. A network folds several modes into one unit "
        "and keeps fewer, the more so the longer it trains."
    )
    return said


def spectrum_chart(forecast: Forecast, sentence: str) -> Markup:
    """Return the variances of the data modes, filled where a unit lives, and the thresholds.

    For those who do not see the figure a sentence says what becomes of the units.

    Example:
        >>> import posterior_collapse as pc
        >>> f = pc.forecast(pc.Moments.from_matrices(np.diag([4.0, 0.5])), pc.VAESpec(2))
        >>> svg = spectrum_chart(f, "")
        >>> [svg.count(f'class="pc-{look}"') for look in ("active", "collapsed", "threshold")]
        [1, 1, 1]
    """
    strongest = float(forecast.spectrum.max(initial=0.0))
    least = min(float(level.threshold.min(initial=np.inf, where=level.threshold > 0))
                for level in forecast.levels)  # fmt: skip
    there = int(np.count_nonzero(forecast.spectrum > min(strongest * DEEPEST, least / 10)))
    shown = max(1, min(there, max(2 * max(forecast.spec.dims), LEAST_SHOWN)))
    variance = forecast.spectrum[:shown]
    high = (strongest or 1.0) * 2
    low = float(variance[variance > 0].min(initial=high)) / 3
    chart = Chart(f"Spectrum: variance of each data mode and the threshold. {sentence}", (560, 260))
    y = logarithmic(low, high, chart.bottom, chart.top)
    across = (chart.right - chart.left) / shown

    def x(mode: float) -> float:
        return chart.left + (mode - 0.5) * across

    chart.rows(y, decades(low, high), "variance of data mode")
    modes = sorted({max(1.0, tick) for tick in whole_ticks(shown)})
    chart.columns(x, modes, "data mode, strongest first")
    for level in forecast.levels:
        order = np.argsort(-level.data_variance, kind="stable")
        line = [(mode, value) for mode, value in enumerate(level.threshold[order][:shown], 1)
                if np.isfinite(value)]  # fmt: skip
        if line and len(order) < shown:  # beyond the units, what one more would have to exceed
            line.append((shown, line[-1][1]))
        ends = [(x(mode + side), y(value)) for mode, value in line for side in (-0.5, 0.5)]
        chart.line(ends, "pc-threshold")
    top = forecast.levels[-1]
    status = [top.status[unit] for unit in np.argsort(-top.data_variance, kind="stable")[:shown]]
    for mode, (value, found) in enumerate(
        zip(variance, [*status, *["none"] * (shown - len(status))], strict=True), 1
    ):
        if value > 0:
            chart.dot(found, x(mode), y(float(value)), radius=2 if found == "none" else 4.5)
    return chart.svg()


def numbers(spec: Spec) -> dict[str, Any]:
    """Return the hyperparameters as the script reads them."""
    return {
        "dims": list(spec.dims),
        "betas": list(spec.beta_levels),
        "etas": list(spec.eta_levels),
        "etaEnc": spec.eta_enc,
        "sigmas": [plain(sigma) for sigma in spec.sigma_levels],
        "oneEta": spec.model == "hvae",
    }


def law(modes: Modes) -> dict[str, Any]:
    """Return what a likelihood makes of the data: their spectrum in the noise that it tolerates.

    Example:
        >>> law(Modes(Moments.from_matrices(np.diag([4.0, 0.0]))))["theta"]
        [2.0]
    """
    theta = modes.theta
    return {
        "theta": theta[theta > 0].tolist(),
        "modes": len(theta),
        "outside": modes.outside,
        "features": modes.target_dim,
        "constant": None if modes.noise is None else modes.noise.constant_loss,
        "exact": modes.noise is None or modes.noise.exact,
    }


def laws(forecast: Forecast) -> dict[str, dict[str, Any]]:
    """Return a `law`, or why there is none, for every likelihood, that of the forecast first."""
    own = forecast.spec.likelihood
    found: dict[str, dict[str, Any]] = {own: law(forecast._modes)}
    moments = _raw_moments(forecast)
    others: tuple[Likelihood, ...] = ("gaussian", "bernoulli", "poisson", "categorical")
    for likelihood in others:
        if likelihood != own:
            found[likelihood] = _other_law(moments, forecast.spec, likelihood)
    return found


def _raw_moments(forecast: Forecast) -> Moments | None:
    """The data's own moments, out of those in their own noise; None where those do not tell."""
    modes = forecast._modes
    if forecast.spec.model in ("cvae", "chain"):
        return None
    if modes.noise is None:
        return modes.moments
    assert modes.noise.divisor is not None
    # A feature that was divided by infinity does not vary.
    divisor = np.where(np.isfinite(modes.noise.divisor), modes.noise.divisor, 1.0)
    return modes.moments.divided(1 / divisor)


def _other_law(moments: Moments | None, spec: Spec, likelihood: Likelihood) -> dict[str, Any]:
    if moments is None:
        return {"reason": f"no law of this likelihood is known here for a {spec.model} model"}
    try:
        modes, _ = as_modes(moments, VAESpec(1, likelihood=likelihood))
    except PosteriorCollapseError as error:
        return {"reason": f"the data have {error.got}; it takes {error.expected}"}
    found = law(modes)
    return found | {"theta": [float(f"{std:.{DIGITS}g}") for std in found["theta"]]}
