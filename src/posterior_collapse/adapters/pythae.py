"""Models of the pythae library as a `LatentModel`, with the objective that they were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from posterior_collapse.adapters.callables import WrappedModel, from_callable
from posterior_collapse.adapters.libraries import missing
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.specs import Likelihood, Spec, VAESpec

__all__ = ["from_pythae"]

# Their latent is not the Gaussian that the encoder returns, or their prior is not N(0, 1).
_OTHER_POSTERIOR = ("HVAE", "PoincareVAE", "RHVAE", "SVAE", "VAE_IAF", "VAE_LinNF", "VAMP")


def from_pythae(
    model: Any, *, shape: Sequence[int] | None = None, spec: Spec | None = None
) -> WrappedModel:
    """Return a `LatentModel` around a pythae VAE.

    Its loss is `|x - mu|^2 / 2 + beta KL` per sample, so that eta_dec is 1 (theory section 8), or
    with `reconstruction_loss="bce"` that of a Bernoulli. The spec follows for `VAE`, `BetaVAE` and
    what is derived from them without a loss of its own; every other objective leaves it assumed,
    unless one is passed.

    Args:
        model: A `pythae.models.VAE` or a class derived from it with a Gaussian posterior.
        shape: Shape of a sample; None: as in the model's config.
        spec: The objective, where the model's class does not say it.

    Raises:
        MissingDependencyError: pythae is not installed.
        InvalidArgumentError: Not a pythae VAE, or one whose posterior or prior is something else.
    """
    try:
        from pythae.models import VAE
    except ImportError as error:
        raise missing("pythae", "read its models", error) from error
    other = {base.__name__ for base in type(model).__mro__}.intersection(_OTHER_POSTERIOR)
    if not isinstance(model, VAE) or other:
        raise InvalidArgumentError(
            "model",
            f"a {type(model).__name__}",
            "a pythae VAE with a Gaussian posterior and a standard normal prior",
            "Wrap its encoder with from_callable, or derive a class from LatentModel.",
        )

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        output = model.encoder(x)
        return output.embedding, (0.5 * output.log_covariance).exp()

    def decode(z: Tensor) -> Tensor:
        reconstruction: Tensor = model.decoder(z).reconstruction
        return reconstruction

    bernoulli = getattr(model.model_config, "reconstruction_loss", None) == "bce"
    wrapped = from_callable(
        encode,
        decode,
        output="mean",
        latent_dim=model.model_config.latent_dim,
        log_var=False,
        spec=_spec(model) if spec is None else spec,
        shape=model.model_config.input_dim if shape is None else shape,
    )
    if bernoulli and wrapped.spec.likelihood == "gaussian":
        wrapped.spec = wrapped.spec.replace(likelihood="bernoulli", eta_dec=1.0)
    return wrapped


def _spec(model: Any) -> Spec | None:
    from pythae.models import VAE, BetaVAE

    loss = type(model).loss_function
    known: dict[str, Likelihood] = {"mse": "gaussian", "bce": "bernoulli"}
    likelihood = known.get(getattr(model.model_config, "reconstruction_loss", ""))
    if likelihood is None or loss not in (VAE.loss_function, BetaVAE.loss_function):
        return None
    # The loss multiplies by the model's own beta, which may have been changed since.
    beta = float(model.beta) if loss is BetaVAE.loss_function else 1.0
    units = model.model_config.latent_dim
    return VAESpec(latent_dim=units, beta=beta, sigma="input", likelihood=likelihood)
