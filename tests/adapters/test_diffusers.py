"""A real diffusers `AutoencoderKL`, small and untrained, against what diffusers says of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import posterior_collapse as pc
from posterior_collapse import InvalidArgumentError, VAESpec
from posterior_collapse.adapters import from_diffusers
from posterior_collapse.testing import check_latent_model

diffusers = pytest.importorskip("diffusers")

IMAGES = torch.rand(6, 1, 8, 16, generator=torch.Generator().manual_seed(0))
LATENT = (3, 4, 8)


@pytest.fixture(scope="module")
def autoencoder() -> Any:
    """Three latent channels, of which the second is dead: its posterior is the prior."""
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(8, 16),
        latent_channels=3,
        norm_num_groups=4,
        sample_size=16,
    )
    with torch.no_grad():
        for row in (1, 4):  # mean and log-variance of the second channel
            model.quant_conv.weight[row] = 0
            model.quant_conv.bias[row] = 0
    return model


def test_it_keeps_the_contract(autoencoder: Any) -> None:
    check_latent_model(from_diffusers(autoencoder, shape=(1, 8, 16)), IMAGES)


def test_posterior_and_kl_are_those_of_diffusers(autoencoder: Any) -> None:
    model = from_diffusers(autoencoder, shape=(1, 8, 16))
    q = model.posterior(1, IMAGES.flatten(1))
    theirs = autoencoder.encode(IMAGES).latent_dist
    torch.testing.assert_close(q.mean.reshape(6, *LATENT), theirs.mean)
    torch.testing.assert_close(q.stddev.reshape(6, *LATENT), theirs.std)
    kl = torch.distributions.kl_divergence(q, model.prior(1))
    torch.testing.assert_close(kl.sum(1), theirs.kl())
    by_channel = model.per_channel(kl)
    torch.testing.assert_close(by_channel.sum(1), theirs.kl())
    assert by_channel.shape == (6, 3)
    assert (by_channel[:, 1] == 0).all()
    assert (by_channel[:, [0, 2]] > 0.1).all()


def test_the_dead_channel_is_found(autoencoder: Any) -> None:
    model = from_diffusers(autoencoder, shape=(1, 8, 16))
    found = pc.diagnose(model, IMAGES)
    theirs = autoencoder.encode(IMAGES).latent_dist
    kl = model.per_channel(found.levels[0].kl)
    assert kl.sum() == pytest.approx(theirs.kl().mean().item(), rel=1e-5)
    assert kl[1] == 0
    dead = [status == "collapsed" for status in found.levels[0].status]
    assert model.per_channel(np.array(dead)).tolist()[1] == 32
    assert found.spec is None  # diffusers does not say how the model was trained
    # By no squared error alone, so that no certificate holds.
    assert (found.conclusion, found.likelihood) == ("cannot-tell-yet", "other")


def test_decoder_is_that_of_diffusers(autoencoder: Any) -> None:
    model = from_diffusers(autoencoder, shape=(1, 8, 16))
    z = torch.randn(2, *LATENT, generator=torch.Generator().manual_seed(1))
    theirs = autoencoder.eval().decode(z).sample
    torch.testing.assert_close(model.decode(z.flatten(1)).mean, theirs.flatten(1))
    torch.testing.assert_close(model.decode(z.flatten(1)).stddev, torch.ones(2, 128))


def test_per_channel_of_arrays(autoencoder: Any) -> None:
    model = from_diffusers(autoencoder, shape=(1, 8, 16))
    values = torch.arange(96.0)
    expected = values.reshape(3, 32).sum(1)
    torch.testing.assert_close(model.per_channel(values), expected)
    assert model.per_channel(values.numpy()).tolist() == expected.tolist()


def test_shape_and_spec(autoencoder: Any) -> None:
    model = from_diffusers(autoencoder)
    assert (model.shape, model.latent_shape) == ((1, 16, 16), (3, 8, 8))
    assert model.spec_assumed
    spec = VAESpec(latent_dim=192, beta=1e-6, sigma="input")
    given = from_diffusers(autoencoder, spec=spec)
    assert given.spec is spec
    assert not given.spec_assumed


@pytest.mark.parametrize("shape", [(3, 8, 16), (8, 16), (1, 7, 16), (1, 8)])
def test_images_that_it_cannot_take(autoencoder: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"\(1, height, width\).* multiples of 2"):
        from_diffusers(autoencoder, shape=shape)


def test_other_models_are_refused(autoencoder: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="a Linear; expected a diffusers AutoencoderKL"):
        from_diffusers(nn.Linear(2, 2))
    with pytest.raises(InvalidArgumentError, match="latent_dim=192"):
        from_diffusers(autoencoder, spec=VAESpec(latent_dim=3))
    quantised = diffusers.VQModel(in_channels=1, out_channels=1, norm_num_groups=4,
                                  block_out_channels=(8,), sample_size=8)  # fmt: skip
    with pytest.raises(InvalidArgumentError, match=r"a VQModel, whose encode.* has no latent_dist"):
        from_diffusers(quantised, shape=(1, 8, 8))


def test_without_decoding_each_image_is_encoded_once_and_units_are_the_same(
    autoencoder: Any,
) -> None:
    counts = {"encoder": 0, "decoder": 0}

    def counting(name: str) -> Any:
        def count(module: Any, inputs: Any) -> None:
            counts[name] += len(inputs[0])

        return getattr(autoencoder, name).register_forward_pre_hook(count)

    hooks = [counting(name) for name in counts]
    whole = pc.diagnose(from_diffusers(autoencoder, shape=(1, 8, 16)), IMAGES)
    assert counts["decoder"] > 10 * len(IMAGES)
    counts.update(encoder=0, decoder=0)
    model = from_diffusers(autoencoder, shape=(1, 8, 16), decode=False)
    found = pc.diagnose(model, IMAGES)
    assert counts == {"encoder": len(IMAGES), "decoder": 0}
    for hook in hooks:
        hook.remove()
    np.testing.assert_array_equal(found.levels[0].kl, whole.levels[0].kl)
    np.testing.assert_array_equal(found.levels[0].information, whole.levels[0].information)
    assert found.levels[0].status == whole.levels[0].status
    check_latent_model(model, IMAGES)


def asymmetric() -> Any:
    return diffusers.AsymmetricAutoencoderKL(
        in_channels=1, out_channels=1, down_block_out_channels=(8,), up_block_out_channels=(8,),
        norm_num_groups=4, latent_channels=2, sample_size=8,
    )  # fmt: skip


def temporal() -> Any:
    return diffusers.AutoencoderKLTemporalDecoder(
        in_channels=1, out_channels=1, block_out_channels=(32,), latent_channels=2,
        layers_per_block=1, sample_size=8,
    )  # fmt: skip


def sound() -> Any:
    return diffusers.AutoencoderOobleck(
        encoder_hidden_size=8, downsampling_ratios=[2, 4], channel_multiples=[1, 2],
        decoder_channels=8, decoder_input_channels=4, audio_channels=2,
    )  # fmt: skip


def video() -> Any:
    return diffusers.AutoencoderKLMagvit(
        in_channels=1, out_channels=1, latent_channels=2, block_out_channels=(8, 8),
        down_block_types=("SpatialDownBlock3D",) * 2, up_block_types=("SpatialUpBlock3D",) * 2,
        layers_per_block=1, norm_num_groups=4,
    )  # fmt: skip


# diffusers' own code for sounds.
deprecated = pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")


@deprecated
@pytest.mark.parametrize(
    ("make", "shape", "latent"),
    [
        (asymmetric, (1, 8, 8), (2, 8, 8)),
        (temporal, (1, 8, 8), (2, 8, 8)),
        (sound, (2, 32), (4, 4)),
        (video, (1, 1, 8, 8), (2, 1, 4, 4)),
    ],
)
def test_others_of_its_kind(make: Any, shape: tuple[int, ...], latent: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    autoencoder = make()
    model = from_diffusers(autoencoder, shape=shape)
    assert autoencoder.training == make().training  # as it was found
    assert model.latent_shape == latent
    x = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    autoencoder.eval()
    with torch.no_grad():
        theirs = autoencoder.encode(x).latent_dist
        q = model.posterior(1, x.flatten(1))
        kl = torch.distributions.kl_divergence(q, model.prior(1))
    per_channel = 0.5 * (theirs.mean**2 + theirs.std**2 - 1 - 2 * theirs.std.log())
    torch.testing.assert_close(
        model.per_channel(kl), per_channel.flatten(2).sum(2), rtol=1e-4, atol=1e-4
    )
    check_latent_model(model, x)


@deprecated
def test_a_shape_that_is_not_known_or_not_taken() -> None:
    with pytest.raises(InvalidArgumentError, match="the model's config has none"):
        from_diffusers(sound())
    with pytest.raises(InvalidArgumentError, match="encode raised RuntimeError"):
        from_diffusers(sound(), shape=(3, 32))


class Plain:
    """No diffusers model, nor a module: only its methods are of the kind."""

    def __init__(self) -> None:
        self.layer = nn.Conv2d(1, 4, 2, stride=2)

    def encode(self, x: torch.Tensor) -> Any:
        mean, log_var = self.layer(x).chunk(2, 1)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=(log_var / 2).exp()))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(z[:, :1], scale_factor=2)


def test_its_kind_is_told_by_its_methods() -> None:
    model = from_diffusers(Plain(), shape=(1, 4, 4))
    assert model.latent_shape == (2, 2, 2)
    check_latent_model(model, torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
