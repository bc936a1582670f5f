"""The paper's nets against experiments they were read from: sizes by hand, maps by hand."""

import pytest
import torch
from torch.nn import functional

from posterior_collapse.models import build
from posterior_collapse.specs import CVAESpec, HVAESpec, VAESpec

MNIST = 784
INPUT_CVAE = CVAESpec(latent_dim=16, sigma="input")
PAPER_HVAE = HVAESpec(latent_dims=(16, 16), sigma_1=0.5, sigma_2="input")


def dense(inputs, outputs):
    return inputs * outputs + outputs


def conv(inputs, outputs):
    return inputs * outputs * 9 + outputs


def between_levels(h):  # q(z2|z1) with two heads, p(z1|z2)
    return dense(16, h) + 2 * dense(h, 16) + dense(16, h) + dense(h, 16)


CVAE_RELU = {
    h: dense(196, h) + dense(588, h) + 4 * dense(h, 16)  # encoder
    + dense(16, h) + dense(196, h) + 2 * dense(h, 588)  # decoder
    for h in (16, 100)
}  # fmt: skip
CVAE_CNN = (
    2 * (conv(1, 32) + conv(32, 16)) + 2 * dense(256, 16) + 2 * dense(784, 16)
    + dense(16, 784) + conv(16, 32) + conv(32, 16) + conv(16, 1)
    + conv(1, 32) + conv(32, 1) + dense(784, 588)
)  # fmt: skip
HVAE_RELU = (
    dense(784, 256) + dense(256, 16) + between_levels(256) + dense(16, 256) + dense(256, 784)
)
HVAE_CNN = (
    conv(1, 64) + conv(64, 32) + dense(1568, 16) + between_levels(64)
    + dense(16, 1568) + conv(32, 64) + conv(64, 32) + conv(32, 1)
)  # fmt: skip
VAE_RELU = dense(784, 256) + dense(256, 16) + dense(16, 256) + dense(256, 784)
LINEAR_CVAE = 64 * 196 + 64 * 588 + 588 * 64 + 588 * 196 + 64

QUARTER = {"x_dim": 196, "y_dim": 588}
PAPER_NETS = [
    ("cvae-relu", INPUT_CVAE, QUARTER, CVAE_RELU[16], 37_080),
    ("cvae-relu", INPUT_CVAE, {**QUARTER, "hidden": (100,)}, CVAE_RELU[100], None),
    ("cvae-linear-net", INPUT_CVAE, QUARTER, CVAE_RELU[16], 37_080),
    ("cvae-cnn", INPUT_CVAE, {}, CVAE_CNN, 528_158),
    ("hvae-relu", PAPER_HVAE, {"x_dim": MNIST}, HVAE_RELU, 431_952),
    ("hvae-cnn", PAPER_HVAE, {}, HVAE_CNN, 113_409),
    ("vae-relu", VAESpec(latent_dim=16), {"x_dim": MNIST}, VAE_RELU + 16, 410_928),
    ("vae-relu", VAESpec(latent_dim=16, sigma=0.5), {"x_dim": MNIST}, VAE_RELU, 410_912),
    ("linear", CVAESpec(latent_dim=64), {**QUARTER, "bias": False}, LINEAR_CVAE, 203_120),
]


@pytest.mark.parametrize(("name", "spec", "options", "formula", "count"), PAPER_NETS)
def test_paper_nets_have_their_sizes(name, spec, options, formula, count):
    model = build(spec, name, **options)
    assert count in (None, formula)
    assert sum(p.numel() for p in model.parameters()) == formula


@pytest.mark.parametrize(("name", "spec", "options", "formula", "count"), PAPER_NETS)
def test_paper_nets_map_batches_to_terms(name, spec, options, formula, count):
    model = build(spec, name, **options)
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(3, model.shapes.x_dim, generator=generator)
    y = torch.rand(3, model.shapes.y_dim, generator=generator) if model.conditional else None
    terms = model(x, y, model.draw_noise(3, generator))
    assert terms.squared_error.shape == (3,)
    assert [kl.shape for kl in terms.kl] == [(3, dim) for dim in spec.dims]
    assert all(kl.isfinite().all() for kl in terms.kl)
    everything = terms.squared_error.sum() + terms.normaliser + sum(kl.sum() for kl in terms.kl)
    gradients = torch.autograd.grad(everything, list(model.parameters()))
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in gradients)


def applied(layer, value):
    return functional.linear(value, layer.weight, layer.bias)


def test_cvae_relu_is_the_two_path_net():
    model = build(INPUT_CVAE, "cvae-relu", **QUARTER)
    x, y, z = torch.rand(4, 196), torch.rand(4, 588), torch.randn(4, 16)
    encoder, decoder = model.encoders[0], model.decoders[0]
    hx = torch.relu(applied(encoder.features["x"].layers[0], x))
    hy = torch.relu(applied(encoder.features["y"].layers[0], y))
    q = model.posterior(1, x, y)
    s = applied(encoder.std["x"], hx) + applied(encoder.std["y"], hy)
    torch.testing.assert_close(
        q.mean, applied(encoder.mean["x"], hx) + applied(encoder.mean["y"], hy)
    )
    assert (s < 0).any()
    torch.testing.assert_close(q.variance, s**2)
    hz = torch.relu(applied(decoder.features["z"].layers[0], z))
    hx = torch.relu(applied(decoder.features["x"].layers[0], x))
    torch.testing.assert_close(
        model.decode(z, x).mean, applied(decoder.heads["z"], hz) + applied(decoder.heads["x"], hx)
    )


def test_cvae_linear_net_has_no_nonlinearity():
    model = build(INPUT_CVAE, "cvae-linear-net", dtype=torch.float64, **QUARTER)
    a, b, x = (torch.randn(2, n, dtype=torch.float64) for n in (16, 16, 196))
    zero = torch.zeros_like(a)
    difference = model.decode(a + b, x).mean - model.decode(a, x).mean
    torch.testing.assert_close(difference, model.decode(b, x).mean - model.decode(zero, x).mean)


def test_hvae_relu_squashes_by_tanh():
    model = build(PAPER_HVAE, "hvae-relu", x_dim=MNIST)
    x, z1, z2 = torch.rand(4, MNIST), torch.randn(4, 16), torch.randn(4, 16)
    bottom, top = model.encoders
    hidden = torch.relu(applied(bottom.features["x"].layers[0], x))
    q1 = model.posterior(1, x)
    torch.testing.assert_close(q1.mean, torch.tanh(applied(bottom.mean["x"], hidden)))
    torch.testing.assert_close(q1.stddev, torch.full((4, 16), 0.5))
    hidden = torch.relu(applied(top.features["z"].layers[0], z1))
    q2 = model.posterior(2, z1)
    torch.testing.assert_close(q2.mean, torch.tanh(applied(top.mean["z"], hidden)))
    torch.testing.assert_close(q2.variance, torch.tanh(applied(top.std["z"], hidden)) ** 2)
    for distribution, decoder, z in (
        (model.decode(z1), model.decoders[0], z1),
        (model.prior(1, z2), model.decoders[1], z2),
    ):
        hidden = torch.relu(applied(decoder.features["z"].layers[0], z))
        torch.testing.assert_close(
            distribution.mean, torch.tanh(applied(decoder.heads["z"], hidden))
        )


def test_vae_relu_has_non_negative_means():
    model = build(VAESpec(latent_dim=16), "vae-relu", x_dim=MNIST)
    means = model.posterior(1, torch.rand(50, MNIST)).mean
    assert means.min() == 0
    assert means.max() > 0


def test_cvae_cnn_reads_the_target_with_a_hole_and_returns_its_quarters():
    model = build(INPUT_CVAE, "cvae-cnn")
    image = torch.rand(28, 28)
    holed = image.clone()
    holed[14:, :14] = 0
    quarters = [image[:14, :14], image[:14, 14:], image[14:, 14:]]
    y = torch.cat([q.reshape(-1) for q in quarters])[None]
    features = model.encoders[0].features["y"]
    whole = features.convolutions(holed.reshape(1, -1), {})
    torch.testing.assert_close(features(y, {}), whole)
    assert whole.shape == (1, 784)
    z = torch.randn(1, 16)
    head = model.decoders[0].heads["z"]
    decoded = head[0](z).reshape(28, 28)
    parts = [decoded[:14, :14], decoded[:14, 14:], decoded[14:, 14:]]
    torch.testing.assert_close(head(z)[0], torch.cat([p.reshape(-1) for p in parts]))


def test_signed_std_stays_finite_at_zero():
    model = build(INPUT_CVAE, "cvae-relu", x_dim=6, y_dim=4)
    with torch.no_grad():
        for head in model.encoders[0].std.values():
            head.weight.zero_()
            head.bias.zero_()
    generator = torch.Generator().manual_seed(0)
    terms = model(torch.rand(3, 6), torch.rand(3, 4), model.draw_noise(3, generator))
    assert terms.kl[0].isfinite().all()
    gradients = torch.autograd.grad(terms.kl[0].sum(), list(model.encoders.parameters()))
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("image_shape", [(8, 8), (1, 7, 5), (3, 9, 12), (2, 1, 3)])
@pytest.mark.parametrize(
    "spec",
    [
        VAESpec(latent_dim=3),
        CVAESpec(latent_dim=3, sigma="input"),
        HVAESpec(latent_dims=(3, 2), sigma_2="shared"),
    ],
)
def test_cnn_meets_any_image_shape(spec, image_shape):
    model = build(spec, "cnn", image_shape=image_shape, channels=(4, 5, 3), hidden=(6,))
    pixels = torch.tensor(image_shape).prod().item()
    x = torch.rand(2, pixels)
    y = x if model.conditional else None
    assert model.reconstruct(x, y, through=len(spec.dims)).shape == (2, pixels)
    noise = model.draw_noise(2, torch.Generator().manual_seed(0))
    assert model(x, y, noise).squared_error.shape == (2,)


def test_cnn_serves_conditions_of_another_shape():
    spec = CVAESpec(latent_dim=3)
    model = build(spec, "cnn", image_shape=(6, 8), condition_shape=(5, 8), channels=(4,))
    x, y = torch.rand(2, 40), torch.rand(2, 48)
    assert model.reconstruct(x, y).shape == (2, 48)
