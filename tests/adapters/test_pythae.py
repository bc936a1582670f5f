"""pythae VAEs, trained by pythae's own trainer on digits, with units known to be dead."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import optimize
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


def made(name: str, **options: Any) -> Any:
    """A model with networks of pythae's own."""
    gap = "_" if name in ("VAE_IAF", "VAE_LinNF", "INFOVAE_MMD") else ""
    config = f"{name}{gap}Config"
    torch.manual_seed(0)
    return getattr(models, name)(
        getattr(models, config)(input_dim=(1, 8, 8), latent_dim=3, **options)
    )


@pytest.mark.parametrize("name", ["VAE", "BetaVAE"])
def test_the_reconstruction_loss_says_the_likelihood(name: str) -> None:
    gaussian = made(name)
    assert from_pythae(gaussian).spec == VAESpec(latent_dim=3, beta=1.0, sigma="input")
    bernoulli = made(name, reconstruction_loss="bce")
    wrapped = from_pythae(bernoulli)
    assert wrapped.spec == VAESpec(latent_dim=3, sigma="input", likelihood="bernoulli")
    assert not wrapped.spec_assumed
    theirs = bernoulli({"data": DIGITS})
    error = -wrapped.decode(theirs.z).log_prob(DIGITS.flatten(1)).sum(1)
    divergence = kl(wrapped, DIGITS.flatten(1)).sum(1)
    torch.testing.assert_close((error + divergence).mean(), theirs.loss)
    given = from_pythae(bernoulli, spec=VAESpec(latent_dim=3, eta_dec=0.5))
    assert not given.spec_assumed
    # The decoder's probabilities are no Gaussian's means, whatever else is known.
    for one in (wrapped, given):
        check_latent_model(one, DIGITS[:20])
        found = pc.diagnose(one, DIGITS)
        assert found.likelihood == "bernoulli"
    assert pc.diagnose(from_pythae(gaussian), DIGITS).likelihood == "gaussian"


def test_the_weight_is_the_models_and_not_its_configs() -> None:
    model = made("BetaVAE", beta=2.0)
    model.beta = 0.7
    assert from_pythae(model).spec.beta == 0.7


class OwnLoss(models.BetaVAE):
    """Its errors are averaged over pixels, whatever its name and config say."""

    def loss_function(self, reconstruction: Tensor, x: Tensor, *latent: Tensor) -> Any:
        mean, log_var, _ = latent
        error = nn.functional.mse_loss(reconstruction, x)
        kl = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1).mean()
        return error + self.beta * kl, error, kl


class OwnCrossEntropy(models.VAE):
    def loss_function(self, recon_x: Tensor, x: Tensor, *latent: Tensor) -> Any:
        error = nn.functional.binary_cross_entropy_with_logits(recon_x, x, reduction="none")
        mean, log_var, _ = latent
        kl = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1)
        loss = error.flatten(1).sum(1) + 4 * kl
        return loss.mean(), error.mean(), kl.mean()


def test_a_loss_of_ones_own_is_probed() -> None:
    wrapped = from_pythae(
        OwnLoss(models.BetaVAEConfig(input_dim=(1, 8, 8), latent_dim=3, beta=0.01))
    )
    assert wrapped.spec.beta == pytest.approx(0.32)  # 0.01 * 64 / 2
    assert not wrapped.spec_assumed
    assert "beta = 0.32" in wrapped.notes[0]
    logits = from_pythae(OwnCrossEntropy(models.VAEConfig(input_dim=(1, 8, 8), latent_dim=3)))
    assert (logits.spec.beta, logits.spec.likelihood) == (pytest.approx(4), "bernoulli")
    z = torch.zeros(1, 3)
    expected = logits.wrapped[0].decoder(z).reconstruction.sigmoid().flatten(1)
    torch.testing.assert_close(logits.decode(z).mean, expected)
    patched = made("VAE")
    patched.loss_function = lambda y_hat, y, mean, log_var, z: (y_hat - y).square().sum()
    assert from_pythae(patched).spec_assumed
    assert "KL has no weight" in from_pythae(patched).notes[0]


class OwnStd(models.VAE):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.log_std = nn.Parameter(torch.zeros(()))

    def loss_function(self, recon_x: Tensor, x: Tensor, *latent: Tensor) -> Any:
        error = -torch.distributions.Normal(recon_x, self.log_std.exp()).log_prob(x)
        mean, log_var, _ = latent
        kl = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1)
        loss = error.flatten(1).sum(1) + kl
        return loss.mean(), error.mean(), kl.mean()


def test_a_std_that_trains_is_no_eta_dec_of_one() -> None:
    wrapped = from_pythae(OwnStd(models.VAEConfig(input_dim=(1, 8, 8), latent_dim=3)))
    assert wrapped.spec_assumed
    assert "beta = 1, with a fitted eta_dec" in wrapped.notes[0]


class OwnForward(models.VAE):
    def forward(self, inputs: Any, **options: Any) -> Any:
        return super().forward(inputs, **options)


def test_a_forward_of_ones_own_is_said_to_be_out_of_sight() -> None:
    wrapped = from_pythae(OwnForward(models.VAEConfig(input_dim=(1, 8, 8), latent_dim=3)))
    assert wrapped.spec == VAESpec(latent_dim=3, sigma="input")
    assert "OwnForward adds" in wrapped.notes[0]


@pytest.mark.parametrize(
    ("name", "options", "beta", "note"),
    [
        ("BetaTCVAE", {"alpha": 2.0, "beta": 2.0, "gamma": 2.0}, 2.0, None),
        ("BetaTCVAE", {"alpha": 2.0, "beta": 6.0}, 2.0, r"beta is alpha \(2\)"),
        ("BetaTCVAE", {"alpha": 0.0}, None, "alpha 0"),
        ("BetaVAE", {"beta": 0.0}, None, r"the KL no weight \(0\)"),
        ("DisentangledBetaVAE", {"beta": 0.0, "C": 0.0}, None, r"the KL no weight \(0\)"),
        ("DisentangledBetaVAE", {"beta": 3.0, "C": 0.0}, 3.0, None),
        ("DisentangledBetaVAE", {"beta": 3.0, "C": 5.0}, None, "C = 5 nats, at beta 3"),
        ("INFOVAE_MMD", {"alpha": 0.25, "lbd": 0.75}, 0.75, None),
        ("INFOVAE_MMD", {"alpha": 0.25, "lbd": 2.0}, 0.75, r"1 - alpha \(0.75\).*\(weight 1.25\)"),
        ("INFOVAE_MMD", {}, None, "-0.999 the discrepancy from the prior, which it rewards"),
        ("INFOVAE_MMD", {"alpha": 1.0}, None, "the KL no weight"),
        ("FactorVAE", {"gamma": 3.0}, 1.0, r"\(weight 3\)"),
        ("MSSSIM_VAE", {}, None, None),
        ("IWAE", {}, None, None),
        ("MIWAE", {}, None, None),
    ],
)
def test_which_beta_each_class_has(
    name: str, options: dict[str, float], beta: float | None, note: str | None
) -> None:
    wrapped = from_pythae(made(name, **options))
    assert wrapped.spec_assumed == (beta is None)
    if beta is not None:
        assert wrapped.spec == VAESpec(latent_dim=3, beta=beta, sigma="input")
    assert bool(wrapped.notes) == (note is not None)
    if note is not None:
        assert re.search(note, wrapped.notes[0])
    likelihood = "other" if name == "MSSSIM_VAE" else "gaussian"
    assert wrapped.spec.likelihood == likelihood
    check_latent_model(wrapped, DIGITS[:5])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("BetaTCVAE", {"alpha": 2.0, "beta": 2.0, "gamma": 2.0}),
        ("INFOVAE_MMD", {"alpha": 0.25, "lbd": 0.75}),
        ("DisentangledBetaVAE", {"beta": 3.0, "C": 0.0}),
        ("VAMP", {"number_components": 1}),
    ],
)
def test_the_spec_is_the_loss_of_each_class(name: str, options: dict[str, Any]) -> None:
    """At pythae's own sample of z, where some of its classes take the KL too."""
    model = made(name, **options)
    wrapped = from_pythae(model)
    theirs = model({"data": DIGITS})
    terms = wrapped.log_terms((theirs.z,), DIGITS.flatten(1))
    error = -terms.decoder - 32 * math.log(2 * math.pi)
    torch.testing.assert_close(error.mean(), theirs.recon_loss)
    if name in ("BetaTCVAE", "VAMP"):
        divergence = terms.posterior[0] - terms.prior[0]
    else:
        divergence = kl(wrapped, DIGITS.flatten(1)).sum(1)
    ours = (error + wrapped.spec.beta * divergence).mean()
    torch.testing.assert_close(ours, theirs.loss, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("signal", [1.5, 2.5, 9.0])
@pytest.mark.parametrize("gamma", [0.5, 2.0, 6.0])
def test_alpha_alone_decides_what_a_linear_beta_tc_vae_collapses(
    signal: float, gamma: float
) -> None:
    """A unit of mean m x and std s, and a decoder w z: what is least is a beta-VAE's."""
    alpha = 2.0

    def loss(parameters: Any) -> float:
        m, log_s, w = parameters
        of_mean, of_std = m**2 * signal, math.exp(2 * log_s)
        error = ((1 - w * m) ** 2 * signal + w**2 * of_std) / 2
        known = 0.5 * math.log1p(of_mean / of_std)
        all_z = of_mean + of_std
        return error + alpha * known + gamma * 0.5 * (all_z - 1 - math.log(all_z))

    starts = [(0.5, -0.5, 0.5), (0.01, 0.0, 0.01), (1.0, -1.0, 1.0)]
    options = {"xatol": 1e-9, "fatol": 1e-13, "maxiter": 5000}
    found = [optimize.minimize(loss, x0, method="Nelder-Mead", options=options) for x0 in starts]
    best = min(found, key=lambda one: one.fun)
    expected = min(signal, alpha) / 2 + alpha / 2 * max(0.0, math.log(signal / alpha))
    assert best.fun == pytest.approx(expected, abs=1e-7)
    assert (best.x[0] ** 2 > 1e-3) == (signal > alpha)


def test_the_prior_of_a_vamp_is_the_gaussian_closest_to_its_mixture() -> None:
    model = made("VAMP", number_components=7).eval()
    wrapped = from_pythae(model)
    with torch.no_grad():
        nn.init.normal_(model.encoder.embedding.weight, std=0.3)  # else all parts are the same
        nn.init.normal_(model.pseudo_inputs[0].weight)
        pseudo = model.pseudo_inputs(model.idle_input).reshape(7, 1, 8, 8)
        parts = model.encoder(pseudo)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(100_000, 7, 3, generator=generator)
        drawn = (parts.embedding + (0.5 * parts.log_covariance).exp() * noise).flatten(0, 1)
        prior = wrapped.prior(1)
    error = 5 * drawn.std() / math.sqrt(len(drawn))  # of a mean; a std's is less
    assert parts.embedding.std(0).min() > 20 * error
    torch.testing.assert_close(prior.mean, drawn.mean(0), rtol=0, atol=float(error))
    torch.testing.assert_close(prior.stddev, drawn.std(0), rtol=0, atol=float(error))
    check_latent_model(wrapped, DIGITS[:20])
    assert "mixture" in wrapped.notes[0]
    assert wrapped.notes[0] in pc.diagnose(wrapped, DIGITS).notes
    assert "over 30 epochs" in from_pythae(made("VAMP", linear_scheduling_steps=30)).notes[0]


def test_the_units_of_a_flow_are_those_before_it() -> None:
    model = made("VAE_IAF").eval()
    wrapped = from_pythae(model)
    x = DIGITS[:50]
    q = wrapped.posterior(1, x.flatten(1))
    torch.testing.assert_close(q.mean, model.encoder(x).embedding)
    z = torch.linspace(-2, 2, 30).reshape(10, 3)
    flowed = model.iaf_flow.inverse(z)
    torch.testing.assert_close(
        wrapped.decode(z).mean, model.decoder(flowed.out).reconstruction.flatten(1)
    )
    # The density of their prior, summed over a grid.
    axis = torch.linspace(-7, 7, 71)
    grid = torch.cartesian_prod(axis, axis, axis)
    with torch.no_grad():
        flowed = model.iaf_flow.inverse(grid)
    log = -0.5 * flowed.out.square().sum(1) + flowed.log_abs_det_jac
    share = log.double().softmax(0)[:, None]
    mean = (share * grid).sum(0)
    std = (share * (grid - mean).square()).sum(0).sqrt()
    prior = wrapped.prior(1)
    torch.testing.assert_close(prior.mean.double(), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(prior.stddev.double(), std, rtol=0.05, atol=0)
    check_latent_model(wrapped, DIGITS[:20])


@pytest.mark.parametrize("name", ["VAE_LinNF", "HVAE", "SVAE", "AE"])
def test_other_posteriors_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"a {name}; expected a pythae VAE"):
        from_pythae(made(name))


def test_the_shape_is_needed_where_the_config_has_none() -> None:
    own = models.VAE(models.VAEConfig(latent_dim=6), Encoder(), Decoder())
    seen = []
    own.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    from_pythae(own, shape=(1, 8, 8)).posterior(1, DIGITS[:4].flatten(1))
    assert seen == [(4, 1, 8, 8)]
