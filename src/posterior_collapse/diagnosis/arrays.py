"""`diagnose_arrays`: for those who have only a posterior's numbers; needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterior_collapse import checks
from posterior_collapse.arrays import Float, as_array, refuse_non_finite
from posterior_collapse.data.samples import read
from posterior_collapse.diagnosis.advice import with_verdict
from posterior_collapse.diagnosis.conclusions import linear_forecast
from posterior_collapse.diagnosis.levels import (
    LevelStatistics,
    RowPosteriors,
    check_spec,
    collapse_options,
    gaussian_kl,
)
from posterior_collapse.diagnosis.results import Diagnosis
from posterior_collapse.diagnosis.statistics import row_chooser
from posterior_collapse.errors import DataError, InvalidArgumentError
from posterior_collapse.moments import Moments
from posterior_collapse.specs import Spec
from posterior_collapse.theory.dispersion import is_learned

BEYOND = (
    "the prior differs from row to row: information and stds are of z less the prior's mean, over "
    "the prior's std"
)
CHUNK_NUMBERS = 2**20
SPREADS: dict[str, Callable[[Float], Float]] = {
    "std": lambda std: std,
    "log_var": lambda log_var: np.exp(0.5 * log_var),
    "var": lambda var: np.sqrt(np.maximum(var, 0.0)),
}
"""What may say how wide a posterior is, with what makes a std of it."""


def diagnose_arrays(
    mean: Any,
    std: Any = None,
    *,
    log_var: Any = None,
    var: Any = None,
    prior_mean: Any = 0.0,
    prior_std: Any = None,
    data: Any = None,
    spec: Spec | None = None,
    epsilon: float = 0.01,
    delta: float = 0.05,
    seed: int = 0,
) -> Diagnosis:
    """Say what each latent unit does, from the posteriors of some rows.

    Arrays are NumPy's, or tensors of torch on any device. Whether a collapse is
    optimal depends on the decoder: `diagnose` tells it from the model itself.

    Args:
        mean: Posterior mean of each row and unit, (rows, units).
        std: Posterior std, of a shape that broadcasts to the mean's.
        log_var: Instead of `std`, the log of its square, in nats.
        var: Instead of `std`, its square, as scvi-tools returns it.
        prior_mean: Of a shape that broadcasts. If it or the prior's std differs from row to row,
            as a learned prior's does, information, Var E[z|x] and the stds are those of (z - prior
            mean) / prior std: of what the posterior knows beyond the prior.
        prior_std: Likewise; None: `eta_enc` of the spec, else 1.
        data: What the model was trained on, for a forecast: as for `forecast`.
        spec: The hyperparameters it was trained with, of one latent level.
        epsilon: KL in nats of (eps, delta)-collapse.
        delta: Share of rows of (eps, delta)-collapse.
        seed: Chooses the rows that quantiles and information are measured on, where there are
            too many.

    Raises:
        DataError: An array has the wrong shape, NaN, or a std that is not positive.
        InvalidArgumentError: Not exactly one of std, log_var and var, or an option out of its
            domain.

    Example:
        >>> mean = np.random.default_rng(0).standard_normal((1000, 3)) * [1.0, 1.0, 0.0]
        >>> found = diagnose_arrays(mean, np.array([0.3, 0.5, 1.0]))
        >>> found.levels[0].status
        ('active', 'active', 'collapsed')
    """
    options = collapse_options(epsilon, delta)
    spreads = zip(SPREADS, (std, log_var, var), strict=True)
    given = {name: value for name, value in spreads if value is not None}
    if len(given) != 1:
        raise InvalidArgumentError(
            "std",
            "both or neither of std and log_var (or var)",
            "one of them",
            "Pass std, log_var or var.",
        )
    means = _matrix("mean", mean)
    check_spec(spec, means.shape[1:])
    if prior_std is None:
        prior_std = 1.0 if spec is None else spec.eta_enc
    ((name, spread),) = given.items()
    parts = {
        "mean": means,
        name: _like(name, spread, means),
        "prior_mean": _like("prior_mean", prior_mean, means),
        "prior_std": _like("prior_std", prior_std, means),
    }
    beyond = _varies(parts["prior_mean"]) or _varies(parts["prior_std"])
    statistics = LevelStatistics(row_chooser(seed))
    for rows in _chunks(parts, name, beyond):
        statistics.add(rows)
    level = statistics.diagnosis(top=True, **options)
    forecast, notes = linear_forecast(_evidence(data, spec), spec)
    found = Diagnosis(
        n=len(means),
        spec=spec,
        levels=(level,),
        kl=float(statistics.total.mean),
        kl_error=float(statistics.total.error),
        forecast=forecast,
        likelihood=None if spec is None else spec.likelihood,
        notes=(*[BEYOND] * beyond, *statistics.notes(level), *notes),
    )
    return with_verdict(found)


def _matrix(name: str, values: Any) -> NDArray[Any]:
    array: NDArray[Any] = as_array(name, values)
    if array.ndim != 2 or array.shape[0] < 2 or array.shape[1] < 1:
        fix = "Use .reshape(-1, 1) for one unit." if array.ndim == 1 else "Flatten latents."
        raise DataError(name, f"shape {array.shape}", "(rows, units), at least 2 rows", fix)
    return array


def _like(name: str, values: Any, means: NDArray[Any]) -> NDArray[Any]:
    array = as_array(name, values)
    try:
        return np.broadcast_to(array, means.shape)
    except ValueError:
        raise DataError(
            name,
            f"shape {array.shape}",
            f"one that broadcasts to the mean's, {means.shape}",
            "Pass one value per row and unit, per unit, or in all.",
        ) from None


def _varies(prior: NDArray[Any]) -> bool:
    """Whether the prior is not the same for all rows."""
    return prior.strides[0] != 0 and bool((prior != prior[0]).any())


def _chunks(
    parts: Mapping[str, NDArray[Any]], spread: str, beyond: bool
) -> Iterator[RowPosteriors]:
    n, units = parts["mean"].shape
    step = max(1, CHUNK_NUMBERS // units)
    for start in range(0, n, step):
        found = {name: a[start : start + step].astype(np.float64) for name, a in parts.items()}
        for name, values in found.items():
            refuse_non_finite(name, values, start)
        mean, width, prior_mean, prior_std = found.values()
        std = SPREADS[spread](width)
        _check_positive("std", std, start, spread)
        _check_positive("prior_std", prior_std, start, "prior_std")
        kl = gaussian_kl(mean, std, prior_mean, prior_std)
        if beyond:
            mean, std = (mean - prior_mean) / prior_std, std / prior_std
            prior_mean, prior_std = np.zeros(1), np.ones(1)
        variance = np.square(std)
        yield RowPosteriors(kl, (mean,), (variance,), variance, prior_std, prior_mean=prior_mean)


def _check_positive(name: str, values: Float, first_row: int, given: str) -> None:
    fits = (values >= checks.LEAST) & (values <= checks.MOST)
    if fits.all():
        return
    row, unit = (int(i) for i in np.argwhere(~fits)[0])
    action = f"Check {given}."
    if given == "std":
        action = "If these are log-variances, pass log_var=."
    raise DataError(
        name,
        f"{values[row, unit]:.4g} at row {first_row + row}, unit {unit + 1}",
        f"positive stds, from {checks.LEAST:g} to {checks.MOST:g}",
        action,
    )


def _evidence(data: Any, spec: Spec | None) -> Any:
    """Return what a forecast has to know of the data: moments, or where they do not do, rows."""
    if data is None or spec is None or isinstance(data, Moments):
        return data if isinstance(data, Moments) else None
    rows = read(data, spec.model == "cvae")
    return rows if is_learned(spec) else Moments.of(rows)
