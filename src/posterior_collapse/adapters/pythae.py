"""Models of the pythae library as a `LatentModel`, with the objective that they were trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Normal

from posterior_collapse.adapters.audit import audit_loss
from posterior_collapse.adapters.callables import WrappedModel
from posterior_collapse.adapters.libraries import needing
from posterior_collapse.errors import InvalidArgumentError, count_of
from posterior_collapse.models.layers import Gaussian
from posterior_collapse.specs import Likelihood, Spec, VAESpec

# Their latent is not the Gaussian that the encoder returns, nor one that a flow makes of it and
# could be undone.
_OTHER_POSTERIOR = ("HVAE", "PoincareVAE", "RHVAE", "SVAE", "VAE_LinNF")
_FLOW_SAMPLES = 10_000
_ROUNDING = 1e-6


class _Objective(NamedTuple):
    """What a model's class minimises.

    Attributes:
        beta: At which its units collapse as those of a beta-VAE do; None: no such number.
        note: What a reader of results must know of it.
        likelihood: Where it is not what `reconstruction_loss` says.
        logits: Whether the decoder of a Bernoulli gives logits, and no probabilities.
        eta_enc: Std of the prior.
    """

    beta: float | None
    note: str | None = None
    likelihood: Likelihood | None = None
    logits: bool = False
    eta_enc: float = 1.0


def from_pythae(
    model: Any, *, shape: Sequence[int] | None = None, spec: Spec | None = None
) -> PythaeModel:
    """Return a `LatentModel` around a pythae VAE.

    Its loss is `|x - mu|^2 / 2 + beta KL` per sample, so that eta_dec is 1 (theory section 8), or
    with `reconstruction_loss="bce"` that of a Bernoulli. Which beta follows from whose
    `loss_function` the model runs: that of `VAE`, `BetaVAE`, `FactorVAE`, `VAMP`, `VAE_IAF`; of
    `BetaTCVAE` (alpha, since the rest of its KL is zero at the optimum) and `INFOVAE_MMD`
    (1 - alpha), unless it rewards the discrepancy from the prior; of `DisentangledBetaVAE` without
    a capacity. A loss of your own is called on made-up tensors, as `audit_loss` does. Where all
    that says nothing, the spec is assumed, unless one is passed.

    The prior of `VAMP` is a mixture, and that of the Gaussian latent of `VAE_IAF` what its flow
    makes N(0, 1) of: KLs are to the Gaussian of the same mean and std per unit.

    Args:
        model: A `pythae.models.VAE` or a class derived from it whose encoder returns a Gaussian.
        shape: Shape of a sample; None: as in the model's config.
        spec: The objective, where the model's class does not say it.

    Raises:
        MissingDependencyError: pythae is not installed.
        InvalidArgumentError: Not a pythae VAE, or one whose posterior is something else.
    """
    with needing("pythae", "read its models"):
        from pythae.models import VAE
    if not isinstance(model, VAE) or _names(model).intersection(_OTHER_POSTERIOR):
        raise InvalidArgumentError(
            "model",
            f"a {type(model).__name__}",
            "a pythae VAE with a Gaussian posterior",
            "Wrap its encoder with from_callable, or derive a class from LatentModel.",
        )
    shape = model.model_config.input_dim if shape is None else shape
    objective, flow = _objective(model, shape), getattr(model, "iaf_flow", None)
    trained = getattr(model.model_config, "reconstruction_loss", "mse")
    likelihood = objective.likelihood or ("bernoulli" if trained == "bce" else "gaussian")

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        output = model.encoder(x)
        return output.embedding, (0.5 * output.log_covariance).exp()

    def decode(z: Tensor) -> Tensor | Distribution:
        z = z if flow is None else flow.inverse(z).out
        output: Tensor = model.decoder(z).reconstruction
        if likelihood != "bernoulli":
            return output
        given = {"logits" if objective.logits else "probs": output}
        return Bernoulli(**given, validate_args=False)

    k = model.model_config.latent_dim
    found = VAESpec(
        k,
        beta=objective.beta or 1.0,
        eta_enc=objective.eta_enc,
        sigma="input",
        likelihood=likelihood,
    )
    if spec is not None and likelihood not in ("gaussian", spec.likelihood):
        # The decoder's probabilities are no Gaussian's means, whatever else is known.
        spec = spec.replace(likelihood=likelihood, eta_dec=1.0)
    wrapped = PythaeModel(
        encode,
        decode,
        latent_dim=k,
        log_var=False,
        spec=spec or found,
        spec_assumed=spec is None and objective.beta is None,
        said=[] if objective.note is None else [objective.note],
        shape=shape,
    )
    wrapped.closest = _prior_of(model)
    return wrapped


class PythaeModel(WrappedModel):
    """A wrapped pythae VAE; `from_pythae` makes one.

    Attributes:
        closest: Gives mean and std per unit of a prior that is not N(0, 1).
    """

    closest: Callable[[], Gaussian] | None = None

    def prior(self, level: int, given: Tensor | None = None) -> Normal:
        """Return `p(z)`, or the Gaussian closest to it; see `LatentModel`."""
        standard = super().prior(level, given)
        if self.closest is None:
            return standard
        mean, std = (part.to(standard.mean) for part in self.closest())
        return Normal(mean, std, validate_args=False)


def _prior_of(model: Any) -> Callable[[], Gaussian] | None:
    """What gives mean and std per unit of a prior that is not N(0, 1)."""
    names = _names(model)
    if "VAMP" in names:

        def mixture() -> Gaussian:
            like = next(model.pseudo_inputs.parameters())
            given = model.pseudo_inputs(model.idle_input.to(like))
            parts = model.encoder(given.reshape(-1, *model.model_config.input_dim))
            variance = parts.log_covariance.exp().mean(0) + parts.embedding.var(0, correction=0)
            return Gaussian(parts.embedding.mean(0), variance.sqrt())

        return mixture
    if "VAE_IAF" in names:

        def undone() -> Gaussian:
            like = next(model.iaf_flow.parameters())
            generator = torch.Generator().manual_seed(0)
            k = model.model_config.latent_dim
            noise = torch.randn(_FLOW_SAMPLES, k, generator=generator, dtype=torch.float64)
            z = model.iaf_flow(noise.to(like)).out
            return Gaussian(z.mean(0), z.std(0))

        return undone
    return None


def _objective(model: Any, shape: Sequence[int] | None) -> _Objective:
    """What a model minimises, by whose `loss_function` it is."""
    own = _defines(model, "loss_function")
    if own is None:
        return _probed(model, shape)
    # What a `forward` of one's own adds to the loss is out of sight.
    forward = None
    if _defines(model, "forward") is None:
        forward = (
            f"what the forward of {type(model).__name__} adds to its loss_function, if anything, "
            "is not in the spec"
        )
    found = _OBJECTIVES[own](model) if own in _OBJECTIVES else _Objective(None)
    return found._replace(note=found.note or forward)


def _weighted(model: Any) -> _Objective:
    beta = float(model.beta)
    if beta <= 0:
        return _Objective(None, f"the objective gives the KL no weight ({beta:g})")
    return _Objective(beta)


def _beta_tc(model: Any) -> _Objective:
    alpha, beta, gamma = (float(getattr(model, name)) for name in ("alpha", "beta", "gamma"))
    if alpha <= 0 or beta < 0 or gamma < 0:
        return _Objective(None, f"its weights are alpha {alpha:g}, beta {beta:g}, gamma {gamma:g}")
    if alpha == beta == gamma:
        return _Objective(alpha)
    # A unit's KL is what it knows of x, plus how far all its z are from the prior. At the optimum
    # of a linear model they follow it, and are independent: what is left is alpha's term.
    return _Objective(
        alpha,
        f"the spec's beta is alpha ({alpha:g}), which decides what collapses: beta ({beta:g}) and "
        f"gamma ({gamma:g}) weight what is zero where units are independent and follow the prior",
    )


def _info(model: Any) -> _Objective:
    beta, weight = 1 - float(model.alpha), float(model.alpha + model.lbd - 1)
    if beta <= 0 or weight < 0:
        what = "no weight" if beta <= 0 else "a weight"
        rest = f"and {weight:g} the discrepancy from the prior, which it rewards" * (weight < 0)
        return _Objective(None, f"the objective gives the KL {what} ({beta:g}) {rest}".rstrip())
    if weight == 0:
        return _Objective(beta)
    return _Objective(
        beta,
        f"the spec's beta is 1 - alpha ({beta:g}), which decides what collapses: the discrepancy "
        f"from the prior (weight {weight:g}), zero where units follow it, is not in the loss",
    )


def _capacity(model: Any) -> _Objective:
    if model.C == 0:
        return _weighted(model)
    return _Objective(
        None,
        f"the objective wants a KL of C = {model.C:g} nats, at beta {model.beta:g}: up to there it "
        "rewards what a beta-VAE penalises",
    )


def _vamp(model: Any) -> _Objective:
    rising = model.linear_scheduling
    text = (
        "the prior is a mixture: KLs and losses are those to the Gaussian of its mean and std in "
        "each unit"
    )
    if rising > 0:
        text += f"; the KL's weight rises to the spec's 1 over {count_of(rising, 'epoch')}"
    return _Objective(1.0, text)


_OBJECTIVES: dict[str, Callable[[Any], _Objective]] = {
    "VAE": lambda model: _Objective(1.0),
    "BetaVAE": _weighted,
    "BetaTCVAE": _beta_tc,
    "DisentangledBetaVAE": _capacity,
    "FactorVAE": lambda model: _Objective(
        1.0,
        f"the total correlation (weight {model.gamma:g}), zero where units are independent, is not "
        "in the loss",
    ),
    "INFOVAE_MMD": _info,
    "VAE_IAF": lambda model: _Objective(
        1.0,
        "units are those of the Gaussian before the flow, and KLs and losses those to the Gaussian "
        "of the mean and std that the prior has there",
    ),
    "VAMP": _vamp,
    # Their reconstruction error is no likelihood: a similarity of images, or what a
    # discriminator sees.
    "MSSSIM_VAE": lambda model: _Objective(None, likelihood="other"),
    "VAEGAN": lambda model: _Objective(None, likelihood="other"),
}
"""By the class that defines `loss_function`. The bounds of `IWAE`, `MIWAE`, `PIWAE` and `CIWAE` are
no weighted KL, and `Adversarial_AE` has none."""


def _probed(model: Any, shape: Sequence[int] | None) -> _Objective:
    """What a `loss_function` of one's own asks for, called as pythae's `VAE.forward` calls it."""
    name = f"loss_function of {type(model).__name__}"
    if shape is None or _defines(model, "forward") not in ("VAE", "BetaVAE", "MSSSIM_VAE"):
        return _Objective(None, f"what the {name} asks for is not known: pass spec=")

    def loss(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Any:
        return model.loss_function(y_hat, y, mean, log_var, mean)

    try:
        audit = audit_loss(loss, features=tuple(shape), latents=model.model_config.latent_dim)
    except InvalidArgumentError as error:
        return _Objective(None, f"what the {name} asks for was not found out ({error}): pass spec=")
    kind, prior_std = audit.kl.kind, audit.kl.prior_std
    if kind != "gaussian" or audit.learned_eta_dec or not 0 < (audit.value or 0) < math.inf:
        return _Objective(None, f"no spec follows from the {name}: {audit.text}", audit.likelihood)
    return _Objective(
        audit.value,
        f"the {name} was found to be that of beta = {audit.value:.6g}",
        audit.likelihood,
        audit.reconstruction.kind == "bernoulli logits",
        1.0 if math.isclose(prior_std, 1, rel_tol=_ROUNDING) else prior_std,
    )


def _defines(model: Any, name: str) -> str | None:
    """Return the class of pythae whose method the model runs; None: it is no one of pythae's."""
    if name in vars(model):
        return None
    owner = next(base for base in type(model).__mro__ if name in vars(base))
    return owner.__name__ if owner.__module__.split(".")[0] == "pythae" else None


def _names(model: Any) -> set[str]:
    return {base.__name__ for base in type(model).__mro__}
