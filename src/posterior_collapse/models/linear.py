"""The matrices of a linear model: read them, set them, and the objective without noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.likelihoods import ENDLESS, FAMILIES
from posterior_collapse.models.layers import Decoder, Encoder, Scale, log_head_of, relative_entropy
from posterior_collapse.models.markov import MarkovVAE
from posterior_collapse.models.objective import Terms, log_normaliser


class LinearValues(NamedTuple):
    """Everything that the exact objective of one linear model depends on.

    Attributes:
        encoders: Per level, W_l; a conditional model's first is `[W1, W2]`, (units, dim x + dim y).
        decoders: Per level, U_l.
        direct: The conditional model's map of x to y, U2.
        stds: Per level, the posterior stds, (units,).
        eta_decs: Per level, the std of `p(y|z_1)`, then of `p(z_l|z_{l+1})`, () each.
        eta_enc: Prior std of the last level, ().
        encoder_bias: b1, (units,).
        decoder_bias: c1, (dim y,).
    """

    encoders: tuple[Tensor, ...]
    decoders: tuple[Tensor, ...]
    direct: Tensor | None
    stds: tuple[Tensor, ...]
    eta_decs: tuple[Tensor, ...]
    eta_enc: Tensor
    encoder_bias: Tensor | None = None
    decoder_bias: Tensor | None = None


def linear_values(model: MarkovVAE, state: Mapping[str, Tensor] | None = None) -> LinearValues:
    """Return the values of a linear model, differentiable in its parameters.

    Args:
        model: Of architecture `linear`, its decoder Gaussian, its sigmas not `"input"`.
        state: Tensors by the model's parameter and buffer names, to use instead of its own: under
            `torch.func.vmap`, those of one run.

    Raises:
        InvalidArgumentError: The model is not linear, its decoder not Gaussian, or its std depends
            on the input.

    Example:
        >>> from posterior_collapse.models import build
        >>> from posterior_collapse.specs import VAESpec
        >>> model = build(VAESpec(latent_dim=2), "linear", x_dim=5)
        >>> linear_values(model).encoders[0].shape
        torch.Size([2, 5])
    """
    _check_gaussian(model)
    return _values(model, state)


def _values(model: MarkovVAE, state: Mapping[str, Tensor] | None = None) -> LinearValues:
    _check_stds(model)
    if state is None:
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    levels = range(len(model.units))
    encoders = [state[f"encoders.{i}.mean.{'z' if i else 'x'}.weight"] for i in levels]
    direct = None
    if model.conditional:
        encoders[0] = torch.cat([encoders[0], state["encoders.0.mean.y.weight"]], -1)
        direct = state["decoders.0.heads.x.weight"]
    stds = [_scale(state, f"encoders.{i}.std") for i in levels]
    eta = _scale(state, "eta_dec")
    return LinearValues(
        tuple(encoders),
        tuple(state[f"decoders.{i}.heads.z.weight"] for i in levels),
        direct,
        tuple(std.expand(dim) for std, dim in zip(stds, model.units, strict=True)),
        eta.unbind() if eta.dim() else (eta,) * len(levels),
        state["eta_enc"],
        state.get("encoders.0.mean.x.bias"),
        state.get("decoders.0.heads.z.bias"),
    )


def exact_terms(values: LinearValues, x: Tensor, y: Tensor | None = None) -> Terms:
    """Return the terms of each sample, (batch, dim x) and perhaps (batch, dim y), less all noise.

    Over all samples at once, from their second moments, `theory.ExactObjective` has the averages.

    Example:
        >>> from posterior_collapse.models import build
        >>> from posterior_collapse.specs import VAESpec
        >>> model = build(VAESpec(latent_dim=2, sigma=1.0), "linear", x_dim=3, initial_std=1e-9)
        >>> terms = exact_terms(linear_values(model), torch.ones(4, 3))
        >>> round(terms.squared_error.mean().item(), 6), terms.kl[0].shape
        (3.0, torch.Size([4, 2]))
    """
    target, data = x if y is None else y, x
    if values.direct is not None:
        if y is None:
            raise InvalidArgumentError("y", "nothing", "a conditional model's target", "Pass y.")
        data, target = torch.cat([x, y], -1), y - x @ values.direct.mT
    if values.decoder_bias is not None:
        target = target - values.decoder_bias
    mean = data @ values.encoders[0].mT
    means = [mean if values.encoder_bias is None else mean + values.encoder_bias]
    covariances = [torch.diag_embed(values.stds[0].square())]  # of z_l given the sample
    for W, std in zip(values.encoders[1:], values.stds[1:], strict=True):
        means.append(means[-1] @ W.mT)
        covariances.append(W @ covariances[-1] @ W.mT + torch.diag_embed(std.square()))
    residual = (target - means[0] @ values.decoders[0].mT).square().sum(-1)
    spread = _diagonal(values.decoders[0], covariances[0]).sum(-1)
    stds_p, kl = (*values.eta_decs[1:], values.eta_enc), []
    for level, (mean, C, std) in enumerate(zip(means, covariances, values.stds, strict=True)):
        if level + 1 < len(means):
            W, U = values.encoders[level + 1], values.decoders[level + 1]
            back = torch.eye(len(C), dtype=C.dtype, device=C.device) - U @ W
            above = torch.diag_embed(values.stds[level + 1].square())
            distance = (mean - means[level + 1] @ U.mT).square()
            distance = distance + _diagonal(back, C) + _diagonal(U, above)
        else:
            distance = mean.square() + C.diagonal(dim1=-2, dim2=-1)
        kl.append(relative_entropy(distance, std, stds_p[level]))
    eta = values.eta_decs[0]
    normaliser = log_normaliser(eta, values.decoders[0].shape[-2])
    return Terms(residual + spread, eta, normaliser, tuple(kl), tuple(means))


def _diagonal(M: Tensor, S: Tensor) -> Tensor:
    """Diagonal of `M S M'`."""
    return ((M @ S) * M).sum(-1)


def read_parameters(model: MarkovVAE) -> dict[str, NDArray[np.float64]]:
    """Return a linear model's matrices under the theory's names: W1, U1, sigma_1, b1, ...

    Example:
        >>> from posterior_collapse.models import build
        >>> from posterior_collapse.specs import VAESpec
        >>> sorted(read_parameters(build(VAESpec(latent_dim=2), "linear", x_dim=5)))
        ['U1', 'W1', 'b1', 'c1', 'eta_dec', 'sigma_1']
    """
    values = _values(model)
    found: dict[str, Tensor] = {name: layer.weight for name, layer in _layers(model).items()}
    found.update({name: bias for name, bias in _biases(model).items() if bias is not None})
    found.update({f"sigma_{i}": std for i, std in enumerate(values.stds, start=1)})
    if model.observation is None:
        found["eta_dec"] = values.eta_decs[0]
    return {name: value.detach().cpu().double().numpy() for name, value in found.items()}


@torch.no_grad()
def load_parameters(model: MarkovVAE, parameters: Mapping[str, ArrayLike]) -> None:
    """Set a linear model's matrices, by the theory's names; it then starts at that optimum.

    Args:
        model: Of architecture `linear`.
        parameters: `W1`, `U1`, `sigma_1` and so on for each level (for a conditional model W1, W2,
            U1, U2 as in `y = U1 z + U2 x`, `E z = W1 x + W2 y`), perhaps `b1`, `c1` and `eta_dec`.

    Raises:
        InvalidArgumentError: A name is missing or unknown, a shape is wrong, a fixed std is not
            that of the spec, or there is a bias that the model lacks. The model is unchanged.

    Example:
        >>> from posterior_collapse.models import build
        >>> from posterior_collapse.specs import VAESpec
        >>> a, b = (build(VAESpec(latent_dim=2), "linear", x_dim=5, bias=b) for b in (True, False))
        >>> load_parameters(a, read_parameters(b))
        >>> bool((a.encoders[0].mean["x"].weight == b.encoders[0].mean["x"].weight).all())
        True
    """
    _check_linear(model)
    layers, biases, scales = _layers(model), _biases(model), _scales(model)
    given = {name: torch.from_numpy(np.array(v, float)) for name, v in parameters.items()}
    required = {*layers, *(name for name in scales if name != "eta_dec")}
    unknown = set(given) - required - set(biases) - {"eta_dec"}
    if unknown or required - set(given):
        raise InvalidArgumentError(
            "parameters",
            f"{sorted(given)}",
            f"{sorted(required)} and perhaps b1, c1 and eta_dec",
            "Take them from the forecast of the same spec.",
        )
    shapes = {name: tuple(layer.weight.shape) for name, layer in layers.items()}
    shapes |= {f"sigma_{i}": (units,) for i, units in enumerate(model.units, start=1)}
    for name, shape in {**shapes, "eta_dec": ()}.items():
        if name in given:
            _check_value(name, given[name], shape)
    for name, bias in biases.items():
        _check_bias(name, given.get(name), bias)
    for name, scale in scales.items():
        if name in given:
            _check_std(name, given[name], scale)
    for name, layer in layers.items():
        layer.weight.copy_(given[name])
    for name, bias in biases.items():
        if bias is not None:
            bias.copy_(given.get(name, torch.zeros_like(bias)))
    for name, scale in scales.items():
        if name in given:
            _set_std(scale, given[name])


@torch.no_grad()
def set_biases(model: MarkovVAE, mean_x: Tensor, mean_y: Tensor | None = None) -> None:
    """Set the biases that are optimal for a linear model's matrices and data of these means.

    With them the loss on the data is the loss on centred moments (theory: regression with
    intercept), so exact training needs no biases. Where the decoder is not Gaussian they make its
    output at the data's means the best constant one, such as the logits of these means.
    """
    _check_linear(model)
    layers, biases = _layers(model), _biases(model)
    b1, c1 = biases["b1"], biases["c1"]
    if b1 is None or c1 is None:
        raise InvalidArgumentError(
            "model", "a model without biases", "one built with bias=True", "Use raw moments."
        )
    mean_y = mean_x if mean_y is None else mean_y
    mean_x, mean_y = mean_x.to(b1), mean_y.to(b1)
    code, rest = layers["W1"].weight @ mean_x, _constant_output(model, mean_y)
    if model.conditional:
        code = code + layers["W2"].weight @ mean_y
        rest = rest - layers["U2"].weight @ mean_x
    b1.copy_(-code)
    c1.copy_(rest)


def trained_parameters(model: MarkovVAE) -> dict[str, Tensor]:
    """Return what exact training moves, under the theory's names; of learned stds, their logs.

    All but the biases, whose optimum is known: see `set_biases`.
    """
    _check_gaussian(model)
    _check_stds(model)
    found: dict[str, Tensor] = {name: layer.weight for name, layer in _layers(model).items()}
    scales = cast("dict[str, Scale]", _scales(model))
    return found | {name: scale.log for name, scale in scales.items() if scale.learned}


def _constant_output(model: MarkovVAE, mean_y: Tensor) -> Tensor:
    """The decoder output whose mean is that of the data."""
    if model.observation is None:
        return mean_y
    with np.errstate(divide="ignore"):
        output = FAMILIES[model.spec.likelihood].link(mean_y.cpu().double().numpy())
    return torch.from_numpy(output.clip(-ENDLESS, ENDLESS)).to(mean_y)


def _layers(model: MarkovVAE) -> dict[str, nn.Linear]:
    found = {}
    for i, (encoder, decoder) in enumerate(zip(model.encoders, model.decoders, strict=True)):
        encoder, decoder = cast(Encoder, encoder), cast(Decoder, decoder)
        found[f"W{i + 1}"] = encoder.mean["z" if i else "x"]
        found[f"U{i + 1}"] = decoder.heads["z"]
        if model.conditional:
            found["W2"], found["U2"] = encoder.mean["y"], decoder.heads["x"]
    return cast("dict[str, nn.Linear]", found)


def _biases(model: MarkovVAE) -> dict[str, Tensor | None]:
    layers = _layers(model)
    return {"b1": layers["W1"].bias, "c1": layers["U1"].bias}


def _scales(model: MarkovVAE) -> dict[str, Scale | nn.ModuleDict]:
    stds = {f"sigma_{i}": encoder.std for i, encoder in enumerate(model.encoders, start=1)}
    return cast("dict[str, Scale | nn.ModuleDict]", {**stds, "eta_dec": model.eta_dec})


def _scale(state: Mapping[str, Tensor], name: str) -> Tensor:
    log = state.get(f"{name}.log")
    return state[f"{name}.value"] if log is None else log.exp()


def _check_linear(model: MarkovVAE) -> None:
    if model.architecture.name != "linear":
        raise InvalidArgumentError(
            "architecture", repr(model.architecture.name), "'linear'", "Build a linear model."
        )


def _check_gaussian(model: MarkovVAE) -> None:
    if model.observation is not None:
        raise InvalidArgumentError(
            "likelihood",
            repr(model.spec.likelihood),
            "'gaussian', of which alone the noise can be integrated out",
            "Train by minibatches, without exact.",
        )


def _check_stds(model: MarkovVAE) -> None:
    _check_linear(model)
    if "input" in model.spec.sigma_levels:
        raise InvalidArgumentError(
            "sigma",
            "'input'",
            "a std that does not depend on the input",
            "Use sigma='learned': for a linear model the optimum is the same.",
        )


def _check_value(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if value.shape != shape:
        raise InvalidArgumentError(
            name, f"shape {tuple(value.shape)}", f"shape {shape}", "Check spec and data."
        )
    if not bool(value.isfinite().all()):
        raise InvalidArgumentError(
            name, "NaN or inf", "finite numbers", "Check where the parameters come from."
        )


def _check_bias(name: str, value: Tensor | None, bias: Tensor | None) -> None:
    if value is None:
        return
    if bias is not None:
        _check_value(name, value, tuple(bias.shape))
    elif bool((value != 0).any()):
        raise InvalidArgumentError(
            name, "a bias that is not 0", "none: the model has no biases", "Build with bias=True."
        )


def _check_std(name: str, value: Tensor, scale: Scale | nn.ModuleDict) -> None:
    if not bool((value > 0).all()):
        raise InvalidArgumentError(name, value.tolist(), "positive stds", "Check the parameters.")
    if isinstance(scale, nn.ModuleDict):
        return
    if scale.learned and scale.log.dim() == 0 and value.dim() and bool((value != value[0]).any()):
        raise InvalidArgumentError(
            name, value.tolist(), "one value: sigma is shared", "Build with sigma='learned'."
        )
    if scale.learned:
        return
    fixed = scale.value.double().cpu()  # where the parameters are
    # A chain has an eta_dec per level; the theory's is that of p(y|z_1).
    fixed = fixed[0] if name == "eta_dec" and fixed.dim() else fixed
    if not torch.allclose(value.expand_as(fixed), fixed, rtol=1e-6):
        raise InvalidArgumentError(
            name, value.tolist(), f"the spec's fixed {fixed.tolist()}", "Use the same spec."
        )


def _set_std(scale: Scale | nn.ModuleDict, value: Tensor) -> None:
    if isinstance(scale, Scale):
        if scale.learned:
            scale.set((value.flatten()[0] if scale.log.dim() == 0 else value).to(scale.log))
        return
    for head in scale.values():
        layer = cast(nn.Linear, head)
        layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.copy_(log_head_of(value))
