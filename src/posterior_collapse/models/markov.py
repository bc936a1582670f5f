"""The one trainable model: a Markov chain of Gaussian levels between data and data.

One level is a VAE, one level with a condition a conditional VAE, two levels the paper's
hierarchical VAE. Everything random comes in as tensors and no Python branch looks at a number, so
`torch.func.functional_call` and `torch.func.vmap` run many such models at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models.latent import LatentModel
from posterior_collapse.models.layers import (
    Affine,
    Decoder,
    Encoder,
    Gaussian,
    Mask,
    Scale,
    Supplied,
    kl_divergence,
    relative_entropy,
)
from posterior_collapse.models.likelihoods import Categorical, Observation
from posterior_collapse.models.objective import Terms, log_normaliser
from posterior_collapse.specs import ChainSpec, CVAESpec, Spec

if TYPE_CHECKING:
    from posterior_collapse.models.architecture import Architecture, Shapes


class MarkovVAE(LatentModel, nn.Module):
    """A latent model made of an `Encoder` and a `Decoder` per level; `build` makes one.

    Buffers hold what is fixed and runs may differ in: `eta_enc`, `eta_dec.value`,
    `encoders.{l}.std.value`. When learned, the last two are parameters named `.log`, and so is a
    negative binomial's `observation.dispersion`. Betas belong to the objective, not to the model.

    Args:
        encoders: `q(z_l|.)` per level, bottom first.
        input_dropout: Rate of dropout on x.
        observation: Makes `p(y|z_1)` of the decoder's output; none: a Gaussian, whose mean it is.

    Attributes:
        data_layers: Name of each affine layer applied straight to the data, with the data it meets.
        heads: Names of the affine layers whose sum is the mean of a Gaussian decoder; empty if
            there is none.
        masks: Name of each dropout mask, with its module.
    """

    eta_enc: Tensor

    def __init__(
        self,
        spec: Spec,
        architecture: Architecture,
        shapes: Shapes,
        encoders: Sequence[Encoder],
        decoders: Sequence[Decoder],
        input_dropout: float = 0.0,
        observation: Observation | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.spec = spec
        self.architecture = architecture
        self.shapes = shapes
        self.encoders = nn.ModuleList(encoders)
        self.decoders = nn.ModuleList(decoders)
        self.eta_dec = _eta_dec(spec)
        self.observation = observation
        self.register_buffer("eta_enc", torch.tensor(spec.eta_enc, dtype=torch.float64))
        self.input_mask = Mask(shapes.x_dim, input_dropout) if input_dropout > 0 else None
        for name, module in self.named_modules():
            if isinstance(module, (Affine, Mask)):
                module.name = name
        self.data_layers = self._data_layers()
        self.masks = {m.name: m for m in self.modules() if isinstance(m, Mask)}
        bottom = self._decoder(1)
        projects = bottom.affine and observation is None
        self.heads = tuple(f"decoders.0.heads.{key}" for key in bottom.heads if projects)

    @property
    def centred(self) -> bool:
        """Whether biases take up the data's means; see `Architecture.centred`."""
        return self.architecture.centred

    @property
    def conditional(self) -> bool:
        """Whether encoder and decoder also see a condition."""
        return isinstance(self.spec, CVAESpec)

    @property
    def config(self) -> dict[str, Any]:
        """What `rebuild` needs to make this model again, as plain JSON-able values."""
        found: dict[str, Any] = {
            "spec": self.spec.to_dict(),
            "architecture": self.architecture.to_dict(),
            "shapes": self.shapes.to_dict(),
            "dtype": str(self.eta_enc.dtype).removeprefix("torch."),
        }
        if isinstance(self.observation, Categorical):
            found["classes"] = list(self.observation.classes)
        return found

    def forward(
        self,
        x: Tensor,
        y: Tensor | None,
        noise: Sequence[Tensor],
        supplied: Supplied | None = None,
    ) -> Terms:
        """Return the objective's terms for one batch.

        Args:
            x: Input or condition, (batch, dim x).
            y: Target, (batch, dim y); none: x.
            noise: Standard normal, one (batch, units) per level, as `draw_noise` gives.
            supplied: Tensors by layer name, used instead of what the layer would compute: for a
                name of `data_layers`, its output; for one of `masks`, the mask (absent: no
                dropout).

        Raises:
            InvalidArgumentError: The data do not have the model's shapes.
        """
        supplied = {} if supplied is None else supplied
        target = x if y is None else y
        self._check_data(x, y if self.conditional else target)
        inputs = self._inputs(x, y, supplied)
        posteriors, latents = self._upward(inputs, noise, supplied)
        return Terms(
            *self._reconstruction({**inputs, "z": latents[0]}, target, supplied),
            self._kls(posteriors, latents, supplied),
            tuple(q.mean for q in posteriors),
        )

    def paths(
        self, x: Tensor, y: Tensor | None, noise: Sequence[Tensor]
    ) -> list[tuple[Gaussian, Gaussian, Tensor]]:
        """Return per level the posterior, the prior and a sample, along paths from z_1 to the top.

        Args:
            x: As in `forward`.
            y: As in `forward`.
            noise: Standard normal, (..., batch, units) per level; the leading axes are those of
                the paths.
        """
        posteriors, latents = self._upward(self._inputs(x, y, {}), noise, {})
        above = [*latents[1:], None]
        priors = [self._prior(level, z, {}) for level, z in enumerate(above, start=1)]
        return list(zip(posteriors, priors, latents, strict=True))

    def draw_noise(
        self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, ...]:
        """Return the noise of one batch, (n, units) per level, on the generator's device."""
        return tuple(
            torch.randn(n, dim, generator=generator, device=generator.device, dtype=dtype)
            for dim in self.units
        )

    def draw_masks(
        self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> dict[str, Tensor]:
        """Return the dropout masks of one batch, (n, width) each, for `supplied`."""
        return {name: mask.draw(n, generator, dtype) for name, mask in self.masks.items()}

    def posterior(self, level: int, given: Tensor, y: Tensor | None = None) -> Normal:
        """Return `q(z_level | given)`; see `LatentModel`."""
        self._check_level(level)
        if level > 1:
            return _normal(self._encoder(level)({"z": given}, {}))
        self._check_data(given, y)
        return _normal(self._encoder(1)(self._inputs(given, y, {}), {}))

    def prior(self, level: int, given: Tensor | None = None) -> Normal:
        """Return `p(z_level | given)`; see `LatentModel`."""
        self._check_level(level)
        top = level == len(self.units)
        if top != (given is None):
            raise InvalidArgumentError(
                "given",
                "nothing" if given is None else "a tensor",
                "nothing at the top level, z of the level above elsewhere",
                f"Call prior({level}{'' if top else ', z'}).",
            )
        return _normal(self._prior(level, given, {}))

    def decode(self, z: Tensor, x: Tensor | None = None) -> Distribution:
        """Return `p(y | z)`; see `LatentModel`."""
        inputs = {"z": z}
        if self.conditional:
            if x is None:
                raise InvalidArgumentError(
                    "x", "nothing", "the condition of a conditional model", "Pass x."
                )
            inputs["x"] = x
        output = self._decoder(1)(inputs, {})
        if self.observation is not None:
            return self.observation.distribution(output)
        return _normal(Gaussian(output, self._eta(0)))

    def _encoder(self, level: int) -> Encoder:
        return cast(Encoder, self.encoders[level - 1])

    def _decoder(self, level: int) -> Decoder:
        return cast(Decoder, self.decoders[level - 1])

    def _eta(self, index: int) -> Tensor:
        """Std of `p(y|z_1)` (0) or of `p(z_index | .)`; only a chain has one per level."""
        eta: Tensor = self.eta_dec()
        return eta[index] if isinstance(self.spec, ChainSpec) else eta

    def _prior(self, level: int, above: Tensor | None, supplied: Supplied) -> Gaussian:
        if above is None:
            # One mean per unit: the shape is known without a batch.
            return Gaussian(self.eta_enc.new_zeros(self.units[-1]), self.eta_enc)
        return Gaussian(self._decoder(level + 1)({"z": above}, supplied), self._eta(level))

    def _inputs(self, x: Tensor, y: Tensor | None, supplied: Supplied) -> dict[str, Tensor]:
        masked = x if self.input_mask is None else self.input_mask(x, supplied)
        return {"x": masked, "y": cast(Tensor, y)} if self.conditional else {"x": masked}

    def _reconstruction(
        self, inputs: dict[str, Tensor], target: Tensor, supplied: Supplied
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Squared error, eta_dec and normaliser, or what stands for them; see `Terms`."""
        decoder = self._decoder(1)
        if self.observation is None:
            error = decoder.squared_error(inputs, target, supplied)
            return error, self._eta(0), log_normaliser(self._eta(0), self.shapes.y_dim)
        output = decoder(inputs, supplied).to(target.dtype)  # of bfloat16 products
        one = self.eta_enc.new_ones(())
        return 2 * self.observation.loss(output, target), one, torch.zeros_like(one)

    def _upward(
        self, inputs: dict[str, Tensor], noise: Sequence[Tensor], supplied: Supplied
    ) -> tuple[list[Gaussian], list[Tensor]]:
        posteriors: list[Gaussian] = []
        latents: list[Tensor] = []
        for encoder, level_noise in zip(self.encoders, noise, strict=True):
            posteriors.append(encoder(inputs, supplied))
            latents.append(posteriors[-1].at(level_noise))
            inputs = {"z": latents[-1]}
        return posteriors, latents

    def _kls(
        self, posteriors: list[Gaussian], latents: list[Tensor], supplied: Supplied
    ) -> tuple[Tensor, ...]:
        kls = []
        for level, (q, z, above) in enumerate(
            zip(posteriors[:-1], latents, latents[1:], strict=False), start=1
        ):
            p = self._prior(level, above, supplied)
            kls.append(relative_entropy((z - p.mean).square(), q.std, p.std))
        top = self._prior(len(self.units), None, supplied)
        return (*kls, kl_divergence(posteriors[-1], top))

    def _check_data(self, x: Tensor, y: Tensor | None) -> None:
        if y is None and self.conditional:
            raise InvalidArgumentError(
                "y", "nothing", "the target of a conditional model", "Pass x and y."
            )
        self.shapes.check(x, y)

    def _check_level(self, level: int) -> None:
        if not 1 <= level <= len(self.units):
            raise InvalidArgumentError(
                "level", level, f"1 to {len(self.units)}", "Level 1 is next to the data."
            )

    def _data_layers(self) -> dict[str, str]:
        found = {}
        for key in self._encoder(1).features:
            if not (key == "x" and self.input_mask is not None):
                found.update({layer.name: key for layer in self._encoder(1).data_layers(key)})
        if self.conditional and self.input_mask is None:
            found.update({layer.name: "x" for layer in self._decoder(1).data_layers("x")})
        return found


def _eta_dec(spec: Spec) -> Scale:
    if isinstance(spec, ChainSpec):
        return Scale(spec.eta_decs, (len(spec.eta_decs),))
    # The levels above the data share it with p(y|z_1), or have it to themselves.
    return Scale(spec.eta_levels[-1], ())


def _normal(gaussian: Gaussian) -> Normal:
    # Not validated: a NaN parameter is reported by whoever trains, with the step and the term.
    return Normal(gaussian.mean, gaussian.std, validate_args=False)
