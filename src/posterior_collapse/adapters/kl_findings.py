"""What is wrong or surprising about the KL of a loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from posterior_collapse.adapters.kl import OF_ONE_WEIGHT, KLReading
from posterior_collapse.diagnosis import Finding

if TYPE_CHECKING:
    from posterior_collapse.adapters.audit import LossAudit


def both_turned(audit: LossAudit) -> bool:
    """Say whether all of a loss has the wrong sign, as an ELBO to be maximised has."""
    kl, error = audit.kl, audit.reconstruction
    return kl.kind in OF_ONE_WEIGHT and kl.weight < 0 and error.weight < 0


def of_schedule(kl: KLReading, late: tuple[str, float] | None) -> Iterator[Finding]:
    """What is said of a weight that an argument, 0 so far, makes grow to another."""
    if late is not None:
        name, weight = late
        yield Finding(
            "schedule",
            f"The KL's weight depends on {name}, which is 0 here, its default: at 0 it is "
            f"{kl.weight:.3g}, later {weight:.3g}. All that is said here is about {name}=0.",
            f"Audit the end of training: lambda y_hat, y, mean, log_var: loss(y_hat, y, mean, "
            f"log_var, {name}=99_999).",
        )


_NO_BETA = {
    "none": Finding(
        "no-kl",
        "The loss does not depend on the posterior: the KL has no weight.",
        "Add weight * KL to what is minimised; if it is warmed up, audit the final weight.",
    ),
    "other": Finding(
        "not-a-kl",
        "The posterior's term is not a multiple of a Gaussian's KL, whether its last argument is a "
        "log-variance, a log-std, a std, a variance, or the input of a softplus.",
        "The KL is 0.5 * (mean^2 + exp(log_var) - 1 - log_var), summed over latents; check the "
        "order of the arguments too.",
    ),
    "batch": Finding(
        "batch-penalty",
        "Rows whose posteriors differ cost other than their KLs, as under a penalty on the batch's "
        "covariance or mutual information: no single beta describes the loss.",
        "Audit it without that penalty, which may keep units alive or collapse them by itself; "
        "judge activity by information.",
    ),
    "samples": Finding(
        "weighted-samples",
        "Several samples of a posterior are weighed against each other, as in an importance-"
        "weighted bound (IWAE): their term is less than the KL, by how much depends on the "
        "posterior, and no single beta describes the loss.",
        "Audit it with one sample, of which the bound is the ELBO; judge activity by information.",
    ),
    "group floors": Finding(
        "group-free-bits",
        "A small KL costs nothing or is rewarded, and units or groups of them have floors, weights "
        "or priors of their own: which units live depends on how the data's modes fall to them, "
        "and no single beta describes the loss.",
        "Take one floor and weight of each unit, or a floor of all together, for one beta; judge "
        "activity by information.",
    ),
    "no log": Finding(
        "no-log-term",
        "The KL lacks its - log_var: the rest is smallest at a std of 0, not at the prior's, so no "
        "unit ever equals the prior and none counts as collapsed.",
        "Use all of it: 0.5 * (mean^2 + exp(log_var) - 1 - log_var), summed over latents.",
    ),
}
"""What is said of posterior terms of these kinds."""
_SAMPLED = Finding(
    "not-a-kl",
    "The term in samples of the posterior is not a multiple of a KL to a Gaussian prior.",
    "With a mixture or another prior, state beta yourself: the onset is that of the reconstruction "
    "term, by posterior_collapse.onset.",
)


def of_kl(audit: LossAudit, given: bool) -> Iterator[Finding]:
    """What is said of a KL's kind, sign, floor, weights and prior, where data may be given."""
    kl = audit.kl
    yield from _of_training(kl, given)
    if kl.kind in _NO_BETA:
        yield _SAMPLED if kl.kind == "other" and kl.sampled else _NO_BETA[kl.kind]
    elif kl.kind == "squared capacity":
        yield Finding(
            "squared-capacity",
            f"The KL's distance from a capacity ({kl.floor:.4g} nats of {kl.whose}) is squared: "
            "what a nat costs depends on how many are spent, so no single beta describes it.",
            "Take weight * (KL - capacity).abs(), or judge activity by information.",
        )
    elif kl.weight < 0 and not both_turned(audit):
        yield Finding(
            "kl-sign",
            f"The KL is rewarded, not penalised: its weight is {kl.weight:.6g}.",
            "Change its sign: the loss is reconstruction error plus weight * KL.",
        )
    elif kl.kind in ("free bits", "capacity"):
        yield from _of_floor(kl, audit)
    elif kl.weights is not None:
        yield Finding(
            "unit-weights",
            f"Units have different KL weights, from {min(kl.weights):.6g} to "
            f"{max(kl.weights):.6g}: the cheapest live first, and longest.",
            "Read beta as that of the cheapest unit.",
        )
    if kl.has_beta:
        yield from _of_prior(kl)


def _of_training(kl: KLReading, given: bool) -> Iterator[Finding]:
    """What is said of a KL that trains by less than its value, or that the error weighs."""
    of_mean, of_spread = kl.pulls
    if kl.kind == "uneven":
        yield Finding(
            "kl-unevenly-trained",
            f"Of the KL's weight of {kl.weight:.4g} the mean feels {kl.weight * of_mean:.4g} and "
            f"the log_var {kl.weight * of_spread:.4g}, as part of it stands behind .detach(): no "
            "single beta describes the loss.",
            "Detach both or none of them, or judge activity by information.",
        )
    elif of_mean != 1:
        said = f"The gradient has {of_mean:.4g} times the KL of the loss's value"
        if kl.weights is None:
            said = f"The KL's weight is {kl.weight / of_mean:.4g} in the loss's value and "
            said += f"{kl.weight:.4g} in its gradient"
        yield Finding(
            "kl-partly-trained",
            f"{said}, as where part of it stands behind .detach(): beta is that of what trains.",
            "Expect that beta, or take .detach() out.",
        )
    if kl.weighed_by == "error at collapse":
        yield Finding(
            "weighed-by-error",
            "The KL's weight goes by the error. What is said here holds at collapse, where the "
            "error on these data is that of the best constant output.",
            "With units that live the error is another and so is the weight: judge these by "
            "information.",
        )
    elif kl.weighed_by:
        whose, action = "the error", "Pass data=: the onset goes by the error at collapse."
        if given:
            action = (
                "No constant output was found at which the error on these data is least, as it is "
                "at collapse: check that they lie in its domain, that it is smooth, and that "
                "autograd can follow it."
            )
        if kl.weighed_by == "row's error":
            whose = "each row's own error"
            action = "Weigh it by the batch's mean error, or judge activity by information."
        yield Finding(
            "weighed-by-error",
            f"The KL's weight goes by {whose}: no single beta describes the loss.",
            action,
        )


def _of_floor(kl: KLReading, audit: LossAudit) -> Iterator[Finding]:
    floor = f"{kl.floor:.4g} nats of {kl.whose}"
    action = "Pass data= to see how many units that keeps, and judge activity by information."
    if audit.forecast is not None:
        beta = audit.forecast.spec.beta_levels[0]
        # Where more than the floor is worth paying for anyhow, it changes nothing.
        but = "" if math.isclose(beta, audit.beta or 0, rel_tol=1e-3) else f", not {audit.beta:.4g}"
        action = (
            f"On these data it keeps as many units as a plain KL of beta = {beta:.4g}{but} would; "
            "judge activity by information."
        )
    said = f"A small KL costs nothing (free bits, {floor})"
    if kl.kind == "capacity":
        said = f"A KL below a capacity ({floor}) is rewarded and one above it penalised"
    yield Finding(kl.kind.replace(" ", "-"), f"{said}: beta is that of what exceeds it.", action)


def _of_prior(kl: KLReading) -> Iterator[Finding]:
    if kl.prior_mean:
        yield Finding(
            "prior-mean",
            f"The KL is taken to a prior of mean {kl.prior_mean:.4g}.",
            "How many units live does not depend on it; draw from that prior to generate.",
        )
    if not math.isclose(kl.prior_std, 1, rel_tol=1e-3):
        yield Finding(
            "prior-std",
            f"The KL is taken to a prior of std {kl.prior_std:.4g}.",
            f"Pass eta_enc={kl.prior_std:.4g} to the spec.",
        )
    if kl.spread not in ("log-variance", "std"):
        yield Finding(
            "last-argument",
            f"The KL reads its last argument as a {kl.spread}.",
            "Check that the encoder gives that, and that z is sampled with the std it means.",
        )
