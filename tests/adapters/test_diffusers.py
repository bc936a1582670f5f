"""A real diffusers `AutoencoderKL`, small and untrained, against what diffusers says of it."""

from __future__ import annotations

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
