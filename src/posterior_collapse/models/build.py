"""From a spec and an architecture to an initialised model, or from a model to a wider one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models.architecture import Architecture, Shapes
from posterior_collapse.models.layers import (
    Affine,
    ConvFeatures,
    Decoder,
    Dense,
    Encoder,
    ImageHead,
    QuarterFeatures,
    Scale,
    TargetQuarters,
    UpscaledQuarter,
)
from posterior_collapse.models.likelihoods import observation_of
from posterior_collapse.models.markov import MarkovVAE
from posterior_collapse.specs import Sigma, Spec


def build(
    spec: Spec,
    architecture: str | Architecture = "mlp",
    *,
    x_dim: int | None = None,
    y_dim: int | None = None,
    image_shape: Sequence[int] | None = None,
    condition_shape: Sequence[int] | None = None,
    classes: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> MarkovVAE:
    """Return an initialised model, on the CPU.

    Args:
        spec: The hyperparameters.
        architecture: A key of `ARCHITECTURES`, or an `Architecture`.
        x_dim: Numbers per row of the input or condition.
        y_dim: Numbers per row of the target; none: an autoencoder.
        image_shape: (height, width) or (channels, height, width) of the rows, for `cnn`.
        condition_shape: The same of x where it differs from y's.
        classes: Numbers of classes of a categorical's positions, side by side in the rows; none: a
            single position.
        generator: Source of the initial weights; none: a new one with seed 0.
        dtype: Of parameters and buffers.
        **options: Options of a named architecture, as in `Architecture`.

    Raises:
        InvalidArgumentError: The architecture does not fit the spec or the shapes, or an option is
            unknown, or the likelihood has no loss.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> model = build(VAESpec(latent_dim=2), "mlp", x_dim=5, hidden=(8,))
        >>> noise = model.draw_noise(3, torch.Generator().manual_seed(0))
        >>> model(torch.zeros(3, 5), None, noise).kl[0].shape
        torch.Size([3, 2])
    """
    architecture = Architecture.of(architecture, **options)
    architecture.check_model(spec)
    shapes = Shapes.of(architecture, spec, x_dim, y_dim, condition_shape, image_shape)
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    model = _assemble(spec, architecture, shapes, classes).to(dtype)
    _initialise(model, architecture, generator)
    return model


def rebuild(config: Mapping[str, Any], generator: torch.Generator | None = None) -> MarkovVAE:
    """Return the model that `config`, a `MarkovVAE.config`, describes; load its state dict next.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> config = build(VAESpec(latent_dim=2), "linear", x_dim=5).config
        >>> rebuild(config).config == config
        True
    """
    missing = {"spec", "architecture", "shapes", "dtype"} - set(config)
    dtype = getattr(torch, str(config.get("dtype")), None)
    if missing or not isinstance(dtype, torch.dtype):
        raise InvalidArgumentError(
            "config",
            f"no {sorted(missing)}" if missing else f"dtype {config['dtype']!r}",
            "what MarkovVAE.config gave",
            "Check the file it came from.",
        )
    shapes = config["shapes"]
    return build(
        Spec.from_dict(config["spec"]),
        Architecture.from_dict(config["architecture"]),
        x_dim=shapes["x_dim"],
        y_dim=shapes["y_dim"],
        image_shape=shapes["y_image"],
        condition_shape=shapes["x_image"],
        classes=config.get("classes"),
        generator=generator,
        dtype=dtype,
    )


FAINT = 0.1
"""Share of its usual weights with which the decoder first listens to a new unit: at their full size
the unit's noise costs more than the other units can bring before it is unlearned."""


def widened(
    model: MarkovVAE, generator: torch.Generator | None = None, *, dead: bool = False
) -> MarkovVAE:
    """Return the model of one more unit that does what this one does.

    Args:
        model: Of one level, whose `latent_dim` is one number; stays as it is.
        generator: Of the new unit's weights; None: with seed 0.
        dead: Whether the new unit is its prior whatever the data, and the decoder deaf to it: as
            a unit is that collapsed. Else it starts as in a new model, the decoder listening
            faintly.

    Raises:
        InvalidArgumentError: A hierarchy, or a std per unit that is given.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> widened(build(VAESpec(latent_dim=2, sigma="input"), "mlp", x_dim=5)).spec.latent_dim
        3
    """
    units = model.units
    if len(units) > 1 or isinstance(model.spec.sigma_levels[0], tuple):
        raise InvalidArgumentError(
            "model", f"one of {model.spec!r}", "one level of units that are alike",
            "Give a VAESpec or CVAESpec whose sigma is one for all units.",
        )  # fmt: skip
    spec = model.spec.replace(latent_dim=units[0] + 1)
    wider, old = rebuild(model.config | {"spec": spec.to_dict()}, generator), model.state_dict()
    wider.load_state_dict(
        {name: _grown(old[name], new, dead) for name, new in wider.state_dict().items()}
    )
    return wider


def _grown(old: Tensor, new: Tensor, dead: bool) -> Tensor:
    """Return the old values in the first places of the new, and for the new unit what it starts as.

    The unit is the last of an encoder's outputs (first axis) or of a decoder's inputs (second).
    """
    if old.shape == new.shape:
        return old.clone()
    found = new * 0.0 if dead else new.clone()
    if old.dim() > 1 and old.shape[1] != new.shape[1]:
        found *= FAINT
    found[tuple(slice(size) for size in old.shape)] = old
    return found


def _assemble(
    spec: Spec, architecture: Architecture, shapes: Shapes, classes: Sequence[int] | None
) -> MarkovVAE:
    dims, sigmas = spec.dims, spec.sigma_levels
    # Constructors draw from torch's global generator, of the CPU here: leave it as it was.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        bottom = _data_features(architecture, shapes, spec.model == "cvae")
        encoders = [_encoder(architecture, bottom, dims[0], sigmas[0])]
        decoders = [_data_decoder(architecture, shapes, dims[0], spec.model == "cvae")]
        for below, above, sigma in zip(dims, dims[1:], sigmas[1:], strict=False):
            encoders.append(
                _encoder(architecture, {"z": _dense(architecture, below)}, above, sigma)
            )
            decoders.append(_latent_decoder(architecture, above, below))
        return MarkovVAE(
            spec,
            architecture,
            shapes,
            encoders,
            decoders,
            architecture.input_dropout,
            observation_of(spec, shapes.y_dim, classes),
        )


def _dense(architecture: Architecture, inputs: int) -> Dense:
    return Dense(inputs, architecture.hidden, architecture.activation, architecture.dropout)


def _data_features(
    architecture: Architecture, shapes: Shapes, conditional: bool
) -> dict[str, nn.Module]:
    dims = {"x": shapes.x_dim, "y": shapes.y_dim} if conditional else {"x": shapes.x_dim}
    if not architecture.channels:
        return {key: _dense(architecture, dim) for key, dim in dims.items()}
    how = architecture.channels, architecture.activation
    images = {"x": shapes.x_image, "y": shapes.y_image}

    def features(image: tuple[int, int, int] | None) -> nn.Module:
        return QuarterFeatures(*how) if image is None else ConvFeatures(image, *how)

    return {key: features(images[key]) for key in dims}


def _encoder(
    architecture: Architecture, features: dict[str, nn.Module], units: int, sigma: Sigma
) -> Encoder:
    linear = architecture.name == "linear"

    def heads(bias_from: str | None) -> dict[str, Affine]:
        return {
            key: Affine(cast(int, net.width), units, bias=not linear or key == bias_from)
            for key, net in features.items()
        }

    first = next(iter(features))
    std: Scale | dict[str, Affine] = heads(first) if sigma == "input" else Scale(sigma, (units,))
    # A linear model needs one bias, in its path from x: above z_1 it would be idle.
    mean = heads("x" if architecture.bias else None)
    return Encoder(features, mean, std, architecture.latent, architecture.std_head)


def _latent_decoder(architecture: Architecture, above: int, below: int) -> Decoder:
    features = _dense(architecture, above)
    head = nn.Linear(features.width, below, bias=architecture.name != "linear")
    return Decoder({"z": features}, {"z": head}, architecture.latent)


def _data_decoder(
    architecture: Architecture, shapes: Shapes, units: int, conditional: bool
) -> Decoder:
    if architecture.channels:
        return _image_decoder(architecture, shapes, units, conditional)
    dims = {"z": units, "x": shapes.x_dim} if conditional else {"z": units}
    features = {key: _dense(architecture, dim) for key, dim in dims.items()}
    heads = {
        key: nn.Linear(
            net.width,
            shapes.y_dim,
            bias=architecture.name != "linear" or (architecture.bias and key == "z"),
        )
        for key, net in features.items()
    }
    return Decoder(features, heads, architecture.output)


def _image_decoder(
    architecture: Architecture, shapes: Shapes, units: int, conditional: bool
) -> Decoder:
    channels, activation = architecture.channels, architecture.activation
    features: dict[str, nn.Module] = {"z": Dense(units, (), activation)}
    heads: dict[str, nn.Module] = {}
    if shapes.y_image is None:
        whole = ImageHead(units, (1, 28, 28), channels, activation)
        heads["z"] = nn.Sequential(whole, TargetQuarters())
        features["x"] = UpscaledQuarter(channels[0], activation)
        heads["x"] = nn.Linear(UpscaledQuarter.width, shapes.y_dim)
        return Decoder(features, heads, architecture.output)
    heads["z"] = ImageHead(units, shapes.y_image, channels, activation)
    if conditional:
        assert shapes.x_image is not None
        condition = ConvFeatures(shapes.x_image, channels, activation)
        features["x"] = condition
        heads["x"] = ImageHead(condition.width, shapes.y_image, channels, activation)
    return Decoder(features, heads, architecture.output)


@torch.no_grad()
def _initialise(model: MarkovVAE, architecture: Architecture, generator: torch.Generator) -> None:
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            _initialise_layer(module, architecture.initial_std, generator)
    for encoder in model.encoders:
        std = encoder.std
        if isinstance(std, Scale) and std.learned:
            start = torch.full_like(std.log, 1.0)
            if architecture.initial_sigma == "uniform":
                start.uniform_(generator=generator).clamp_(min=1e-6)
            else:
                start.fill_(architecture.initial_sigma)
            std.set(start)
    if model.eta_dec.learned:
        model.eta_dec.set(torch.full_like(model.eta_dec.log, architecture.initial_eta_dec))


def _initialise_layer(
    module: nn.Linear | nn.Conv2d | nn.ConvTranspose2d,
    std: float | None,
    generator: torch.Generator,
) -> None:
    # Torch's own default is U(-b, b) with b = 1/sqrt(fan in), for weight and bias.
    bound = module.weight[0].numel() ** -0.5
    if std is None:
        module.weight.uniform_(-bound, bound, generator=generator)
    else:
        module.weight.normal_(0.0, std, generator=generator)
    if module.bias is not None:
        if std is None:
            module.bias.uniform_(-bound, bound, generator=generator)
        else:
            module.bias.zero_()
