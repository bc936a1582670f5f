"""Models of the pythae library as a `LatentModel`, with the objective that they were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from posterior_collapse.adapters.callables import WrappedModel, from_callable
from posterior_collapse.adapters.libraries import missing
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.specs import Spec, VAESpec

__all__ = ["from_pythae"]

# Their latent is not the Gaussian that the encoder returns, or their prior is not N(0, 1).
_OTHER_POSTERIOR = ("HVAE", "PoincareVAE", "RHVAE", "SVAE", "VAE_IAF", "VAE_LinNF", "VAMP")


def from_pythae(
    model: Any, *, shape: Sequence[int] | None = None, spec: Spec | None = None
) -> WrappedModel:
    """Return a `LatentModel` around a pythae VAE.

    Its loss is `|x - mu|^2 / 2 + beta KL` per sample, so that eta_dec is 1 (theory section 8). The
    spec follows for `VAE` and `BetaVAE` with `reconstruction_loss="mse"`; every other objective
    leaves it assumed, unless one is passed. With `"bce"` the decoder is a Bernoulli: KL and active
    units are diagnosed, but whether a collapse is optimal cannot be told yet.

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

    wrapped = from_callable(
        encode,
        decode,
        latent_dim=model.model_config.latent_dim,
        log_var=False,
        spec=_spec(model) if spec is None else spec,
        shape=model.model_config.input_dim if shape is None else shape,
    )
    if getattr(model.model_config, "reconstruction_loss", None) == "bce":
        wrapped.spec = wrapped.spec.replace(likelihood="bernoulli", eta_dec=1.0)
    return wrapped


def _spec(model: Any) -> Spec | None:
    config = model.model_config
    if model.model_name not in ("VAE", "BetaVAE") or config.reconstruction_loss != "mse":
        return None
    beta = config.beta if model.model_name == "BetaVAE" else 1.0
    return VAESpec(latent_dim=config.latent_dim, beta=beta, eta_dec=1.0, sigma="input")
