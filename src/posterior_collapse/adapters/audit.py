"""What a loss function asks for, as opposed to what its author thinks (theory section 8)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from posterior_collapse import checks
from posterior_collapse.adapters.bearing import forecast_of
from posterior_collapse.adapters.findings import DECODERS, findings
from posterior_collapse.adapters.kl import KLReading, read_kl
from posterior_collapse.adapters.on_data import with_masks, with_shape
from posterior_collapse.adapters.probing import ROLES, Sizes
from posterior_collapse.adapters.pulls import trained
from posterior_collapse.adapters.reconstruction import (
    TOLERANCE,
    ReconstructionReading,
    plain,
)
from posterior_collapse.adapters.reductions import reductions
from posterior_collapse.adapters.terms import Terms, read_terms
from posterior_collapse.data.samples import read
from posterior_collapse.diagnosis import Finding
from posterior_collapse.diagnosis.conclusions import is_attainable
from posterior_collapse.diagnosis.onsets import Onset
from posterior_collapse.diagnosis.rows import device_of
from posterior_collapse.errors import (
    DataError,
    InvalidArgumentError,
    NotSolvedError,
    PosteriorCollapseError,
    UnboundedObjectiveError,
    count_of,
)
from posterior_collapse.models.global_state import recording, undisturbed
from posterior_collapse.models.modules import keeping_state
from posterior_collapse.moments import Moments
from posterior_collapse.records import Record
from posterior_collapse.specs import Likelihood, VAESpec
from posterior_collapse.theory import EffectiveBeta, Forecast

LATE = 10**6 - 1
"""A step that is beyond a warm-up, and the last of a cycle."""


@dataclass(frozen=True)
class LossAudit(Record):
    """What a loss was found to be.

    Attributes:
        value: beta eta_dec^2, the variance a data mode must exceed to keep a unit with learned
            sigma. With a decoder of another known likelihood beta alone, which has no eta_dec.
            None: the loss has no such number.
        learned_eta_dec: Whether eta_dec is fitted, to each batch or by training a parameter of the
            loss's own; `value` is then beta alone.
        reconstruction: Kind and weight of the reconstruction term.
        kl: Kind, weight and prior of the KL term.
        reductions: `"sum"` or `"mean"` over `features`, `latents`, and the batch
            (`reconstruction_batch`, `kl_batch`); None where that could not be found out.
        expected: beta eta_dec^2 as its author thinks, if given.
        sizes: Samples, features and latents that the weights hold for.
        findings: What is wrong or surprising, the gravest first, each with an action.
        order: Roles of its arguments, in their order.
        forecast: What the loss keeps on the data, if data were given: `forecast.onset /
            forecast.spec.beta` is how many times its weight the KL may have before collapse is a
            local optimum, for any network whose decoder sees z alone; where a KL up to a floor is
            free, no weight is enough.
        onset: Where its likelihood is "other" and data were given: what each mode is worth.
        cut: Roles that the loss's value depends on and its gradient does not reach, as behind
            `.detach()`: what is computed of them is not trained.
        averaged: Features of a sample (of a categorical: positions) that the error is a mean over;
            on data with padding so many on average.
    """

    value: float | None
    learned_eta_dec: bool
    reconstruction: ReconstructionReading
    kl: KLReading
    reductions: dict[str, str | None]
    expected: float | None
    sizes: Sizes
    findings: tuple[Finding, ...]
    order: tuple[str, ...] = ROLES
    forecast: Forecast | None = None
    onset: Onset | None = None
    cut: tuple[str, ...] = ()
    averaged: float = 1

    derived: ClassVar = ("likelihood", "link", "beta", "weight", "matches")

    @property
    def matches(self) -> bool | None:
        """Whether the value is the expected one, within 1 %; None: nothing was expected."""
        if self.expected is None:
            return None
        return self.beta is not None and math.isclose(self.beta, self.expected, rel_tol=0.01)

    @property
    def beta(self) -> float | None:
        """What the spec's beta is: `value`, or the KL's weight beside a loss that has none."""
        if self.value is not None or self.cut or not self.kl.has_beta:
            return self.value
        if self.reconstruction.kind == "none":
            return None
        # The onset is in units of one row's loss.
        rows = self.sizes.batch if self.reductions["reconstruction_batch"] == "sum" else 1
        return plain(self.kl.weight / rows)

    @property
    def likelihood(self) -> Likelihood:
        """What the reconstruction term is the negative log of; "other": none that is known."""
        return self.reconstruction.likelihood

    @property
    def link(self) -> str | None:
        """What the decoder gives: "means", "logits", "probabilities", "log rates", ..."""
        return self.reconstruction.link

    @property
    def weight(self) -> float | None:
        """Factor of the KL as it stands in the loss; None where it cannot be seen."""
        over = (self.reductions["latents"], self.reductions["kl_batch"])
        if None in over or self.kl.weights is not None or self.kl.weighed_by:
            return None
        weight = self.kl.weight * (self.sizes.latents if over[0] == "mean" else 1)
        return plain(weight / (self.sizes.batch if over[1] == "sum" else 1))

    @property
    def spec(self) -> VAESpec:
        """The objective, for `forecast`, `from_callable` and `diagnose`.

        Raises:
            InvalidArgumentError: The loss has no positive beta, or, with a KL that costs nothing up
                to a floor, one that follows from data which were not given.
        """
        if self.forecast is not None:
            assert isinstance(self.forecast.spec, VAESpec)
            return self.forecast.spec
        if self.kl.has_floor:
            raise InvalidArgumentError(
                "loss",
                f"a KL that costs nothing up to {self.kl.floor:.4g} nats",
                "data, on which it depends what beta that comes to",
                "Pass data= to audit_loss.",
            )
        return _spec(self)

    def advice(self, active: int | None = None) -> str:
        """Return how to turn the KL's weight so that a linear model keeps `active` units.

        Args:
            active: How many; None: all that the loss's model has, as far as the data have modes.

        Raises:
            InvalidArgumentError: No data were given, or none that the loss has a forecast on; it
                has no positive beta; or no such number of units.
        """
        forecast, kl, weight = self.forecast, self.kl, self.weight
        if forecast is None:
            why = [found for found in self.findings if found.code == "no-forecast"]
            if not why:
                _ = self.spec  # refuses a loss without a beta, which no data would help
            got, do = ("data without one", str(why[0])) if why else ("nothing", "Pass data=.")
            raise InvalidArgumentError("data", got, "data with a forecast to advise by", do)
        level, beta = forecast.levels[0], float(forecast.spec.beta_levels[0])
        units, modes = len(level.status), int(np.count_nonzero(forecast.spectrum))
        wanted = min(units, modes) if active is None else checks.count("active", active)
        has = count_of(modes, "mode")
        if wanted > modes:
            return f"The data have only {has}: no weight keeps {count_of(wanted, 'unit')}."
        wider = f"Give the model at least {wanted} latent units." if wanted > units else ""
        if wider and (kl.has_floor or kl.weights is not None):
            return wider  # what further units of such a loss cost is not known
        if wanted <= forecast.n_active:
            return "Nothing needs to change."
        if kl.has_floor:
            return (
                f"Raise the floor of {kl.floor:.4g} nats, or lower the KL's weight until more than "
                "the floor is worth paying for."
            )
        learned = forecast.spec.eta_levels[0] == "learned"
        if learned:
            changes = [c for c in forecast.advice(wanted).changes if c.parameter == "beta"]
            least = changes[0].value if changes else math.nan
        elif wider:
            least = beta * float(np.sort(forecast.spectrum)[::-1][wanted - 1] / level.threshold[0])
        else:
            least = float(np.sort(level.critical_beta)[::-1][wanted - 1])
        if wider and self.reductions["latents"] == "mean":
            beta *= units / wanted  # over more of them
        if wider and not least <= beta:
            return wider
        if not least > 0:
            return f"No weight of the KL keeps {count_of(wanted, 'unit')}."
        # Of a learned eta_dec not far below there is no minimum any more.
        shown = "{:.6g}".format if learned else lambda value: f"{_below(value):.3g}"
        factor = shown(least / beta)
        whom = "in a linear model" if is_attainable(forecast) else "by the quadratic approximation"
        kept = f"to keep {count_of(wanted, 'unit')} {whom}; a network may keep fewer"
        if weight is None or weight < 0:  # of a loss whose signs are both turned
            turn = f"Multiply your KL weight by {factor} {kept}."
        else:
            turn = (
                f"Lower your weight from {weight:.6g} to {shown(weight * least / beta)} (multiply "
                f"it by {factor}) {kept}."
            )
        return f"{wider} {turn}".lstrip()

    @property
    def units_kept(self) -> str | None:
        """How many units it keeps on its data, and how much more it bears, in a sentence."""
        forecast, kl = self.forecast, self.kl
        if forecast is None:
            return None
        times, units = forecast.onset / forecast.spec.beta_levels[0], forecast.spec.dims[0]
        who = "a linear model" if is_attainable(forecast) else "the quadratic approximation"
        kept = f"On these data {who} keeps {forecast.n_active} of {count_of(units, 'unit')}"
        if kl.has_floor:
            said = "costs nothing" if kl.kind == "free bits" else "is rewarded"
            each = " of each unit" if kl.floor_over == "unit" else ""
            return (
                f"{kept}; no weight collapses all, for a KL up to {kl.floor:.4g} nats{each} {said}."
            )
        return (
            f"{kept}; above {times:.3g} times the weight total collapse is stable, whatever "
            "the network, if its decoder sees z alone."
        )

    @property
    def headline(self) -> str:
        """What beta it has, in a sentence."""
        if self.beta is None:
            return "This loss has no beta * eta_dec^2."
        if self.learned_eta_dec:
            return f"beta = {self.beta:.6g}, with a fitted eta_dec."
        if self.likelihood == "other":
            return f"beta = {self.beta:.6g}, in units of its own reconstruction loss."
        if self.likelihood != "gaussian":
            return f"beta = {self.beta:.6g}, with {DECODERS[self.likelihood]} decoder."
        return (
            f"beta * eta_dec^2 = {self.beta:.6g}: this loss has beta = {self.beta:.6g} at "
            "eta_dec = 1."
        )

    @property
    def text(self) -> str:
        """The result in sentences."""
        said = " ".join([self.headline, *map(str, self.findings)])
        kept = self.units_kept
        return said if kept is None or kept in said else f"{said} {kept}"

    def __repr__(self) -> str:
        return f"LossAudit({self.text})"


def audit_loss(
    loss: Callable[..., Any] | EffectiveBeta,
    *,
    features: int | Sequence[int] | None = None,
    latents: int,
    data: Any = None,
    batch_size: int = 8,
    log_var: bool = True,
    beta: float | None = None,
    eta_dec: float = 1.0,
) -> LossAudit:
    """Return what beta a loss really has, found by calling it on made-up tensors.

    Args:
        loss: A function `loss(reconstruction, target, mean, log_var)` of batches in float64, as
            training calls it, or what `effective_beta` returned for its reductions. Another order
            of these four is detected. Made-up reconstructions lie in (0, 1), and so do the targets,
            or they are counts, one-hot or class numbers, whichever the loss takes. A
            sequence or a mapping may be returned, with the total first or under `"loss"` (or
            `"total_loss"`, `"total"`), or an object that has it so.
        features: Number of features of a sample, or the shape of its reconstruction; None: that of
            the data.
        latents: Number of latent units.
        data: Data for a forecast and advice: as `forecast` takes them, but no `Moments`; or class
            numbers.
        batch_size: Samples per batch in training; it matters if the reductions over it differ.
        log_var: Whether the last argument is a log-variance in nats (or what gives a std by exp or
            softplus, which is found out); False: a std or a variance.
        beta: Beta that you expect, to compare.
        eta_dec: Decoder std that you expect; a Bernoulli and a fitted std have their own.

    Raises:
        InvalidArgumentError: The loss raises, is not finite, is random or gives no single number.
        DataError: The data do not fit.

    Source:
        theory section 8: `a |y - mu|^2 + b KL` is beta eta_dec^2 = b / (2 a). With any other
        negative log-likelihood, `a NLL + b KL` is beta = b / a.

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
    if features is None:
        data, features = with_shape(data)
    shape = tuple(features) if isinstance(features, Sequence) and features else (features,)
    sizes = Sizes(
        checks.whole("batch_size", batch_size, least=1),
        tuple(checks.whole("features", size, least=1) for size in shape),
        checks.units("latents", latents),
    )
    checks.flag("log_var", log_var)
    variance = checks.positive("eta_dec", eta_dec) ** 2
    wanted = None if beta is None else checks.positive("beta", beta)
    if not (isinstance(loss, EffectiveBeta) or callable(loss)):
        raise InvalidArgumentError(
            "loss",
            type(loss).__name__,
            "a function of (reconstruction, target, mean, log_var), or an EffectiveBeta",
            "Wrap yours: lambda y_hat, y, mean, log_var: ...",
        )
    device = torch.device("cpu") if isinstance(loss, EffectiveBeta) else device_of(loss)
    # As in training, whose mode a loss may ask for, but its networks learn nothing from it.
    with keeping_state(loss), undisturbed(device), recording():
        if isinstance(loss, EffectiveBeta):
            kind = "squared" if loss.likelihood == "gaussian" else loss.likelihood
            error = ReconstructionReading(kind, loss.squared_error_weight)
            found = Terms(error, KLReading("gaussian", loss.kl_weight), sizes)
        else:
            found = read_terms(loss, sizes, log_var)
        if data is not None and not isinstance(data, Moments):
            data = read(data).collected()  # of what may be read once only
        return _audit(found, wanted, variance, data)


def _audit(found: Terms, beta: float | None, variance: float, data: Any) -> LossAudit:
    averaged: float
    reduced, averaged = reductions(found)
    usual, late, made_up = found.reconstruction.weight, _counted(found), found.kl.weight
    found, cut = trained(found)
    reconstruction, kl, sizes, _ = found = with_masks(found, data)
    if averaged > 1 and reconstruction.ignored:
        averaged = plain(averaged * usual / reconstruction.weight)
    if reconstruction.kind != "squared" or reconstruction.fits_std:
        variance = 1.0  # only a Gaussian leaves eta_dec to the author, unless it is fitted
    expected = None if beta is None else beta * variance
    audit = LossAudit(
        value=None if cut else _value(reconstruction, kl, math.prod(sizes.features)),
        learned_eta_dec=reconstruction.fits_std,
        reconstruction=reconstruction,
        kl=kl,
        reductions=reduced,
        expected=expected,
        sizes=sizes,
        findings=(),
        order=found.order,
        cut=cut,
        averaged=averaged,
    )
    refusal: PosteriorCollapseError | None = None
    if data is not None and audit.beta is not None and 0 < audit.beta < math.inf:
        try:
            bears, worth = forecast_of(_spec(audit), data, found)
            audit = audit.replace(forecast=bears, onset=worth)
        except DataError as error:
            if reconstruction.masked is None:
                raise
            refusal = error  # perhaps for what the mask leaves out
        except (InvalidArgumentError, NotSolvedError, UnboundedObjectiveError) as error:
            refusal = error
    if late is not None and made_up > 0:
        late = late[0], late[1] * kl.weight / made_up  # as on the data
    return audit.replace(findings=findings(audit, refusal, given=data is not None, late=late))


def _counted(found: Terms) -> tuple[str, float] | None:
    """Return an argument of default 0 by which the KL grows, as a step's number, and its weight."""
    probe = found.probe
    if probe is None:
        return None
    try:
        others = list(inspect.signature(probe.loss).parameters.values())[len(ROLES) :]
    except (TypeError, ValueError):  # of what has no signature
        return None
    for name in (one.name for one in others if type(one.default) is int and one.default == 0):
        try:
            there, later = (
                read_kl(replace(probe, loss=partial(probe.loss, **{name: step})))
                for step in (LATE, 2 * LATE + 1)
            )
        except InvalidArgumentError:
            continue
        if not later.weight <= there.weight * (1 + TOLERANCE):
            continue  # it is a weight itself
        if there.has_beta and there.weight > found.kl.weight * (1 + TOLERANCE):
            return name, there.weight
    return None


def _spec(audit: LossAudit) -> VAESpec:
    """Return the objective, with the beta that holds above a floor."""
    if audit.beta is None or not 0 < audit.beta < math.inf:
        raise InvalidArgumentError(
            "loss",
            f"beta eta_dec^2 = {audit.beta}",
            "a loss with a positive one",
            " ".join(map(str, audit.findings or findings(audit))) or "Repair its weights.",
        )
    r = audit.reconstruction.dispersion
    return VAESpec(
        latent_dim=audit.sizes.latents,
        beta=audit.beta,
        eta_dec="learned" if audit.learned_eta_dec else 1.0,
        eta_enc=audit.kl.prior_std,
        sigma="input",
        likelihood=audit.likelihood,
        dispersion=r if audit.likelihood == "negative-binomial" and r else "learned",
    )


def _value(reconstruction: ReconstructionReading, kl: KLReading, features: int) -> float | None:
    if not kl.has_beta or reconstruction.weight == 0:
        return 0.0 if kl.kind == "none" and reconstruction.weight else None
    if reconstruction.likelihood == "other":
        return None
    if reconstruction.fitted is not None:
        return plain(kl.weight / reconstruction.fitted)
    factors = {"squared": 0.5, "log squared": features / 2}
    return plain(factors.get(reconstruction.kind, 1.0) * kl.weight / reconstruction.weight)


def _below(value: float) -> float:
    """Return the next lower number of three digits: at a threshold itself the unit is dead."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    # Less than what rounding adds to a value of three digits, which would stay what it is.
    return (math.ceil(value / unit * (1 - 1e-9)) - 1) * unit
