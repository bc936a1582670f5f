"""`diagnose` through `from_callable`: units planted dead and live are found to be so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import posterior_collapse as pc
from posterior_collapse.adapters import from_callable

LIVE = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
STATUS = ("active", "collapsed", "active", "collapsed", "active")
ROWS = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))


class Planted(nn.Module):
    """Dead units return the prior; the decoder ignores the last unit, although it is live."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(6, 5, generator=generator))
        self.drop = nn.Dropout(0.5)
        self.decoder = nn.Linear(5, 6)
        with torch.no_grad():
            self.decoder.weight[:, 4] = 0

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.drop(x) @ self.weight
        return LIVE * mean, LIVE * torch.full_like(mean, -2.0)


def expected_kl() -> Tensor:
    mean = ROWS @ Planted().weight.detach()
    return LIVE * 0.5 * (mean.square() + np.exp(-2) - 1 + 2).mean(0)


def test_encoder_alone() -> None:
    found = pc.diagnose(from_callable(Planted().encode, latent_dim=5), ROWS)
    (level,) = found.levels
    assert level.status == STATUS
    np.testing.assert_allclose(level.kl, expected_kl(), rtol=1e-5)
    assert found.loss is None
    assert found.spec is None
    assert np.isnan(level.decoder_effect).all()


def test_with_decoder_and_spec() -> None:
    model = Planted()
    spec = pc.VAESpec(latent_dim=5, beta=0.5, eta_dec=0.7, sigma="input")
    wrapped = from_callable(model.encode, model.decoder, latent_dim=5, spec=spec)
    found = pc.diagnose(wrapped, ROWS, importance_samples=20)
    (level,) = found.levels
    assert level.status == STATUS
    used = level.decoder_effect > 0
    assert used.tolist() == [True, True, True, True, False]
    assert found.spec == spec
    kl = float(expected_kl().sum())
    assert found.loss == pytest.approx(found.reconstruction + 0.5 * kl, rel=1e-5)
    assert found.nll is not None


def test_training_mode_is_noted_and_given_back() -> None:
    model = Planted()
    found = pc.diagnose(from_callable(model.encode, model.decoder, latent_dim=5), ROWS)
    assert any("training mode" in note for note in found.notes)
    assert model.training
    assert model.drop.training
    model.eval()
    found = pc.diagnose(from_callable(model.encode, model.decoder, latent_dim=5), ROWS)
    assert not any("training mode" in note for note in found.notes)


def test_conditional() -> None:
    model = Planted().eval()
    x, y = ROWS[:, :2], ROWS[:, 2:]
    wrapped = from_callable(
        lambda x, y: model.encode(torch.cat([x, y], 1)),
        lambda z, x: model.decoder(z)[:, 2:],
        latent_dim=5,
        spec=pc.CVAESpec(latent_dim=5, sigma="input"),
    )
    assert pc.diagnose(wrapped, (x, y)).levels[0].status == STATUS


@pytest.mark.parametrize("mistake", [lambda v: v.exp(), lambda v: (0.5 * v).exp()])
def test_a_variance_in_place_of_its_log_is_suspected(mistake: Any) -> None:
    model = Planted().eval()

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = model.encode(x)
        return mean, mistake(log_var)

    found = pc.diagnose(from_callable(encode, latent_dim=5), ROWS)
    assert found.advice[0].code == "variance-for-log-variance"


def test_images_in_a_loader_of_single_rows() -> None:
    model = Planted().eval()
    images = torch.utils.data.TensorDataset(ROWS.reshape(400, 1, 2, 3))
    wrapped = from_callable(
        lambda x: model.encode(x.flatten(1)),
        lambda z: model.decoder(z).reshape(-1, 1, 2, 3),
        latent_dim=5,
        shape=(1, 2, 3),
    )
    found = pc.diagnose(wrapped, torch.utils.data.DataLoader(images, batch_size=1))
    assert found.levels[0].status == STATUS
    np.testing.assert_allclose(found.levels[0].kl, expected_kl(), rtol=1e-5)


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson", "negative-binomial", "gaussian"])
@pytest.mark.parametrize("kind", ["Normal", "Poisson", "ContinuousBernoulli", "StudentT"])
def test_a_decoder_of_another_distribution_than_the_specs_is_refused(
    likelihood: Any, kind: str
) -> None:
    """Its loss would be its own, and the forecast that of the spec."""
    model = Planted()
    decoders = {
        "Normal": lambda z: torch.distributions.Normal(model.decoder(z), 1.0),
        "Poisson": lambda z: torch.distributions.Poisson(model.decoder(z).exp()),
        "ContinuousBernoulli": lambda z: torch.distributions.ContinuousBernoulli(
            logits=model.decoder(z)
        ),
        "StudentT": lambda z: torch.distributions.StudentT(4.0, model.decoder(z)),
    }
    rows = (ROWS > 0).float()
    own = {"Normal": "gaussian", "Poisson": "poisson"}.get(kind)
    for spec in (pc.VAESpec(5, likelihood=likelihood), pc.VAESpec(5, likelihood="other")):
        wrapped = from_callable(model.encode, decoders[kind], latent_dim=5, spec=spec)
        if spec.likelihood in (own, "other"):
            assert pc.diagnose(wrapped, rows).loss is not None
            continue
        with pytest.raises(pc.InvalidArgumentError, match=f"got a {kind}; .*{likelihood!r}"):
            pc.diagnose(wrapped, rows)


@pytest.mark.parametrize("double", ["encoder", "decoder"])
def test_parts_of_two_dtypes_are_told_so_and_what_is_advised_works(double: str) -> None:
    """Images were thought of; a shape= does not help."""
    torch.manual_seed(0)
    encoder, decoder = nn.Linear(6, 6), nn.Linear(3, 6)
    (encoder if double == "encoder" else decoder).double()

    def of(decode: Any, encode: Any) -> Any:
        spec = pc.VAESpec(3, sigma="input")
        return from_callable(lambda x: encode(x).chunk(2, -1), decode, latent_dim=3, spec=spec)

    with pytest.raises(
        pc.InvalidArgumentError, match=r"^model: .* of one dtype\. Bring all to one"
    ):
        pc.diagnose(of(decoder, encoder), ROWS)
    wrapped = of(
        lambda z: decoder(z.to(decoder.weight.dtype)), lambda x: encoder(x.to(encoder.weight.dtype))
    )
    found = pc.diagnose(wrapped, ROWS)
    encoder.float(), decoder.float()
    expected = pc.diagnose(of(decoder, encoder), ROWS)
    assert found.levels[0].kl == pytest.approx(expected.levels[0].kl, rel=1e-4)
    assert found.loss == pytest.approx(expected.loss, rel=0.05)  # the noise is drawn in its dtype
