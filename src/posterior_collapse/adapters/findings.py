"""What is wrong or surprising about a loss, each with what to do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from posterior_collapse.adapters.probing import KLReading, ReconstructionReading, Sizes
from posterior_collapse.diagnosis import Finding

__all__ = ["findings"]


def findings(
    reconstruction: ReconstructionReading,
    kl: KLReading,
    reductions: Mapping[str, str | None],
    sizes: Sizes,
    value: float | None,
    expected: float | None,
) -> tuple[Finding, ...]:
    """Return what is to be said of a loss, the gravest first.

    Args:
        reconstruction: Reading of its reconstruction term.
        kl: Reading of its KL term.
        reductions: As `LossAudit.reductions`.
        sizes: Samples, features and latents.
        value: beta eta_dec^2, if there is one; with a Bernoulli decoder beta.
        expected: The same as the author thinks.
    """
    if value is not None and expected is not None and math.isclose(value, expected, rel_tol=0.01):
        # Whatever the reductions, factors make up for them.
        reductions = {**reductions, "features": None, "latents": None}
    return (
        *_of_kl(kl),
        *_of_reconstruction(reconstruction),
        *_of_reductions(reconstruction, kl, reductions, sizes),
        *_of_value(reconstruction, value, expected, sizes),
    )


def _of_kl(kl: KLReading) -> Iterator[Finding]:
    if kl.kind == "none":
        yield Finding(
            "no-kl",
            "The loss does not depend on the posterior: the KL has no weight.",
            "Add weight * KL to what is minimised; if it is warmed up, audit the final weight.",
        )
    elif kl.kind == "other":
        yield Finding(
            "not-a-kl",
            "What the loss does with the posterior is no multiple of the KL of a Gaussian.",
            "The KL is 0.5 * (mean^2 + exp(log_var) - 1 - log_var), summed over latents.",
        )
    elif kl.kind == "no log":
        yield Finding(
            "no-log-term",
            "The KL lacks its - log_var: what is left is least at a std of 0, not at the prior's, "
            "so that no unit ever equals the prior and none counts as collapsed.",
            "Take all of it: 0.5 * (mean^2 + exp(log_var) - 1 - log_var), summed over latents.",
        )
    elif kl.weight < 0:
        yield Finding(
            "kl-sign",
            f"The KL is rewarded, not penalised: its weight is {kl.weight:.6g}.",
            "Turn its sign: the loss is reconstruction error plus weight * KL.",
        )
    elif kl.kind == "free bits":
        yield Finding(
            "free-bits",
            "A small KL costs nothing (free bits): units below the floor look active for free.",
            "Read beta as that of units above the floor, and activity by information, not KL.",
        )
    elif kl.kind == "capacity":
        yield Finding(
            "capacity",
            "A KL below a capacity is rewarded and one above it penalised.",
            "Read beta as that above the capacity; below it no unit is asked to collapse.",
        )
    if kl.kind not in ("none", "no log") and not math.isclose(kl.prior_std, 1, rel_tol=1e-3):
        yield Finding(
            "prior-std",
            f"The KL is taken to a prior of std {kl.prior_std:.4g}.",
            f"Pass eta_enc={kl.prior_std:.4g} to the spec.",
        )


def _of_reconstruction(reconstruction: ReconstructionReading) -> Iterator[Finding]:
    kind, weight = reconstruction
    if kind == "none":
        yield Finding(
            "no-reconstruction",
            "The loss does not depend on the reconstruction.",
            "Check the order of the arguments: (reconstruction, target, mean, log_var).",
        )
    elif weight < 0 and kind != "other":  # the log rate of a count is best below its target
        yield Finding(
            "reconstruction-sign",
            f"The reconstruction error is rewarded: its weight is {weight:.6g}.",
            "Turn its sign: minimise the error, or minus the log likelihood.",
        )
    elif kind in ("bernoulli", "bernoulli logits"):
        yield Finding(
            "bernoulli",
            "The decoder is a Bernoulli: which units live does not go by beta * eta_dec^2, and the "
            "law that it goes by is not given yet.",
            "Diagnose the trained model for its KL and active units, which hold for it too.",
        )
    elif kind in ("absolute", "other"):
        what = "an absolute" if kind == "absolute" else "not a squared"
        yield Finding(
            f"{kind}-error",
            f"The reconstruction term is {what} error: which units live does not go by beta * "
            "eta_dec^2, and the law that it goes by is not given yet.",
            "Diagnose the trained model for its KL and active units, which hold for it too, with "
            "likelihood='other' in the spec.",
        )


def _of_reductions(
    reconstruction: ReconstructionReading,
    kl: KLReading,
    reductions: Mapping[str, str | None],
    sizes: Sizes,
) -> Iterator[Finding]:
    if reconstruction.kind == "none" or kl.kind in ("none", "other", "no log"):
        return
    features = math.prod(sizes.features)
    error = {"squared": "squared error", "absolute": "absolute error"}.get(
        reconstruction.kind, "error"
    )
    mixed = {
        ("mean", "sum"): (
            f"The {error} is a mean over {features} features and the KL a sum over latents.",
            f"{features}",
        ),
        ("sum", "mean"): (
            f"The KL is a mean over {sizes.latents} latents and the {error} a sum over features.",
            f"1/{sizes.latents}",
        ),
        ("mean", "mean"): (
            f"Both terms are means: over {features} features and over {sizes.latents} latents.",
            f"{features}/{sizes.latents}",
        ),
    }
    over = (reductions["features"] or "", reductions["latents"] or "")
    # A fitted eta_dec makes up for every factor of the squared error.
    if over in mixed and reconstruction.kind != "log squared":
        text, times = mixed[over]
        yield Finding(
            "-and-".join(over),
            text,
            f"Sum both: as it is the weight counts {times}-fold, unless a factor makes up for it.",
        )
    batch = (reductions["reconstruction_batch"], reductions["kl_batch"])
    if None not in batch and batch[0] != batch[1]:
        yield Finding(
            "batch",
            f"Over the batch the reconstruction is a {batch[0]} and the KL a {batch[1]}: beta "
            f"depends on the batch size, here {sizes.batch}.",
            "Average both over the batch.",
        )


def _of_value(
    reconstruction: ReconstructionReading,
    value: float | None,
    expected: float | None,
    sizes: Sizes,
) -> Iterator[Finding]:
    if value is None or expected is None or value <= 0:
        return
    ratio = value / expected
    if math.isclose(ratio, 1, rel_tol=0.01):
        return
    features = math.prod(sizes.features)
    factors = (
        (1.0, ""),
        (features, f"{features} features"),
        (1 / sizes.latents, f"1/{sizes.latents} latents"),
        (features / sizes.latents, f"{features} features / {sizes.latents} latents"),
        (sizes.batch, f"the batch size {sizes.batch}"),
        (1 / sizes.batch, f"1 / the batch size {sizes.batch}"),
    )
    halves = [
        (1.0, ""),
        (0.5, "a squared error without its 1/2"),
        (2.0, "a squared error with 1/2 twice, or a KL without its 1/2"),
    ]
    name = "beta * eta_dec^2"
    if reconstruction.kind.startswith("bernoulli"):
        name = "beta"
        halves[1:] = [(2.0, "a KL without its 1/2")]
    reasons = (
        ", and ".join(filter(None, (what, half)))
        for times, half in halves
        for factor, what in factors
        if math.isclose(factor * times, ratio, rel_tol=0.01)
    )
    why = next((f" ({reason})" for reason in reasons), "")
    yield Finding(
        "other-beta",
        f"{name} is {value:.6g}, {ratio:.6g} times the {expected:.6g} you expect{why}.",
        f"Multiply the KL's weight by {1 / ratio:.6g}, or expect {value:.6g}.",
    )
