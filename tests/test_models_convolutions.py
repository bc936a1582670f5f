"""Convolutions computed our way, against torch's own layers in float64."""

import copy

import pytest
import torch
from torch import nn

from posterior_collapse.models.convolutions import convolved

LAYERS = {
    "of one channel": lambda: nn.Conv2d(1, 5, 3, 2, 1),
    "of many": lambda: nn.Conv2d(6, 4, 3, 2, 1),
    "larger": lambda: nn.ConvTranspose2d(6, 4, 3, 2, 1, output_padding=(1, 0)),
    "larger of one channel": lambda: nn.ConvTranspose2d(1, 4, 3, 2, 1, 1),
    "to one channel": lambda: nn.ConvTranspose2d(6, 1, 3, padding=1),
    "to colours": lambda: nn.ConvTranspose2d(6, 3, 3, padding=1),
    "to colours, uneven": lambda: nn.ConvTranspose2d(4, 2, (3, 2), padding=(2, 0)),
    "to many": lambda: nn.ConvTranspose2d(6, 8, 3, padding=1),
}


def ours(layer):
    """The layer, computed our way."""
    layer = copy.copy(layer)
    layer.__class__ = type("Ours", (type(layer),), {"forward": convolved})
    return layer


def prepared(name, dtype=torch.float64):
    """A layer, images, and numbers of the size of what it gives."""
    draw = torch.Generator().manual_seed(0)
    layer = LAYERS[name]()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=draw)
    layer = layer.to(dtype)
    image = torch.randn(3, layer.in_channels, 7, 6, generator=draw).to(dtype).requires_grad_()
    weights = torch.randn(layer(image).shape, generator=draw).to(dtype)
    return layer, image, weights


def slopes(output, weights, layer, image):
    parameters = [image, layer.weight, layer.bias]
    return torch.autograd.grad((output.double() * weights.double()).sum(), parameters)


@pytest.mark.parametrize("name", LAYERS)
def test_value_and_gradients_are_those_of_torchs_layer(name):
    layer, image, weights = prepared(name)
    expected = layer(image)
    found = convolved(layer, image)
    # Sums of at most 54 products of standard normal numbers, in another order.
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    of_ours, of_torchs = (slopes(out, weights, layer, image) for out in (found, expected))
    torch.testing.assert_close(of_ours, of_torchs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", LAYERS)
def test_slopes_have_slopes(name):
    layer, image, _ = prepared(name)
    few = image[:1, :, :3, :3].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: convolved(layer, x), (few,))
    assert torch.autograd.gradgradcheck(lambda x: convolved(layer, x).square(), (few,))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_rounding_is_that_of_the_precision(name, precision):
    layer, image, weights = prepared(name)
    expected = layer(image)
    of_exact = slopes(expected, weights, layer, image)
    layer, image, weights = prepared(name, torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        found = convolved(layer, image)
    of_found = slopes(found, weights, layer, image)
    # Of the largest entry: some roundings by 2^-24, or by 2^-9 of factors and results.
    bound = 1e-5 if precision == "float32" else 0.02
    for one, exact in zip((found, *of_found), (expected, *of_exact), strict=True):
        assert (one.double() - exact).abs().max() <= bound * exact.abs().max()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_dtype_is_that_of_torchs_layer(name, dtype, autocast):
    layer, image, _ = prepared(name, dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert convolved(layer, image).dtype == layer(image).dtype


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # that torch uses itself
@pytest.mark.parametrize("name", LAYERS)
def test_slopes_may_be_taken_forward(name):
    layer, image, _ = prepared(name)
    given = layer.weight, layer.bias, image[:1, :, :3, :3]

    def slopes(model):
        def total(*given):
            return called(model, *given).pow(3).sum()

        return torch.func.hessian(total, argnums=(0, 1, 2))(*given)

    of_ours, of_torchs = slopes(ours(layer)), slopes(layer)
    torch.testing.assert_close(of_ours, of_torchs, rtol=1e-11, atol=1e-11)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about itself
def test_a_compiler_takes_it_whole():
    layer, image, _ = prepared("to one channel")
    compiled = torch.compile(lambda x: convolved(layer, x), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(image), layer(image))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("many", [(0, 0, 0), (0, None, None), (None, None, 0)])
def test_models_side_by_side_are_computed_as_each_alone(name, many):
    layer, image, _ = prepared(name)
    every = [torch.stack([one, 1 - 2 * one]) for one in (layer.weight, layer.bias, image)]
    given = [both if axis == 0 else both[0] for both, axis in zip(every, many, strict=True)]
    alone = [
        called(
            layer, *(both[i if axis == 0 else 0] for both, axis in zip(every, many, strict=True))
        )
        for i in range(2)
    ]
    found = torch.vmap(lambda *given: called(ours(layer), *given), many)(*given)
    torch.testing.assert_close(found, torch.stack(alone))


def called(model, weight, bias, image):
    return torch.func.functional_call(model, {"weight": weight, "bias": bias}, (image,))
