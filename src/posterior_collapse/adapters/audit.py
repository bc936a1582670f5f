"""What a loss function asks for, as opposed to what its author thinks (theory section 8)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from posterior_collapse import checks
from posterior_collapse.adapters.findings import findings
from posterior_collapse.adapters.probing import KLReading, Probe, ReconstructionReading, Sizes
from posterior_collapse.diagnosis import Finding
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models.modules import keeping_buffers
from posterior_collapse.records import Record
from posterior_collapse.specs import Likelihood, VAESpec
from posterior_collapse.theory import EffectiveBeta

__all__ = ["LossAudit", "audit_loss"]

_BERNOULLI = ("bernoulli", "bernoulli logits")
_REDUCTIONS = ("features", "latents", "reconstruction_batch", "kl_batch")


@dataclass(frozen=True)
class LossAudit(Record):
    """What a loss was found to be.

    Attributes:
        value: beta eta_dec^2, the variance a data mode must exceed to keep a unit with learned
            sigma. With a Bernoulli decoder beta alone: what lives under it goes by another law,
            which is not given yet. None: the loss has no such number.
        learned_eta_dec: Whether the loss fits eta_dec to the batch; `value` is then beta alone.
        reconstruction: Kind and weight of the reconstruction term.
        kl: Kind, weight and prior of the KL term.
        reductions: `"sum"` or `"mean"` over `features`, `latents`, and the batch
            (`reconstruction_batch`, `kl_batch`); None where that could not be found out.
        expected: beta eta_dec^2 as its author thinks, if given.
        sizes: Samples, features and latents that the weights hold for.
        findings: What is wrong or surprising, the gravest first, each with an action.
    """

    value: float | None
    learned_eta_dec: bool
    reconstruction: ReconstructionReading
    kl: KLReading
    reductions: dict[str, str | None]
    expected: float | None
    sizes: Sizes
    findings: tuple[Finding, ...]

    derived: ClassVar = ("likelihood", "matches")

    @property
    def matches(self) -> bool | None:
        """Whether the value is the expected one, within 1 %; None: nothing was expected."""
        if self.expected is None:
            return None
        return self.value is not None and math.isclose(self.value, self.expected, rel_tol=0.01)

    @property
    def spec(self) -> VAESpec:
        """The objective, for `forecast`, `from_callable` and `diagnose`.

        That of a Bernoulli decoder says so, and is diagnosed but not forecast.

        Raises:
            InvalidArgumentError: The loss has no positive beta eta_dec^2.
        """
        if self.value is None or not 0 < self.value < math.inf:
            raise InvalidArgumentError(
                "loss",
                f"beta eta_dec^2 = {self.value}",
                "a loss with a positive one",
                " ".join(map(str, self.findings)) or "Repair its weights.",
            )
        return VAESpec(
            latent_dim=self.sizes.latents,
            beta=self.value,
            eta_dec="learned" if self.learned_eta_dec else 1.0,
            eta_enc=self.kl.prior_std,
            sigma="input",
            likelihood=self.likelihood,
        )

    @property
    def likelihood(self) -> Likelihood:
        """What the reconstruction term is the negative log of; "other": none that is known."""
        if self.reconstruction.kind in _BERNOULLI:
            return "bernoulli"
        return "gaussian" if self.reconstruction.kind in ("squared", "log squared") else "other"

    @property
    def text(self) -> str:
        """The result in sentences."""
        if self.value is None:
            first = "This loss has no beta * eta_dec^2."
        elif self.learned_eta_dec:
            first = f"beta = {self.value:.6g}, with eta_dec fitted to the batch."
        elif self.likelihood == "bernoulli":
            first = f"beta = {self.value:.6g}, with a Bernoulli decoder."
        else:
            first = (
                f"beta * eta_dec^2 = {self.value:.6g}: this loss is that of beta = "
                f"{self.value:.6g} at eta_dec = 1."
            )
        return " ".join([first, *map(str, self.findings)])

    def __repr__(self) -> str:
        return f"LossAudit({self.text})"


def audit_loss(
    loss: Callable[..., Any] | EffectiveBeta,
    *,
    features: int | Sequence[int],
    latents: int,
    batch_size: int = 8,
    log_var: bool = True,
    beta: float | None = None,
    eta_dec: float = 1.0,
) -> LossAudit:
    """Return what beta a loss really has, found by calling it on made-up tensors.

    Args:
        loss: A function `loss(reconstruction, target, mean, log_var)` of batches in float64, as
            training calls it, or what `effective_beta` returned for its reductions. Values made up
            for reconstruction and target lie in (0, 1). A sequence or a mapping may be returned,
            with the total first or under `"loss"`.
        features: Features of a sample, or its shape.
        latents: Number of latent units.
        batch_size: Samples per batch in training; it matters if the reductions over it differ.
        log_var: Whether the last argument is a log-variance in nats; False: a std.
        beta: Beta as you think it is, to be compared.
        eta_dec: Decoder std as you think it is; a Bernoulli and a fitted std have their own.

    Raises:
        InvalidArgumentError: The loss raises, is not finite, is random or gives no single number.

    Source:
        theory section 8: `a |y - mu|^2 + b KL` is beta eta_dec^2 = b / (2 a). With binary
        cross-entropy, `a BCE + b KL` is beta = b / a.

    Example:
        >>> from torch.nn.functional import mse_loss
        >>> def loss(y_hat, y, mean, log_var):
        ...     kl = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(-1).mean()
        ...     return mse_loss(y_hat, y) + kl
        >>> found = audit_loss(loss, features=784, latents=16, beta=1.0)
        >>> round(found.value, 6), found.matches
        (392.0, False)
        >>> print(found.findings[0].text)
        The squared error is a mean over 784 features and the KL a sum over latents.
    """
    shape = tuple(features) if isinstance(features, Sequence) and features else (features,)
    sizes = Sizes(
        checks.whole("batch_size", batch_size, least=1),
        tuple(checks.whole("features", size, least=1) for size in shape),
        checks.units("latents", latents),
    )
    if isinstance(loss, EffectiveBeta):
        reconstruction = ReconstructionReading("squared", loss.squared_error_weight)
        kl, reductions = KLReading("gaussian", loss.kl_weight), dict.fromkeys(_REDUCTIONS)
    else:
        # As in training, whose mode a loss may ask for, but its networks learn nothing from it.
        with keeping_buffers(loss):
            probe = _probe(loss, sizes, log_var)
            reconstruction, kl = probe.reconstruction(sizes), probe.kl(sizes)
            _check_total(probe, reconstruction, kl)
            reductions = _reductions(probe, sizes)
    value = _value(reconstruction, kl, math.prod(sizes.features))
    variance = checks.positive("eta_dec", eta_dec) ** 2
    # A Bernoulli and a fitted std leave no eta_dec to the author.
    if reconstruction.kind in ("log squared", *_BERNOULLI):
        variance = 1.0
    expected = None if beta is None else checks.positive("beta", beta) * variance
    return LossAudit(
        value=value,
        learned_eta_dec=reconstruction.kind == "log squared",
        reconstruction=reconstruction,
        kl=kl,
        reductions=reductions,
        expected=expected,
        sizes=sizes,
        findings=findings(reconstruction, kl, reductions, sizes, value, expected),
    )


def _probe(loss: Any, sizes: Sizes, log_var: bool) -> Probe:
    """Return the probe, unless the loss's last argument is not what the caller says."""
    if not callable(loss):
        raise InvalidArgumentError(
            "loss",
            type(loss).__name__,
            "a function of (reconstruction, target, mean, log_var), or an EffectiveBeta",
            "Wrap yours: lambda y_hat, y, mean, log_var: ...",
        )
    probe, swapped = Probe(loss, log_var=log_var), Probe(loss, log_var=not log_var)
    if probe.kl(sizes).kind == "other" and _is_gaussian(swapped, sizes):
        raise InvalidArgumentError(
            "log_var",
            f"{log_var} for a loss of a {'std' if log_var else 'log-variance'}",
            str(not log_var),
            f"Pass log_var={not log_var}.",
        )
    return probe


def _check_total(probe: Probe, reconstruction: ReconstructionReading, kl: KLReading) -> None:
    """Refuse a part of the loss that was returned where the total should be."""
    if probe.parts is None or "none" not in (reconstruction.kind, kl.kind):
        return
    lacking = "posterior" if kl.kind == "none" else "reconstruction"
    raise InvalidArgumentError(
        "loss",
        f"{probe.parts}, the part read of which does not depend on the {lacking}",
        'the total first, or under "loss"',
        "Return what training minimises, e.g. lambda *args: sum(loss(*args)[:2]).",
    )


def _is_gaussian(probe: Probe, sizes: Sizes) -> bool:
    try:
        return probe.kl(sizes).kind == "gaussian"
    except InvalidArgumentError:
        return False


def _reductions(probe: Probe, sizes: Sizes) -> dict[str, str | None]:
    """Return how each term is reduced, from how its weight grows with each size."""
    # With one sample and one feature more, a loss that folds its input into rows of known length
    # fails; more samples could make up for the surplus.
    one = sizes._replace(batch=1)
    *outer, last = sizes.features
    wider = one._replace(features=(*outer, last + 1))
    longer = one._replace(latents=sizes.latents + 1)
    more = sizes._replace(batch=2 * sizes.batch)
    powers = {
        "features": _power(probe.reconstruction, one, wider, 1 + 1 / last),
        "latents": _power(probe.kl, one, longer, 1 + 1 / sizes.latents),
        "reconstruction_batch": _power(probe.reconstruction, sizes, more, 2.0),
        "kl_batch": _power(probe.kl, sizes, more, 2.0),
    }
    # Weights are those of sums over features and latents, and of means over the batch.
    of_sum = {"reconstruction_batch": 1, "kl_batch": 1}
    return {over: _reduction(power, of_sum.get(over, 0)) for over, power in powers.items()}


def _power(
    read: Callable[[Sizes], ReconstructionReading | KLReading],
    sizes: Sizes,
    other: Sizes,
    ratio: float,
) -> float | None:
    """Return p such that the weight grows like size^p; None if the loss takes no other size."""
    try:
        here, there = read(sizes), read(other)
    except InvalidArgumentError:
        return None
    if there.kind != here.kind or here.weight * there.weight <= 0:
        return None
    return math.log(there.weight / here.weight) / math.log(ratio)


def _reduction(power: float | None, of_sum: int) -> str | None:
    """Return the reduction whose weight grows like size^of_sum (sum) or by one power less."""
    if power is None or abs(power - round(power)) > 0.05:
        return None
    return {of_sum: "sum", of_sum - 1: "mean"}.get(round(power))


def _value(reconstruction: ReconstructionReading, kl: KLReading, features: int) -> float | None:
    if kl.kind in ("other", "no log") or reconstruction.weight == 0:
        return None
    ratio = kl.weight / reconstruction.weight
    factors = {"squared": 0.5, "log squared": features / 2, **dict.fromkeys(_BERNOULLI, 1.0)}
    factor = factors.get(reconstruction.kind)
    return None if factor is None else factor * ratio
