"""`diagnose`: from a model and data to what collapsed, why, and what to change."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from posterior_collapse import checks
from posterior_collapse.data.about import About, about
from posterior_collapse.diagnosis.certificate import Signal, thresholds
from posterior_collapse.diagnosis.collecting import MOST_FEATURES, Collected, collect
from posterior_collapse.diagnosis.conclusions import (
    collapsed_loss,
    counts_alike,
    linear_forecast,
    unjudged_because,
)
from posterior_collapse.diagnosis.effects import (
    Shown,
    decoder_effects,
    is_affine,
    show,
    squared_errors,
)
from posterior_collapse.diagnosis.exact import exact_signals
from posterior_collapse.diagnosis.gain import WORTH, gain_of, side_of_worth
from posterior_collapse.diagnosis.levels import collapse_options
from posterior_collapse.diagnosis.likelihood import has_marginal, log_likelihood
from posterior_collapse.diagnosis.reading import model_behind, model_of
from posterior_collapse.diagnosis.results import Diagnosis, LevelDiagnosis
from posterior_collapse.diagnosis.verdict import with_verdict
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models import LatentModel
from posterior_collapse.models.batches import BATCH_SIZE
from posterior_collapse.models.modules import evaluating
from posterior_collapse.specs import Likelihood, Spec
from posterior_collapse.theory import Forecast
from posterior_collapse.theory.thresholds import AT_OPTIMUM, ROUNDING

__all__ = ["diagnose"]

EVIDENCE = (
    "t is what one more unit would gain that the decoder adds linearly: of other decoders strong "
    "evidence, no proof"
)


def diagnose(
    model: LatentModel | Any,
    data: Any,
    *,
    spec: Spec | None = None,
    samples: int = 16,
    importance_samples: int = 0,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    epsilon: float = 0.01,
    delta: float = 0.05,
    effects: int | None = None,
    progress: bool = False,
) -> Diagnosis:
    """Say which latent units are active, collapsed or relay noise, and whether that is optimal.

    Linear models are measured with the noise integrated out, all others by samples of their
    posterior. The data are read once, a batch at a time (twice with `importance_samples`); memory
    does not grow with them. The decoder may return any `torch.distributions.Distribution` of single
    features: whether a collapse is optimal is told in the noise that its likelihood tolerates.

    Args:
        model: Any `LatentModel`, on any device, or what `fit` returned; modules are put into
            evaluation mode meanwhile.
        data: Array (samples, features) or (samples, ...) for images, data frame, sparse matrix,
            pair (x, y), `Dataset`, torch Dataset or DataLoader, Hugging Face dataset, or batches;
            labels beside x are no target, but the condition of a conditional model.
        spec: The objective, where the model's own spec is not what it was trained with. A
            likelihood that is not Gaussian counts whichever of the two specs has it.
        samples: Samples of each row's posterior that show what upper levels know of x; even.
        importance_samples: Per row, for the log-likelihood; 0: none, but where it is exact.
        seed: Of all that is random: same seed, same numbers.
        batch_size: Rows at a time.
        epsilon: KL in nats of (eps, delta)-collapse.
        delta: Share of rows of (eps, delta)-collapse.
        effects: Most units of a level whose effect on the decoder is measured, each by decoding
            again; None: as many as is cheap where decoding is.
        progress: Show a count of rows on stderr.

    Raises:
        InvalidArgumentError: Not a `LatentModel`, or an option is out of its domain.
        DataError: The data cannot be used, or a posterior is not finite.

    Source:
        Burda et al. (2016) for active units; Dang et al. (2024) for (eps, delta)-collapse; section
        7 of the derivation for the certificate.

    Example:
        >>> from posterior_collapse import VAESpec, fit
        >>> x = np.random.default_rng(0).standard_normal((200, 4)) * [3, 2, 0.1, 0.1]
        >>> found = diagnose(fit(VAESpec(latent_dim=3), x, "linear", exact=True), x)
        >>> found.levels[0].status.count("active"), found.conclusion
        (2, 'collapse-optimal')
    """
    options = collapse_options(epsilon, delta)
    if model_behind(data) is not None and model_behind(model) is None:
        model, data = data, model
    trained = model
    model = model_of(trained)
    objective = getattr(trained, "objective", model.spec)  # of a run that `fit` returned
    if spec is None and objective != model.spec:
        spec = objective
    _check_spec(model, spec)
    _check_sizes(samples, importance_samples, batch_size)
    if effects is not None:
        checks.whole("effects", effects, least=0)
    if importance_samples and isinstance(data, Iterator):
        raise InvalidArgumentError(
            "data",
            "an iterator, which can be read once",
            "data that can be read twice, for importance_samples",
            "Pass an array or a DataLoader.",
        )
    own = None if getattr(model, "spec_assumed", False) else model.spec
    likelihood = _likelihood(model, own, spec)
    gaussian = likelihood in (None, "gaussian")
    with evaluating(model) as seen:
        found = collect(
            model,
            data,
            spec or own,
            overridden=spec is not None,
            gaussian=gaussian,
            samples=samples,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
        levels, partly = _levels(found, options, effects)
        errors = _errors_at_means(found)
        known = about(data, conditional=found.some_rows[1] is not None)
        pictures = _pictures(found, levels, known)
        signals = _signals(found, levels)
        eta_dec = None if spec is None or isinstance(spec.eta_levels[0], str) else found.eta_dec
        nll, cautions = (
            ({}, ())
            if found.unjudged
            else _nll(model, data, importance_samples, seed, progress, eta_dec)
        )
    forecast, reasons = _forecast(found, likelihood)
    losses = _means(found)
    optimal = found.exact and forecast is not None and _is_least(losses["loss"], forecast.loss)
    collapsed = None
    if forecast is not None and counts_alike(forecast):
        collapsed = collapsed_loss(forecast) + found.data_loss
    notes = (
        *seen.notes,
        *getattr(model, "notes", ()),
        *found.cautions,
        *partly,
        *cautions,
        *(note for signal in signals for note in signal.notes),
        *[EVIDENCE] * (bool(signals) and found.spec is not None and not found.exact),
        *reasons,
        *found.notes(),
    )
    result = Diagnosis(
        n=found.n,
        spec=found.spec,
        levels=levels,
        **losses,
        **errors,
        collapsed_loss=collapsed,
        data_loss=found.data_loss,
        eta_dec=found.eta_dec,
        **nll,
        **_certificate(found, levels, signals, optimal, collapsed),
        forecast=forecast,
        notes=tuple(dict.fromkeys(notes)),
        likelihood=likelihood,
        is_network=not found.exact,
        _shown=pictures,
        _history=_history_of(trained),
        _about=known,
    )
    return with_verdict(result)


def _likelihood(model: LatentModel, own: Spec | None, spec: Spec | None) -> Likelihood | None:
    """Of the decoder; an adapter may know it where it does not know the objective."""
    for one in (spec, model.spec):
        if one is not None and one.likelihood != "gaussian":
            return one.likelihood
    return None if own is None and spec is None else "gaussian"


def _forecast(
    found: Collected, likelihood: Likelihood | None
) -> tuple[Forecast | None, tuple[str, ...]]:
    """The linear model's, or a note that says why there is none."""
    if found.unjudged:
        return None, (unjudged_because(likelihood),)
    if getattr(found.model, "teacher_forcing", False):
        return None, ("no forecast: that is of a model whose decoder does not see the data",)
    if found.moments is None and found.spec is not None:
        return None, (
            f"no forecast: x and y have more than {MOST_FEATURES:,} features, or no variance",
        )
    return linear_forecast(found.moments, found.spec)


def _means(found: Collected) -> dict[str, Any]:
    """Losses and their standard errors, by the names of `Diagnosis`."""
    means = {name: float(running.mean) for name, running in found.losses.items()}
    errors = {f"{name}_error": float(running.error) for name, running in found.losses.items()}
    return means | errors


def _errors_at_means(found: Collected) -> dict[str, Any]:
    if not found.decodes or found.unjudged:
        return {}
    with contextlib.suppress(RuntimeError):  # of a model that needs all rows at once
        return squared_errors(found.model, *found.some_rows, found.generator)
    return {}


def _pictures(found: Collected, levels: tuple[LevelDiagnosis, ...], known: About) -> Shown | None:
    if not found.decodes:
        return None
    pictures = show(found.model, *found.some_rows, levels, known.image_shape)
    names = known.features
    if pictures is None or names is None or len(names) != pictures.targets.shape[1]:
        return pictures
    return dataclasses.replace(pictures, names=names)


def _history_of(trained: Any) -> Mapping[str, Sequence[float]] | None:
    """The course of what `fit` returned, which other models do not have."""
    return trained.history if hasattr(trained, "objective") else None


def _levels(
    found: Collected, options: dict[str, float], effects: int | None
) -> tuple[tuple[LevelDiagnosis, ...], list[str]]:
    levels, notes = [], []
    depth = len(found.levels)
    x, y = found.some_rows
    for number, statistics in enumerate(found.levels, start=1):
        level = statistics.diagnosis(top=number == depth, **options)
        name = f" of z{number}" if depth > 1 else ""
        if found.decodes and effects != 0:
            most = found.most_effects if effects is None else effects
            units = np.argsort(-level.kl)[:most]
            try:
                effect, error = decoder_effects(found.model, number, x, y, units, found.generator)
            except RuntimeError:
                if len(x) == found.n:
                    raise
                notes.append(f"effects on the decoder{name}: none, as it takes no part of the rows")
                levels.append(level)
                continue
            level = dataclasses.replace(level, decoder_effect=effect, decoder_effect_error=error)
            if len(units) < len(level.kl):
                notes.append(f"effects on the decoder{name}: of {len(units)} units, by KL")
        bounds = int(level.information_is_lower_bound.sum())
        if bounds:
            notes.append(
                f"information of {bounds} units{name} is a lower bound: their posteriors are very "
                "narrow beside the range of their means"
            )
        notes += [note for note in statistics.notes(level, name) if note not in notes]
        levels.append(level)
    return tuple(levels), notes


def _is_least(loss: float, least: float) -> bool:
    return abs(loss - least) <= ROUNDING * max(1.0, abs(least))


def _signals(found: Collected, levels: tuple[LevelDiagnosis, ...]) -> tuple[Signal, ...]:
    if any("diverged" in level.status for level in levels):
        return ()
    if found.exact and found.moments is not None:
        return exact_signals(found.model, found.moments)
    level = levels[0]
    active = np.array([status == "active" for status in level.status])
    # Rows are as far apart as their posteriors: in dead units they do not differ.
    scale = np.where(active, level.posterior_std, np.inf)
    if active.any() and _is_affine(found):
        scale = np.full_like(scale, np.inf)  # what adds its units uses one alike in every part
    limits: Sequence[float] = [0.0] * len(found.residuals)
    if found.spec is not None and found.residuals:
        limits = thresholds(found.spec, levels, found.noises(levels))
    return tuple(
        residuals.signal(scale, limit)
        for residuals, limit in zip(found.residuals, limits, strict=True)
    )


def _is_affine(found: Collected) -> bool:
    if not found.residuals:
        return False
    with contextlib.suppress(RuntimeError):  # of a model that needs all rows at once
        return is_affine(found.model, *found.some_rows, found.generator)
    return False


def _certificate(
    found: Collected,
    levels: tuple[LevelDiagnosis, ...],
    signals: tuple[Signal, ...],
    optimal: bool,
    collapsed: float | None,
) -> dict[str, Any]:
    if found.spec is None or not signals:
        return {}
    spec = found.spec
    limits = thresholds(spec, levels, found.noises(levels))
    # A linear model that is at the optimum of these rows was trained on them. They are no sample of
    # what its objective asks for, and a t that is not above 1 has no error.
    sure = 1 + AT_OPTIMUM if optimal else -math.inf
    brought = 0.0
    if collapsed is not None and "loss" in found.losses:
        brought = collapsed - float(found.losses["loss"].mean)
        if brought <= 0 and "reconstruction" in found.losses:
            # KL that knows nothing, as that of a prior of another scale, hides what units brought.
            known = sum(
                beta * float(level.information.sum())
                for beta, level in zip(spec.beta_levels, levels, strict=True)
            )
            brought = collapsed - float(found.losses["reconstruction"].mean) - known
        brought = max(0.0, brought)
    # Probabilities are 1 at most: a cross-entropy has this much to fall.
    certain = spec.likelihood in ("bernoulli", "categorical") and "reconstruction" in found.losses
    most = float(found.losses["reconstruction"].mean) if certain else math.inf
    values, errors, gains, sides = [], [], [], []
    for number, (signal, limit) in enumerate(zip(signals, limits, strict=True), start=1):
        t = float(signal.variances[0] / limit)
        error = 0.0 if t <= sure else signal.error / limit
        values.append(t)
        errors.append(error)
        gains.append(gain_of(spec, number, signal, limit, error, WORTH * brought, most))
        sides.append(_sides(spec, number, signal, limit, sure, worth=WORTH * brought))
    return {
        "signal": tuple(values),
        "signal_error": tuple(errors),
        "gains": tuple(gains),
        "paying_units": tuple(level.count("above") for level in sides),
        "undecided_units": tuple(level.count("undecided") for level in sides),
    }


def _sides(
    spec: Spec, number: int, signal: Signal, limit: float, sure: float, worth: float
) -> list[str]:
    """On which side of what is worth a unit each direction is that knows something of x.

    Args:
        spec: The hyperparameters.
        number: Of the level.
        signal: Of a level.
        limit: Its threshold.
        sure: Up to where a direction is surely below.
        worth: Nats that a unit must gain.
    """
    variances, error = signal.variances[signal.informed] / limit, signal.error / limit
    sides: list[str] = []
    for t in map(float, variances):
        if t <= sure or "below" in sides:
            sides.append("below")  # as a stronger one is
        else:
            sides.append(side_of_worth(spec, number, t, error, worth))
    return sides


def _nll(
    model: LatentModel,
    data: Any,
    samples: int,
    seed: int,
    progress: bool,
    eta_dec: float | None,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The NLL by the names of `Diagnosis`, and cautions."""
    exact = has_marginal(model) and not isinstance(data, Iterator)
    if not exact and not samples:
        return {}, ()
    found = log_likelihood(
        model, data, samples=samples or 1, seed=seed, eta_dec=eta_dec, progress=progress
    )
    sizes = found.effective_sample_size
    values = {
        "nll": found.nll,
        "nll_error": found.nll_error,
        "effective_sample_size": None if sizes is None else float(np.median(sizes)),
    }
    return values, found.notes


def _check_spec(model: LatentModel, spec: Spec | None) -> None:
    if spec is not None and (not isinstance(spec, Spec) or spec.dims != model.units):
        got = f"latent dims {spec.dims}" if isinstance(spec, Spec) else type(spec).__name__
        raise InvalidArgumentError(
            "spec", got, f"a spec of the model's units, {model.units}", "Leave it out, or check it."
        )


def _check_sizes(samples: int, importance_samples: int, batch_size: int) -> None:
    if checks.whole("samples", samples, least=4) % 2:
        raise InvalidArgumentError("samples", samples, "an even number", "Pass samples=16.")
    checks.whole("importance_samples", importance_samples, least=0)
    checks.whole("batch_size", batch_size, least=1)
