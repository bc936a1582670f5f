"""pythae VAEs, trained by pythae's own trainer on digits, with units known to be dead."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import posterior_collapse as pc
from posterior_collapse import InvalidArgumentError, VAESpec
from posterior_collapse.adapters import from_pythae
from posterior_collapse.testing import check_latent_model

pytest.importorskip("pythae")
models = pytest.importorskip("pythae.models")
trainers = pytest.importorskip("pythae.trainers")
from pythae.data.datasets import BaseDataset  # noqa: E402
from pythae.models.base.base_utils import ModelOutput  # noqa: E402
from pythae.models.nn import BaseDecoder, BaseEncoder  # noqa: E402

LIVE = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
DIGITS = torch.tensor(pc.load("digits").x, dtype=torch.float32).reshape(-1, 1, 8, 8)


class Encoder(BaseEncoder):
    """Units where `LIVE` is 0 return the prior, whatever they are trained to."""

    def __init__(self) -> None:
        super().__init__()
        self.latent_dim = len(LIVE)
        self.mean, self.log_var = nn.Linear(64, 6), nn.Linear(64, 6)

    def forward(self, x: Tensor) -> Any:
        rows = x.flatten(1)
        return ModelOutput(
            embedding=LIVE * self.mean(rows), log_covariance=LIVE * self.log_var(rows)
        )


class Decoder(BaseDecoder):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 64)

    def forward(self, z: Tensor) -> Any:
        return ModelOutput(reconstruction=self.layer(z).reshape(-1, 1, 8, 8))


def trained(beta: float, folder: Path, epochs: int) -> Any:
    torch.manual_seed(0)
    config = models.BetaVAEConfig(input_dim=(1, 8, 8), latent_dim=6, beta=beta)
    model = models.BetaVAE(config, Encoder(), Decoder())
    trainer = trainers.BaseTrainer(
        model,
        train_dataset=BaseDataset(DIGITS, torch.zeros(len(DIGITS))),
        training_config=trainers.BaseTrainerConfig(
            output_dir=str(folder),
            num_epochs=epochs,
            per_device_train_batch_size=100,
            learning_rate=1e-2,
            no_cuda=True,
        ),
    )
    trainer.train()
    return model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", dict(os.environ))  # pythae writes MASTER_ADDR into it
        return trained(0.02, tmp_path_factory.mktemp("pythae"), epochs=20)


@pytest.fixture(scope="module")
def collapsed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", dict(os.environ))
        return trained(2.0, tmp_path_factory.mktemp("pythae"), epochs=20)


def kl(model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.distributions.kl_divergence(model.posterior(1, x), model.prior(1))


def test_it_keeps_the_contract(model: Any) -> None:
    check_latent_model(from_pythae(model), DIGITS[:20])


def test_dead_and_live_units_are_found(model: Any) -> None:
    found = pc.diagnose(from_pythae(model), DIGITS)
    (level,) = found.levels
    assert [status == "active" for status in level.status] == LIVE.bool().tolist()
    assert (level.kl[LIVE == 0] == 0).all()
    # Units are missing: the trained ones are live, and the digits would pay for more.
    assert found.spec == VAESpec(latent_dim=6, beta=0.02, sigma="input")
    assert found.conclusion == "signal-unclaimed"


def test_kl_is_the_one_that_pythae_trains(model: Any) -> None:
    theirs = model({"data": DIGITS}).reg_loss.detach()
    torch.testing.assert_close(kl(from_pythae(model), DIGITS.flatten(1)).sum(1).mean(), theirs)


def test_the_spec_is_the_loss_that_pythae_trains(model: Any) -> None:
    """The loss by the spec, at pythae's own sample of z, up to the Gaussian's constant."""
    wrapped = from_pythae(model)
    assert wrapped.spec == VAESpec(latent_dim=6, beta=0.02, sigma="input")
    assert not wrapped.spec_assumed
    theirs = model({"data": DIGITS})
    nll = -wrapped.decode(theirs.z).log_prob(DIGITS.flatten(1)).sum(1).mean()
    constant = 0.5 * 64 * torch.log(torch.tensor(2 * torch.pi))
    ours = nll - constant + 0.02 * kl(wrapped, DIGITS.flatten(1)).sum(1).mean()
    torch.testing.assert_close(ours, theirs.loss)


def test_total_collapse_is_what_the_objective_asks_for(collapsed: Any) -> None:
    found = pc.diagnose(from_pythae(collapsed), DIGITS)
    assert found.n_active == found.forecast.levels[0].n_active == 0
    assert found.conclusion == "collapse-optimal"


@pytest.mark.parametrize("name", ["VAE", "BetaVAE"])
def test_a_plain_vae_has_beta_1_and_bce_is_a_bernoullis(name: str) -> None:
    config = getattr(models, f"{name}Config")
    gaussian = getattr(models, name)(config(input_dim=(1, 8, 8), latent_dim=3))
    assert from_pythae(gaussian).spec == VAESpec(latent_dim=3, beta=1.0, sigma="input")
    options = {"input_dim": (1, 8, 8), "latent_dim": 3, "reconstruction_loss": "bce"}
    own = getattr(models, name)(config(**options))
    bernoulli = from_pythae(own)
    assert bernoulli.spec == VAESpec(latent_dim=3, sigma="input", likelihood="bernoulli")
    given = from_pythae(
        getattr(models, name)(config(**options)), spec=VAESpec(latent_dim=3, eta_dec=0.5)
    )
    # The decoder's probabilities are no Gaussian's means, whatever else is known.
    for one in (bernoulli, given):
        check_latent_model(one, DIGITS[:20])
        found = pc.diagnose(one, DIGITS)
        assert found.likelihood == "bernoulli"
        assert found.conclusion != "cannot-tell-yet"
        assert found.loss > found.forecast.loss
        assert not [note for note in found.notes if "read as" in note]
    with torch.no_grad():
        own.eval()
        loss = own(models.base.base_utils.ModelOutput(data=DIGITS.reshape(-1, 1, 8, 8)))
    assert pc.diagnose(bernoulli, DIGITS).loss == pytest.approx(loss.loss.item(), rel=1e-2)
    assert pc.diagnose(from_pythae(gaussian), DIGITS).likelihood == "gaussian"


def test_beta_is_what_the_loss_uses_and_a_loss_of_ones_own_is_not_known() -> None:
    """The name of a class says nothing of a subclass, nor its config of a beta that was changed."""
    config = models.BetaVAEConfig(input_dim=(1, 8, 8), latent_dim=3, beta=2.0)
    model = models.BetaVAE(config)
    model.beta = 5.0
    assert from_pythae(model).spec.beta == 5.0

    class Own(models.BetaVAE):
        def loss_function(self, *args: Any) -> Any:
            return super().loss_function(*args)

    class Same(models.VAE):
        pass

    assert from_pythae(Own(config)).spec_assumed
    plain = Same(models.VAEConfig(input_dim=(1, 8, 8), latent_dim=3))
    assert not from_pythae(plain).spec_assumed


@pytest.mark.parametrize("name", ["IWAE", "BetaTCVAE", "DisentangledBetaVAE", "MIWAE"])
def test_other_objectives_leave_the_spec_assumed(name: str) -> None:
    other = getattr(models, name)(
        getattr(models, f"{name}Config")(input_dim=(1, 8, 8), latent_dim=3)
    )
    wrapped = from_pythae(other)
    assert wrapped.spec_assumed
    check_latent_model(wrapped, DIGITS[:5])


@pytest.mark.parametrize("name", ["VAMP", "VAE_LinNF", "VAE_IAF", "HVAE", "SVAE", "AE"])
def test_other_posteriors_and_priors_are_refused(name: str) -> None:
    config = getattr(
        models, f"{name}_Config" if name in ("VAE_LinNF", "VAE_IAF") else f"{name}Config"
    )
    other = getattr(models, name)(config(input_dim=(1, 8, 8), latent_dim=3))
    with pytest.raises(InvalidArgumentError, match=f"a {name}; expected a pythae VAE"):
        from_pythae(other)


def test_the_shape_is_needed_where_the_config_has_none() -> None:
    own = models.VAE(models.VAEConfig(latent_dim=6), Encoder(), Decoder())
    seen = []
    own.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    from_pythae(own, shape=(1, 8, 8)).posterior(1, DIGITS[:4].flatten(1))
    assert seen == [(4, 1, 8, 8)]
