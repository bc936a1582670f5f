"""A verdict, and what was found, each thing with what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from posterior_collapse.diagnosis.conclusions import (
    NOT_ENDED,
    best_of,
    conclude,
    excess_loss,
    gain_in_words,
    has_diverged,
    has_other_noise,
    in_parts_only,
    is_attainable,
    is_marginal,
    is_settled,
    is_worse_than_none,
    keeps_too_many,
    kept_units,
    leaves_out,
    overfit,
    verdict,
    what_decides,
)
from posterior_collapse.diagnosis.mistakes import mistaken
from posterior_collapse.diagnosis.results import (
    Conclusion,
    Diagnosis,
    Finding,
    LevelDiagnosis,
    near_worth,
)
from posterior_collapse.errors import count_of, enumerated, of_level
from posterior_collapse.theory import ACTIVE_INFORMATION, Forecast, unclaimed_signal
from posterior_collapse.theory.thresholds import LEAST_ROWS, ROUNDING, SURE

FAR = 0.5
"""Nats from a unit's aggregate posterior to its prior from which the prior's samples miss it."""
MARGINAL = (
    "At beta = 1, t is exactly 1 for a decoder that predicts as well as the past allows, and no "
    "number of rows can tell that from a little more. Units pay at a lower beta, or if the decoder "
    "sees less of the past (word dropout)."
)
TRAIN_LONGER = "Train longer, or with another learning rate, before you change anything else."
AS_WIDE = 0.1
"""Of the prior's std, by which an aggregate posterior's may differ and need no factor."""
UNUSED = 0.01
"""Share of the strongest unit's effect below which the decoder ignores a unit, eta_dec unknown."""


def with_verdict(found: Diagnosis) -> Diagnosis:
    """Return the diagnosis with conclusion, verdict and advice, and a caution on few rows."""
    conclusions = conclude(found)
    conclusion, sentence = verdict(found, conclusions)
    few = "1 row is" if found.n == 1 else f"{found.n} rows are"
    few += " too few for standard errors, which come out too small, or a verdict"
    return found.replace(
        conclusion=conclusion,
        verdict=sentence,
        advice=tuple(advise(found, conclusions)),
        notes=(*[few] * (found.n < LEAST_ROWS), *found.notes),
    )


def advise(found: Diagnosis, conclusions: Sequence[Conclusion]) -> list[Finding]:
    """Return the findings, the gravest first; no conclusions: the certificate is not known."""
    numbered = list(enumerate(found.levels, start=1))
    if has_diverged(found):
        return list(_diverged(found))
    if has_other_noise(found):
        return [_other_noise(found)]
    told: list[Finding] = []
    for number, level in numbered:
        told += mistaken(found, number, level)
    if gap := overfit(found):
        return [*told, _overfits(gap)]
    unfinished = list(_unfinished(found, conclusions))
    told += unfinished
    for number, level in numbered:
        told += _unsettled(found, number, level)
    for number, conclusion in enumerate(conclusions, start=1):
        # Nothing else is to be changed before training has arrived.
        arrived = not unfinished and is_settled(found, number - 1)
        if arrived or (conclusion == "signal-unclaimed" and not unfinished):
            told += _of_certificate(found, number, conclusion)
    if not conclusions:
        told += _without_certificate(found)
    for number, level in numbered:
        # No action takes back one that was told before.
        told += _noise(found, number, level, told)
        told += _unused(found, number, level)
        told += _idle(found, number, level)
    told += [] if unfinished else _far_from_prior(found, told)
    return told


def _diverged(found: Diagnosis) -> Iterator[Finding]:
    for number, level in enumerate(found.levels, start=1):
        beyond = level.that_are("diverged")
        if beyond.any():
            std, kl = level.posterior_std_range[1][beyond].max(), level.kl[beyond].max()
            yield Finding(
                "diverged",
                f"The posterior of {_units(int(beyond.sum()))}{_name(found, number)} has diverged: "
                f"its std is up to {std:.3g}, its KL {kl:.3g} nats.",
                "Clamp log_var (to [-20, 10], say), lower the learning rate, and train again.",
            )


def _other_noise(found: Diagnosis) -> Finding:
    return Finding(
        "not-the-posterior",
        "The decoder was trained with less noise than the posterior states: its squared error is "
        f"{found.squared_error_at_mean:.3g} at the posterior's means and "
        f"{found.squared_error_sampled:.3g} at its samples, more than the "
        f"{found.squared_error_constant:.3g} of no latents at all.",
        "Check the sampler, z = mean + exp(log_var / 2) * noise, and that log_var is the log of a "
        "variance.",
    )


def _overfits(gap: float) -> Finding:
    return Finding(
        "overfits",
        f"The loss on these rows is {gap:.3g} nats higher than on those the model was trained on: "
        "it has learned details that these do not share.",
        "Stop earlier (validation= with patience=), train on more rows, or with a smaller network, "
        "before you change anything else.",
    )


def _unsettled(found: Diagnosis, number: int, level: LevelDiagnosis) -> Iterator[Finding]:
    if is_settled(found, number - 1):
        return
    yield Finding(
        "still-settling",
        f"{level.n_active} active units{_name(found, number)} vary along only "
        f"{count_of(level.directions, 'direction')}: they are still settling.",
        "Train on until the two counts agree before you count units, or change their number.",
    )


def _unfinished(found: Diagnosis, conclusions: Sequence[Conclusion]) -> Iterator[Finding]:
    failed = "signal-unclaimed" in conclusions and not is_worse_than_none(found)
    if found.forecast is None or failed:
        return
    excess, kept = excess_loss(found), kept_units(found.forecast)
    active = [level.n_active for level in found.levels]
    units, action = enumerated([str(n) for n in kept]), TRAIN_LONGER
    if excess and not is_attainable(found.forecast):
        what = f"The loss is {excess:.3g} nats above that of the best constant output, which needs "
        what += "no unit."
    elif excess:
        enough = all(k <= n for k, n in zip(kept, active, strict=True))
        what = f"The loss is {excess:.3g} nats above the optimum of a linear model, "
        few = "1 active unit is" if kept == (1,) else f"{units} active units are"
        what += f"for which {few} enough." if enough else f"which keeps {units}."
    elif keeps_too_many(found):
        many = "1 unit is" if active == [1] else f"{enumerated([str(n) for n in active])} units are"
        what = f"{many} active where the optimum of this linear model keeps {units}: "
        what += f"{NOT_ENDED}."
        action = f"{TRAIN_LONGER[:-1]}; exact=True trains a linear model to its optimum."
    else:
        return
    yield Finding("not-at-optimum", what, action)


def _of_certificate(found: Diagnosis, number: int, conclusion: Conclusion) -> Iterator[Finding]:
    level, t = found.levels[number - 1], found.signal[number - 1]
    paying = found.paying_units[number - 1]
    name, units = _name(found, number), len(level.status)
    spare = level.status.count("collapsed")
    if conclusion == "signal-unclaimed":
        yield Finding(
            conclusion,
            f"{_units(spare)}{name} collapsed, yet what is left unexplained would pay for "
            f"{_units(max(1, min(spare, paying)))} ({_why_it_pays(found, number)}): the optimiser "
            "failed.",
            "Train again with KL warm-up, from another seed or with another learning rate, or "
            "train longer.",
        )
    elif conclusion == "collapse-optimal":
        kept = units - spare if is_settled(found, number - 1) else level.directions
        how = "which is optimal"
        if found.is_network:
            how = "which {} ({})".format(*best_of(found))
        why = "what is left unexplained would not pay for one"
        if t > 1 + ROUNDING and number > 1:
            why = f"what is left unexplained is noise injected into z{number - 1}"
        yield Finding(
            conclusion,
            f"{_units(spare)}{name} collapsed, {how}: {why} (t = {t:.3g}).",
            (f"Keep {_units(min(units - spare, kept))}" if kept else "Leave the level out")
            + _how_to_use_more(found, number),
        )
    elif conclusion == "more-units-pay":
        # Each direction pays by itself; the data may have fewer modes for all of them together.
        paying, modes = max(1, paying), len(found.levels[0].status)
        if found.forecast is None:
            modes += max(found.paying_units, default=0)
        else:
            modes = int(np.count_nonzero(found.forecast.spectrum))
        wanted = min(units + paying, max(units + 1, modes))
        more = f"{paying} more" if wanted == units + paying else "more"
        field = "latent_dim" if len(found.levels) == 1 else f"the units of z{number}"
        yield Finding(
            conclusion,
            f"{_all(units, name)} used, and {more} would pay ({_why_it_pays(found, number)}).",
            f"Raise {field} from {units} to {wanted}.",
        )
    elif conclusion == "undecided":
        yield _undecided(found, number)


def _why_it_pays(found: Diagnosis, number: int) -> str:
    t, bought = found.signal[number - 1], gain_in_words(found, number - 1)
    return f"t = {t:.3g}{' > 1' * (t > 1)}{'; ' * bool(bought)}{bought}"


def _undecided(found: Diagnosis, number: int) -> Finding:
    level = found.levels[number - 1]
    t, error = found.signal[number - 1], found.signal_error[number - 1]
    spare, units = level.status.count("collapsed"), len(level.status)
    name, near = _name(found, number), near_worth(found, number - 1)
    more = "is worth it" if near else "would pay"
    if spare:
        what = f"{_units(spare)}{name} collapsed, and whether that is optimal is undecided"
    else:
        what = f"{_all(units, name)} used, and whether one more {more} is undecided"
    if in_parts_only(found, number - 1):
        return Finding(
            "undecided",
            f"{what}: {gain_in_words(found, number - 1)}, about what is worth a unit "
            f"({found.gains[number - 1].worth:.2g}).",
            "Train on and diagnose again: what such parts leave unexplained shrinks until training "
            "has settled.",
        )
    if near:
        return Finding("undecided", f"{what}: {near}.", "Leave it, unless so little matters.")
    if leaves_out(found, number - 1) and not found.undecided_units[number - 1]:
        return Finding("undecided", f"{what}: {what_decides(found, number - 1)}.", TRAIN_LONGER)
    why = "t is not known" if np.isnan(t) else f"t = {t:.3g} \u00b1 {error:.1g}, above 1 or not"
    action = f"Diagnose more than {found.n:,} rows: {what_decides(found, number - 1)}."
    if is_marginal(found) and found.n >= LEAST_ROWS:
        action = MARGINAL
    spec = found.spec
    if level.n_active and spec is not None and not isinstance(spec.sigma_levels[number - 1], str):
        action += (
            " At the optimum with a fixed sigma t is exactly 1, which no number of rows can tell "
            "from a little more."
        )
    return Finding("undecided", f"{what}: {why}.", action)


def _how_to_use_more(found: Diagnosis, number: int) -> str:
    spec, forecast = found.spec, found.forecast
    if spec is not None and number > 1 and isinstance(spec.sigma_levels[number - 2], str):
        return f"; it is used where the std of z{number - 1} is fixed and large enough."
    if forecast is not None and not forecast.spectrum.any():
        return ": no setting can keep a unit, as x explains all of y."
    t, more = found.signal[number - 1], f"; to use more{_name(found, number)}"
    field = "beta" if len(found.levels) == 1 else f"beta_{number}"
    if forecast is not None and not found.is_network:
        changes = _of_linear_models(found, forecast, number)
        if changes:
            return f"{more}: {', or '.join(changes)}."
    if spec is not None and 0 < t < 1:
        # What was measured in this network says more than what a linear one would do.
        beta = spec.beta_levels[number - 1]
        return (
            f"{more}, lower {field} from {beta:.3g} to below {beta * t:.3g}, where one more "
            f"unit begins to pay in this model (your KL weight times {t:.2g})."
        )
    learned = spec is not None and "learned" in spec.eta_levels
    return f"{more}, lower {field}{'' if learned else ' or eta_dec'}."


def _of_linear_models(found: Diagnosis, forecast: Forecast, number: int) -> list[str]:
    """Return the changes, each enough, that keep one more unit of a level in a linear model."""
    level, kept = found.levels[number - 1], forecast.levels[number - 1]
    wanted = min(1 + max(level.n_active, kept.n_active), len(level.status))
    if number == len(found.levels):
        changes = forecast.advice(active=wanted).changes
        return [f"{one.text[0].lower()}{one.text[1:-1]}" for one in changes]
    # A forecast's own advice is on its top level, which asks for the opposite: a dearer z1.
    beta, critical = forecast.spec.beta_levels[number - 1], np.nan_to_num(kept.informed_beta)
    least = float(np.sort(critical)[len(critical) - wanted])
    return [f"lower beta_{number} from {beta:.4g} to below {least:.3g}"] * (0 < least < beta)


def _without_certificate(found: Diagnosis) -> Iterator[Finding]:
    spare = sum(level.status.count("collapsed") for level in found.levels)
    if found.likelihood not in (None, "gaussian"):
        if spare and found.squared_error is None:
            yield Finding(
                "cannot-tell-yet",
                f"Whether {_units(spare)} collapsed because the objective asks for it cannot be "
                "told: nothing says by which distribution the model decodes. KL, information and "
                "counts hold.",
                "Diagnose the model with a decoder (one that sees the data: "
                "teacher_forcing=True) that returns a torch.distributions.Distribution of them, "
                "such as Bernoulli(logits=...).",
            )
        return
    theory = found.forecast
    kept = 0 if theory is None else kept_units(theory)[-1]
    beside = f"where the linear optimum of the same spec and data keeps {kept}."
    see = "Diagnose the model with its decoder to see whether"
    if found.n_active < kept:
        what = f"{_units(found.n_active)} active {beside}"
        yield Finding("fewer-than-linear", what, f"{see} signal is left unclaimed.")
    elif spare:
        what = "Whether the collapsed units could carry something is not known."
        action = "Compare them with a linear model's, by the data, beta and eta_dec; and diagnose "
        action += "the model with its decoder (one that sees the data: teacher_forcing=True)"
        action += f"{', and pass the spec that it was trained with' * (found.spec is None)}."
        if theory is not None:
            what, action = f"{_units(spare)} collapsed {beside}", f"{see} one more unit would pay."
            beta, onset = theory.spec.beta_levels[0], theory.onset
            if found.n_active == 0 and beta >= onset and theory.spec.model == "vae":
                what = f"{_units(spare)} collapsed: beta = {beta:.4g} is above {onset:.3g}, from "
                what += "which on total collapse is stable, in networks too whose decoder sees z "
                what += "alone."
                action = f"Lower beta to below {onset:.3g}, where a first unit begins to pay."
        yield Finding("undecided", what, action)


def _lowers(told: Sequence[Finding], number: int) -> bool:
    """Whether it was said before to lower the beta of a level."""
    words = re.compile(rf"[Ll]ower beta(_{number})?\b")
    return any(words.search(finding.action) for finding in told)


def _noise(
    found: Diagnosis, number: int, level: LevelDiagnosis, told: Sequence[Finding]
) -> Iterator[Finding]:
    count = level.status.count("noise")
    if not count:
        return
    t, lower, more = 0.0, "lower the std of the level below", "raise this level's beta"
    spec, std = found.spec, found.levels[number - 2].posterior_std.max()
    if spec is not None and isinstance(spec.sigma_levels[number - 2], str):
        lower = ""  # what is learned is as wide as it is since this level hears it
        if found.forecast is not None:
            critical = found.forecast.levels[number - 1].critical_beta
            t = critical[~np.isnan(critical)].max(initial=0.0) / spec.beta_levels[number - 1]
    elif spec is not None and found.eta_dec is not None:
        # The injected noise is a signal to this level; it pays while it exceeds the threshold.
        t = unclaimed_signal(spec, std**2, level=number, eta_dec=found.eta_dec, spare_above=False)
    if spec is not None and t > 1:
        beta = spec.beta_levels[number - 1]
        more = f"raise beta_{number} from {beta:.4g} to {beta * t:.3g}"
        lower = lower and f"lower the std of z{number - 1} from {std:.3g} to {std / t**0.5:.3g}"
    ways = [way for way in (lower, "" if _lowers(told, number) else more) if way]
    action = ", ".join([*ways, "or use fewer units." if ways else "use fewer units."])
    yield Finding(
        "noise-relay",
        f"{_units(count)}{_name(found, number)} only {_verb(count, 'relay')} the noise injected "
        f"into z{number - 1}, at {level.kl[level.that_are('noise')].sum():.3g} nats of KL, and "
        f"{_verb(count, 'know')} nothing of x.",
        action[0].upper() + action[1:],
    )


def _unused(found: Diagnosis, number: int, level: LevelDiagnosis) -> Iterator[Finding]:
    most = level.decoder_effect + SURE * level.decoder_effect_error
    if found.eta_dec is not None:
        # In nats: what redrawing the unit would add to the reconstruction error.
        ignored = most**2 / (2 * found.eta_dec**2) < ACTIVE_INFORMATION
    else:
        ignored = most < UNUSED * np.nanmax(level.decoder_effect, initial=0.0)
    ignored &= level.that_are("active")
    if ignored.any():
        count = int(ignored.sum())
        yield Finding(
            "unused-by-decoder",
            f"{_units(count)}{_name(found, number)} {_verb(count, 'carry')} information that the "
            f"decoder ignores, at {level.kl[ignored].sum():.3g} nats of KL.",
            "Train on, and check that the decoder gets these units and that no other path to its "
            "output (autoregression, skip connections) makes them needless.",
        )


def _idle(found: Diagnosis, number: int, level: LevelDiagnosis) -> Iterator[Finding]:
    idle = level.that_are("collapsed") & (level.prior_gap > ACTIVE_INFORMATION)
    if not idle.any():
        return
    sigma = None if found.spec is None else found.spec.sigma_levels[number - 1]
    field = "sigma" if len(found.levels) == 1 else f"sigma_{number}"
    yield Finding(
        "idle-kl",
        f"{_units(int(idle.sum()))}{_name(found, number)} collapsed to a posterior that is not the "
        f"prior: {level.kl[idle].sum():.3g} nats of KL carry nothing.",
        "Free bits or a KL target leave such units behind: count active units, not KL; "
        "without either, train longer."
        if sigma in (None, "learned", "input")
        else f"It changes no output. Leave it, or set {field}='learned', where idle units have no "
        "KL; the variance that a unit needs is another there.",
    )


def _far_from_prior(found: Diagnosis, told: Sequence[Finding]) -> Iterator[Finding]:
    level, number = found.levels[-1], len(found.levels)
    apart = level.apart(found.n)
    far = level.that_are("active") & (apart > FAR)
    if not far.any():
        return
    ratio = (level.aggregate_std / level.prior_std)[far]
    scale = float(np.sqrt(np.square(ratio).mean()))
    width, action = f"{ratio.min():.3g} to {ratio.max():.3g} times as wide", "Sample"
    whose = "the latents"
    if np.abs(ratio - 1).max() < AS_WIDE:
        width = "as wide, but elsewhere"
    else:
        action, whose = f"Multiply the latents by {1 / scale:.3g} and sample", "them"
    raised = "; or raise beta"
    if found.spec is not None:
        raised += f" from {found.spec.beta_levels[-1]:.3g}"
    if _lowers(told, number):
        raised = ""
    yield Finding(
        "far-from-prior",
        f"The aggregate posterior of {_units(int(far.sum()))}{_name(found, number)} is far from "
        f"the prior: {width}, at least {apart[far].mean():.3g} nats apart per unit. Samples of "
        "the prior miss what the decoder knows.",
        f"{action} from a prior fitted to {whose}, as latent diffusion does{raised}.",
    )


def _units(count: int) -> str:
    return count_of(count, "unit")


def _all(units: int, name: str) -> str:
    return f"All {_units(units)}{name} are" if units > 1 else f"The {_units(units)}{name} is"


def _verb(count: int, verb: str) -> str:
    if count != 1:
        return verb
    return f"{verb[:-1]}ies" if verb == "carry" else f"{verb}s"


def _name(found: Diagnosis, number: int) -> str:
    return of_level(number, len(found.levels))
