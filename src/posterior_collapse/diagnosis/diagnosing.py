"""`diagnose`: from a model and data to what collapsed, why, and what to change."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from posterior_collapse import checks
from posterior_collapse.data.about import Columns, about, refuse_reordered
from posterior_collapse.data.samples import Samples, read
from posterior_collapse.diagnosis.advice import with_verdict
from posterior_collapse.diagnosis.certificate import Signal
from posterior_collapse.diagnosis.collecting import MOST_FEATURES, Collected, collect
from posterior_collapse.diagnosis.conclusions import (
    collapsed_loss,
    counts_alike,
    excess_loss,
    linear_forecast,
    overfit,
)
from posterior_collapse.diagnosis.effects import (
    adds_input,
    decoder_effects,
    is_affine,
    passed_over,
    show,
    squared_errors,
)
from posterior_collapse.diagnosis.exact import exact_signals
from posterior_collapse.diagnosis.gain import WORTH, as_trained, certificate, thresholds
from posterior_collapse.diagnosis.levels import check_spec, collapse_options
from posterior_collapse.diagnosis.likelihood import LogLikelihood, has_marginal, log_likelihood
from posterior_collapse.diagnosis.reading import model_behind, model_of
from posterior_collapse.diagnosis.results import Diagnosis, LevelDiagnosis
from posterior_collapse.errors import DataError, InvalidArgumentError, of_level
from posterior_collapse.models import LatentModel, MarkovVAE
from posterior_collapse.models.batches import BATCH_SIZE
from posterior_collapse.models.modules import evaluating
from posterior_collapse.moments.wide import most_features
from posterior_collapse.specs import Likelihood, Spec
from posterior_collapse.theory import Forecast
from posterior_collapse.theory.thresholds import AT_OPTIMUM, ROUNDING, unit_gain

MOST_REGRESSED = 2e8
"""Rows times features of x times those of y up to which a regression of y on x takes seconds."""
ADDS = (
    "the forecast is that of decoders that add what z says to something linear in x: one that "
    "reads more from x leaves less for z, one that uses z differently for each x may keep more "
    "units"
)
EVIDENCE = (
    "t is about one more unit that the decoder uses linearly: for other decoders it is strong "
    "evidence, not proof"
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
    features: whether a collapse is optimal is judged in units of its likelihood's own noise.

    Args:
        model: Any `LatentModel`, on any device, or what `fit` returned, or one of the `runs` of a
            sweep; modules are put into evaluation mode meanwhile.
        data: Array (samples, features) or (samples, ...) for images, data frame, sparse matrix,
            pair (x, y), `Dataset`, torch Dataset or DataLoader, Hugging Face dataset, or batches;
            labels beside x are not a target, but the condition of a conditional model.
        spec: The objective, if the model was trained with another than its own spec says. A
            likelihood that is not Gaussian counts, whichever of the two specs has it.
        samples: Samples of each row's posterior, for what upper levels know of x; an even number.
        importance_samples: Per row, for the log-likelihood; 0: only where it is exact.
        seed: Seed of all that is random: same seed, same numbers.
        batch_size: Rows at a time.
        epsilon: KL in nats of (eps, delta)-collapse.
        delta: Share of rows of (eps, delta)-collapse.
        effects: Most units of a level whose effect on the decoder is measured, each by decoding
            again; None: as many as stay cheap.
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
    trained: Any = model
    model = model_of(model)
    objective = getattr(trained, "objective", model.spec)  # of what `fit` or `sweep` returned
    if spec is None and objective != model.spec:
        spec = objective
    _check_objective(spec, model)
    _check_numbers(samples, importance_samples, batch_size, effects)
    once = isinstance(data, Iterator)
    if importance_samples and once:
        raise InvalidArgumentError(
            "data",
            "an iterator, which can be read once",
            "data that can be read twice, for importance_samples",
            "Pass an array or a DataLoader.",
        )
    columns: Columns = getattr(trained, "columns", ()) if hasattr(trained, "objective") else ()
    refuse_reordered("data", data, columns)
    own = None if getattr(model, "spec_assumed", False) else model.spec
    likelihood = _likelihood(model, own, spec)
    with evaluating(model) as seen:
        found = collect(
            model,
            data,
            spec or own,
            overridden=spec is not None,
            gaussian=likelihood in (None, "gaussian"),
            samples=samples,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
        levels, partly = _levels(found, options, effects)
        errors = _decoder_errors(found)
        known = about(data, conditional=found.some_rows[1] is not None)
        named = bool(columns) and len(columns[-1] or ()) == found.widths[-1]
        if known.features is None and named:  # as those trained on are called
            known = replace(known, features=columns[-1])
        pictures = show(found.model, *found.some_rows, levels, known) if found.decodes else None
        signals, limits = _signals(found, levels)
        likelihoods: LogLikelihood | None = None
        exact = has_marginal(model) and not once
        if not found.unjudged and (exact or importance_samples):
            fixed = spec is not None and not isinstance(spec.eta_levels[0], str)
            likelihoods = log_likelihood(
                model,
                data,
                samples=importance_samples or 1,
                seed=seed,
                eta_dec=found.eta_dec if fixed else None,
                progress=progress,
            )
    forecast, reasons = _forecast(found, likelihood, getattr(trained, "floor", None), data)
    means: dict[str, Any] = {}
    for name, running in found.losses.items():
        means |= {name: float(running.mean), f"{name}_error": float(running.error)}
    collapsed: float | None = None
    if forecast is not None and counts_alike(forecast):
        collapsed = collapsed_loss(forecast) + found.data_loss
    notes = (
        *seen.notes,
        *getattr(model, "notes", ()),
        *found.cautions,
        *partly,
        *(likelihoods.notes if likelihoods is not None else ()),
        *(note for signal in signals for note in signal.notes),
        *[EVIDENCE] * (bool(signals) and found.spec is not None and not found.exact),
        *reasons,
    )
    result = Diagnosis(
        n=found.n,
        spec=found.spec,
        levels=levels,
        **means,
        **errors,
        collapsed_loss=collapsed,
        data_loss=found.data_loss,
        eta_dec=found.eta_dec,
        **_nll(likelihoods),
        **_certified(found, levels, signals, limits, means, forecast, collapsed),
        forecast=forecast,
        likelihood=likelihood,
        is_network=not found.exact,
        _shown=pictures,
        # The course of what `fit` returned, which other models do not have.
        _history=trained.history if hasattr(trained, "objective") else None,
        _about=known,
        _sees_past=getattr(model, "teacher_forcing", False),
        _built=isinstance(model, MarkovVAE),
    )
    result = result.replace(_training=_training(trained, result))
    notes += tuple(found.notes(overfit=overfit(result) > 0))
    return with_verdict(result.replace(notes=tuple(dict.fromkeys(notes))))


def _check_objective(spec: Spec | None, model: LatentModel) -> None:
    """Refuse a spec of other units than the model's, or of another kind."""
    check_spec(spec, model.units)
    if spec is not None and (spec.model == "cvae") != (model.spec.model == "cvae"):
        raise InvalidArgumentError(
            "spec", f"that of a {spec.model}", f"one of the model's kind, a {model.spec.model}",
            "Leave it out, or give from_callable the spec.",
        )  # fmt: skip


def _check_numbers(
    samples: int, importance_samples: int, batch_size: int, effects: int | None
) -> None:
    if checks.whole("samples", samples, least=4) % 2:
        raise InvalidArgumentError("samples", samples, "an even number", "Pass samples=16.")
    checks.whole("importance_samples", importance_samples, least=0)
    checks.whole("batch_size", batch_size, least=1)
    if effects is not None:
        checks.whole("effects", effects, least=0)


def _training(trained: Any, found: Diagnosis) -> tuple[float, float] | None:
    """Loss of the rows trained on, and its error, where these rows may cost more than those."""
    if not hasattr(trained, "measured") or found.loss is None or not excess_loss(found):
        return None
    course = trained.history.get("loss") or [-math.inf]
    if course[-1] + found.data_loss > found.loss:
        return None
    with contextlib.suppress(DataError):  # of data that cannot be read again
        # A run of a sweep has kept what was measured.
        measured = trained.measured() if callable(trained.measured) else trained.measured
        return measured["loss"], measured["loss_error"]
    return None


def _likelihood(model: LatentModel, own: Spec | None, spec: Spec | None) -> Likelihood | None:
    """Of the decoder; an adapter may know it where it does not know the objective."""
    for one in (spec, model.spec):
        if one is not None and one.likelihood != "gaussian":
            return one.likelihood
    return None if own is None and spec is None else "gaussian"


def _forecast(
    found: Collected, likelihood: Likelihood | None, floor: object, data: Any
) -> tuple[Forecast | None, tuple[str, ...]]:
    """The linear model's, or a note that says why there is none."""
    if found.unjudged:
        return None, (
            f"with likelihood {likelihood!r} there is no loss and no t unless the decoder gives "
            "its distribution: let decode return it, such as torch.distributions.StudentT(5.0, "
            "mean, scale)",
        )
    if isinstance(floor, str):  # of a run; a model of one's own may call a number so
        return None, (
            f"trained with {floor}, which the loss and t leave out: no closed form has its optimum",
        )
    if getattr(found.model, "teacher_forcing", False):
        return None, ("no forecast: that is of a model whose decoder does not see the data",)
    if getattr(found.model, "padding", None) is not None:
        return None, ("no forecast: that is of data without padding; audit_loss has one with it",)
    if found.spec is None:
        return None, ()
    conditional, wide = found.spec.model == "cvae", sum(found.widths)
    regressed = conditional and likelihood != "gaussian"
    held = None
    if regressed or wide > min(MOST_FEATURES, most_features(found.n)):
        # Where they are at hand, in fewer dimensions than those measured as they passed by.
        held = None if isinstance(data, Iterator) else read(data, conditional)
    if regressed:
        if isinstance(held, Samples) and found.n * math.prod(found.widths) <= MOST_REGRESSED:
            forecast, why = linear_forecast(held, found.spec)
            return forecast, why if forecast is None else (*why, ADDS)
        return None, (
            f"no forecast: with a condition, that of likelihood {likelihood!r} is a regression on "
            "all rows at once, made here of arrays that are not too large; pc.forecast has it",
        )
    if isinstance(held, Samples):
        return linear_forecast(held, found.spec, None if found.model.centred else "none")
    if wide > MOST_FEATURES:
        return None, (
            f"no forecast: x and y have more than {MOST_FEATURES:,} features, for which a loader "
            "would be read again; pc.forecast does so",
        )
    if found.moments is None:
        return None, ("no forecast: the data have no variance",)
    return linear_forecast(found.evidence, found.spec)


def _levels(
    found: Collected, options: dict[str, float], effects: int | None
) -> tuple[tuple[LevelDiagnosis, ...], list[str]]:
    """What each level does, and notes."""
    levels, notes = [], []
    depth = len(found.levels)
    x, y = found.some_rows
    for number, statistics in enumerate(found.levels, start=1):
        level = statistics.diagnosis(top=number == depth, **options)
        name = of_level(number, depth)
        if found.decodes and effects != 0:
            most = found.most_effects if effects is None else effects
            units = np.argsort(-level.kl)[:most]
            effect = error = None
            with contextlib.nullcontext() if len(x) == found.n else passed_over():
                effect, error = decoder_effects(found.model, number, x, y, units, found.generator)
            if effect is None:
                notes.append(f"effects on the decoder{name}: none, as it takes no part of the rows")
                levels.append(level)
                continue
            level = level.replace(decoder_effect=effect, decoder_effect_error=error)
            if len(units) < len(level.kl):
                notes.append(f"effects on the decoder{name}: of {len(units)} units, by KL")
        notes += [note for note in statistics.notes(level, name) if note not in notes]
        levels.append(level)
    return tuple(levels), notes


def _signals(
    found: Collected, levels: tuple[LevelDiagnosis, ...]
) -> tuple[tuple[Signal, ...], Sequence[float]]:
    """Per level what is left unexplained, and what of it one more unit must exceed."""
    exact = found.moments if found.exact else None
    known = exact is not None or found.residuals
    if not known or any("diverged" in level.status for level in levels):
        return (), ()
    limits: Sequence[float] = [0.0] * len(levels)
    if found.spec is not None:
        limits = thresholds(found.spec, levels, found.noises(levels))
    if exact is not None:
        return exact_signals(found.model, exact), limits
    active = levels[0].that_are("active")
    # Rows are as far apart as their posteriors: in dead units they do not differ.
    scale = np.where(active, levels[0].posterior_std, np.inf)
    with passed_over():
        if active.any() and is_affine(found.model, *found.some_rows, found.generator):
            scale = np.full_like(scale, np.inf)  # it uses a unit alike in every part
    mixed = False
    with contextlib.suppress(Exception):  # between rows a function of people's own may fail
        conditional = found.model.spec.model == "cvae"
        mixed = conditional and not adds_input(found.model, *found.some_rows, found.generator)
    pairs = zip(found.residuals, limits, strict=True)
    return tuple(residuals.signal(scale, limit, mixed=mixed) for residuals, limit in pairs), limits


def _decoder_errors(found: Collected) -> dict[str, Any]:
    """Squared errors at the posterior's means and samples; nothing where they cannot be known."""
    if found.decodes and not found.unjudged:
        with passed_over():
            return squared_errors(found.model, *found.some_rows, found.generator)
    return {}


def _certified(
    found: Collected,
    levels: tuple[LevelDiagnosis, ...],
    signals: Sequence[Signal],
    limits: Sequence[float],
    means: Mapping[str, float],
    forecast: Forecast | None,
    collapsed: float | None,
) -> dict[str, Any]:
    """What the certificate says, by the names of `Diagnosis`; nothing where there is none."""
    spec = found.spec
    if spec is None or not signals:
        return {}
    # Probabilities are 1 at most: a cross-entropy has this much to fall.
    bounded = spec.likelihood in ("bernoulli", "categorical")
    return certificate(
        spec,
        levels,
        signals,
        limits,
        sure=_surely_below(found, means, forecast),
        worth=WORTH * _brought(found, spec, levels, means, collapsed),
        most=means.get("reconstruction", math.inf) if bounded else math.inf,
        features=found.widths[-1],
    )


def _surely_below(found: Collected, means: Mapping[str, float], forecast: Forecast | None) -> float:
    """Return the t up to which a unit is below the threshold, whatever the error of its t.

    A linear model at the optimum of these rows was trained on these rows: they are then no sample,
    and t has no sampling error. Of any other model nothing is sure: -inf.
    """
    if not found.exact or forecast is None:
        return -math.inf
    gap = abs(means["loss"] - forecast.loss)
    return 1 + AT_OPTIMUM if gap <= ROUNDING * max(1.0, abs(forecast.loss)) else -math.inf


def _brought(
    found: Collected,
    spec: Spec,
    levels: tuple[LevelDiagnosis, ...],
    means: Mapping[str, float],
    collapsed: float | None,
) -> float:
    """Nats per row that the units which live have brought; 0 where that is not known."""
    if collapsed is None or "loss" not in means:
        return 0.0
    brought = collapsed - means["loss"]
    if brought <= 0 and "reconstruction" in means:
        # KL that knows nothing, as that of a prior of another scale, hides what units brought.
        known = sum(
            beta * float(level.information.sum())
            for beta, level in zip(spec.beta_levels, levels, strict=True)
        )
        brought = collapsed - means["reconstruction"] - known
    if spec.model == "cvae" and not found.exact:
        # Beside the best output that is linear in a condition, a network's loss is also lower for
        # what its own path from the condition explains. Units have brought what they know.
        spec = as_trained(spec, levels)
        power = 2 if isinstance(spec.sigma_levels[0], str) else 4
        t = np.exp(power * levels[0].information)  # of a linear model at its optimum, sections 1, 6
        brought = min(brought, float(unit_gain(spec, t).sum()))
    return max(0.0, brought)


def _nll(found: LogLikelihood | None) -> dict[str, Any]:
    """By the names of `Diagnosis`."""
    if found is None:
        return {}
    sizes = found.effective_sample_size
    median = None if sizes is None else float(np.median(sizes))
    return {"nll": found.nll, "nll_error": found.nll_error, "effective_sample_size": median}
