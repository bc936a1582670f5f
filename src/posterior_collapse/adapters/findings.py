"""What is wrong or surprising about a loss, each with what to do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from posterior_collapse.adapters.kl_findings import both_turned, of_kl, of_schedule
from posterior_collapse.adapters.probing import ROLES
from posterior_collapse.checks import Likelihood
from posterior_collapse.diagnosis import Finding
from posterior_collapse.errors import PosteriorCollapseError, count_of
from posterior_collapse.theory.forecasting import FEW_ROWS

if TYPE_CHECKING:
    from posterior_collapse.adapters.audit import LossAudit

DECODERS: dict[Likelihood, str] = {
    "bernoulli": "a Bernoulli",
    "poisson": "a Poisson",
    "negative-binomial": "a negative binomial",
    "categorical": "a categorical",
}
"""What is said of decoders that are not Gaussian."""


def findings(
    audit: LossAudit,
    refusal: PosteriorCollapseError | None = None,
    *,
    given: bool = False,
    late: tuple[str, float] | None = None,
) -> tuple[Finding, ...]:
    """Return what is to be said of a loss, the gravest first.

    Args:
        audit: What calling the loss has shown.
        refusal: Why there is no forecast for the data that were passed.
        given: Whether data were passed.
        late: Of a loss with a schedule: the argument that was 0 here, and the KL's weight in the
            end, when that argument is large.
    """
    return (
        *_of_gradient(audit),
        *_of_order(audit),
        *_of_signs(audit),
        *of_schedule(audit.kl, late),
        *of_kl(audit, given),
        *_of_own(audit),
        *_of_reconstruction(audit, given),
        *_of_reductions(audit),
        *_of_value(audit),
        *_of_units(audit),
        *_of_refusal(refusal),
    )


def _of_gradient(audit: LossAudit) -> Iterator[Finding]:
    """What a loss computes and does not train."""
    for term, roles in (("error", ("reconstruction",)), ("KL", ("mean", "log_var"))):
        cut = [role for role in roles if role in audit.cut]
        if cut:
            yield Finding(
                f"{term.lower()}-not-trained",
                f"The {term} is computed, but no gradient of it reaches the {' and '.join(cut)}: "
                "training ignores it there, whatever its weight.",
                "Take .detach(), .item(), torch.no_grad() and the like out of it, and draw samples "
                "by rsample().",
            )


def _of_order(audit: LossAudit) -> Iterator[Finding]:
    if audit.order != ROLES:
        yield Finding(
            "order",
            f"The arguments make sense in the order ({', '.join(audit.order)}), and were read so.",
            f"Check that your training calls it so; elsewhere here the order is "
            f"({', '.join(ROLES)}).",
        )


def _of_signs(audit: LossAudit) -> Iterator[Finding]:
    if both_turned(audit):
        yield Finding(
            "signs",
            "Error and KL are both rewarded, as in an ELBO, which is to be maximised.",
            "Minimise its negative; all else said here is about that.",
        )


def _of_own(audit: LossAudit) -> Iterator[Finding]:
    if audit.reconstruction.own:
        yield Finding(
            "own-parameters",
            f"{count_of(audit.reconstruction.own, 'parameter')} of the loss's own may train with "
            "the model and weigh its terms: what is said here holds for the loss as it is now.",
            "Audit the loss after training too, or freeze what is its own (requires_grad_(False)).",
        )


def _of_reconstruction(audit: LossAudit, given: bool) -> Iterator[Finding]:
    reconstruction, turned = audit.reconstruction, both_turned(audit)
    by_it = "What is said here of your data takes that into account."
    if audit.forecast is None:
        by_it = "Nothing is said here of your data."
    seen = by_it if given else "Pass data= to see how many units live."
    kind, weight, likelihood = reconstruction.kind, reconstruction.weight, reconstruction.likelihood
    if reconstruction.clipped:
        yield Finding(
            "clipped-output",
            "The loss cuts off reconstructions outside a range, as clamp and relu do: no gradient "
            "reaches the decoder from there. What is said here holds within the range.",
            "Clip what is shown, not what is trained, or end the decoder in a sigmoid.",
        )
    if kind == "none":
        yield Finding(
            "no-reconstruction",
            "The loss does not depend on the reconstruction.",
            "Check the order of the arguments: (reconstruction, target, mean, log_var).",
        )
    elif reconstruction.masked is not None and reconstruction.ignored:
        yield Finding(
            "masked-targets",
            "In these data the error weighs rows by how many of their positions count, as a mean "
            "over each row's own does: no single beta describes it, and which units live depends "
            "on the loss's own scores and curvature.",
            "Sum over positions, and average over the batch.",
        )
    elif reconstruction.masked is not None:
        yield Finding(
            "masked-targets",
            f"On targets {reconstruction.masked} the error's weight differs from that on made-up "
            "ones, as under a mask of zeros, of missing values or of what exceeds a limit, and in "
            "a zero-inflated likelihood: no beta * eta_dec^2 describes it, and which units live "
            "depends on what the mask leaves.",
            seen,
        )
    elif reconstruction.weights is not None:
        if kind == "squared":  # of others a weight is no scale of the data
            seen = "They keep" if given else "Pass data= for what they keep; it is"
            seen += (
                " what unweighted data would, each feature multiplied by the root of its weight."
            )
        yield Finding(
            "feature-weights",
            f"The features' weights differ, from {reconstruction.weights.min():.4g} to "
            f"{reconstruction.weights.max():.4g}: no one eta_dec stands for them.",
            seen,
        )
    elif weight < 0 and kind != "other" and not turned:  # of others the slope may have either sign
        yield Finding(
            "reconstruction-sign",
            f"The reconstruction error is rewarded: its weight is {weight:.6g}.",
            "Change its sign: minimise the error, or minus the log likelihood.",
        )
    elif likelihood in DECODERS:
        yield Finding(
            likelihood,
            f"The decoder is {DECODERS[likelihood]}, and gives {reconstruction.link}: there is no "
            "eta_dec, and which units live depends on the variance of the data in units of this "
            "likelihood's own noise.",
            by_it if given else "Forecast with the spec, which says so, or pass data=.",
        )
        yield from _of_classes(audit, given)
    elif kind == "absolute":
        yield Finding(
            "absolute-error",
            "The reconstruction term is an absolute error, which has no curvature: no onset of "
            "collapse is known for it.",
            "Take a smooth one, such as torch.nn.functional.huber_loss, or judge the trained model "
            "by its information, with likelihood='other' in the spec.",
        )
    elif kind == "other" and reconstruction.axis is not None:
        yield Finding(
            "multinomial",
            "Rows of these data are not one-hot, so that the cross-entropy counts classes, as a "
            "multinomial does: which units live depends on the loss's own scores and curvature.",
            by_it,
        )
    elif kind == "other":
        why = "The reconstruction term is not a squared error and of no likelihood known here"
        if reconstruction.clipped:
            why = "The mean of these data lies where reconstructions are cut off"
        onset = (
            "Pass data= for its forecast, or its reconstruction term to posterior_collapse.onset."
        )
        yield Finding(
            "other-error",
            f"{why}: which units live goes by the loss's own scores and curvature.",
            by_it if given else onset,
        )


def _of_classes(audit: LossAudit, given: bool) -> Iterator[Finding]:
    """What is to be said of tokens: padding, and a decoder that sees those before each."""
    ignored, beta = audit.reconstruction.ignored, audit.value
    if ignored:
        which = ", ".join(map(str, ignored[:5])) + ", ..." * (len(ignored) > 5)
        yield Finding(
            "ignored-class",
            f"Targets of class {which} count nothing, as under ignore_index or a mask.",
            "What is said here of your data is about the others."
            if given
            else "Pass data=: a mean over the others depends on how many there are.",
        )
    # Only of a sequence do some come before each: classes of pixels stand in rows and columns. Of a
    # floor what it leaves free pays at any beta.
    in_order = len(audit.sizes.features) == 2 and positions(audit) > 1
    if in_order and beta is not None and beta > 0 and not audit.kl.has_floor:
        yield Finding(
            "autoregressive",
            "What data pay for is that of a decoder which sees z alone. One that also sees the "
            "classes before each (teacher forcing) gains nothing by z from beta = 1 on, if it "
            "predicts as well as they allow.",
            f"For such a decoder compare {beta:.6g} with 1, and diagnose the trained model.",
        )


def positions(audit: LossAudit) -> int:
    """How many a sample has; one with a categorical whose classes are not known apart."""
    shape, axis = audit.sizes.features, audit.reconstruction.axis
    return 1 if axis is None else math.prod(shape) // shape[axis]


def _of_reductions(audit: LossAudit) -> Iterator[Finding]:
    reconstruction, kl, sizes = audit.reconstruction, audit.kl, audit.sizes
    if reconstruction.kind == "none" or not kl.has_beta:
        return
    usual = 0.5 if reconstruction.kind == "squared" and not audit.learned_eta_dec else 1.0
    made_up_for = audit.value is not None and math.isclose(audit.value, usual, rel_tol=1e-6)
    if not made_up_for and audit.matches is not True:
        yield from _of_means(audit)
    batch = (audit.reductions["reconstruction_batch"], audit.reductions["kl_batch"])
    if None in batch or batch[0] == batch[1]:
        return
    beta = audit.beta
    text = f"Over the batch the reconstruction is a {batch[0]} and the KL a {batch[1]}"
    so = f": beta depends on the batch size, here {sizes.batch}."
    if audit.value is not None and beta is not None and beta > 0:
        one = sizes.batch / beta if batch[1] == "sum" else sizes.batch * beta
        if math.isclose(beta, 1, rel_tol=1e-6):
            so = ", whose factor makes up for it: beta is exactly 1 at the batch size "
            so += f"{sizes.batch}."
        elif one > 1 and math.isclose(one, round(one), rel_tol=1e-6):
            so += f" It is exactly 1 at a batch size of {round(one)}."
    action = (
        "Average both over the batch, as the last batch may be smaller; to audit it as it is, give "
        "the batch size that you train with (batch_size=, --batch-size)."
    )
    yield Finding("batch", text + so, action)


def _of_means(audit: LossAudit) -> Iterator[Finding]:
    reconstruction, sizes = audit.reconstruction, audit.sizes
    if reconstruction.masked is not None and reconstruction.ignored:
        return  # over how many positions goes by the row
    if reconstruction.kind == "log squared":
        return  # a fitted eta_dec makes up for every factor of the squared error
    features, what, latents = str(math.prod(sizes.features)), "features", sizes.latents
    if reconstruction.axis is not None:
        features, what = str(positions(audit)), "positions"
    # Over some sides of a sample, such as an image's, or what padding leaves on average.
    if 1 < audit.averaged < int(features):
        features, what = _number(audit.averaged), f"of {features} {what}"
    error = "error"
    if reconstruction.kind in ("squared", "absolute"):
        error = f"{reconstruction.kind} error"
    over = audit.reductions["features"], audit.reductions["latents"]
    if over == ("mean", None):  # as of latents that make an image, to which none can be added
        text = f"The {error} is a mean over {features} {what}."
        times = f"{features} (or, if the KL is a mean too, {features}/{latents})"
    elif over == ("mean", "sum"):
        text = f"The {error} is a mean over {features} {what} and the KL a sum over latents."
        times = f"{features}"
    elif over == ("sum", "mean"):
        text = f"The KL is a mean over {latents} latents and the {error} a sum over {what}."
        times = f"1/{latents}"
    elif over == ("mean", "mean"):
        text = f"Both terms are means: over {features} {what} and over {latents} latents."
        times = f"{features}/{latents}"
    else:
        return
    yield Finding(
        f"{over[0]}-and-{over[1]}" if over[1] else "mean",
        text,
        f"Sum both: as written, the weight counts {times}-fold, unless a factor makes up for it.",
    )


def _number(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else f"{value:.4g}"


def _of_value(audit: LossAudit) -> Iterator[Finding]:
    value, expected, sizes = audit.beta, audit.expected, audit.sizes
    if value is None or expected is None or value <= 0 or audit.matches:
        return
    ratio = value / expected
    features = audit.averaged if audit.averaged > 1 else math.prod(sizes.features)
    factors = (
        (1.0, ""),
        (features, f"{_number(features)} features"),
        (1 / sizes.latents, f"1/{sizes.latents} latents"),
        (features / sizes.latents, f"{_number(features)} features / {sizes.latents} latents"),
        (sizes.batch, f"the batch size {sizes.batch}"),
        (1 / sizes.batch, f"1 / the batch size {sizes.batch}"),
    )
    name, halves = "beta", {1.0: "", 2.0: "a KL without its 1/2"}
    if audit.likelihood == "gaussian" and not audit.learned_eta_dec:
        name = "beta * eta_dec^2"
        halves = {
            1.0: "",
            0.5: "a squared error without its 1/2",
            2.0: "a squared error with 1/2 twice, or a KL without its 1/2",
        }
    reasons = (
        ", and ".join(filter(None, (what, half)))
        for times, half in halves.items()
        for factor, what in factors
        if math.isclose(factor * times, ratio, rel_tol=0.01)
    )
    why = next((f" ({reason})" for reason in reasons), "")
    yield Finding(
        "other-beta",
        f"{name} is {value:.6g}, {ratio:.6g} times the {expected:.6g} you expect{why}.",
        f"Multiply the KL's weight by {1 / ratio:.6g}, or expect {value:.6g}.",
    )


def _of_refusal(refusal: PosteriorCollapseError | None) -> Iterator[Finding]:
    if refusal is not None:
        text = f"There is no forecast for these data: {refusal.argument} has {refusal.got}."
        yield Finding("no-forecast", text, refusal.action)


def _of_units(audit: LossAudit) -> Iterator[Finding]:
    forecast = audit.forecast
    if forecast is None:
        return
    few = [note for note in forecast.notes if note.startswith(FEW_ROWS)]
    if few:
        yield Finding(
            "few-rows",
            f"{few[0][0].upper()}{few[0][1:]}.",
            "Take no more units from these data than are stronger, or pass more rows.",
        )
    active, modes = forecast.n_active, int(np.count_nonzero(forecast.spectrum))
    if active < min(audit.sizes.latents, modes):
        code, wanted = ("some-collapse", None) if active else ("all-collapse", 1)
        yield Finding(code, str(audit.units_kept), audit.advice(wanted))
