import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models import LatentModel, build
from posterior_collapse.models.layers import STD_HEADS, log_head_of
from posterior_collapse.specs import ChainSpec, CVAESpec, HVAESpec, VAESpec

F64 = torch.float64
SPECS = {
    "vae": VAESpec(latent_dim=3, eta_enc=1.5, eta_dec=0.6),
    "vae-input": VAESpec(latent_dim=3, sigma="input", eta_dec="learned"),
    "cvae": CVAESpec(latent_dim=3, sigma=(0.3, 0.5, 2.0)),
    "hvae": HVAESpec(latent_dims=(3, 2), sigma_1=0.5, sigma_2="input", eta_dec=0.7),
    "chain": ChainSpec(latent_dims=(3, 2, 4), betas=(1, 1, 1), eta_decs=(0.3, 0.6, 0.9)),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(name, architecture="mlp"):
    spec = SPECS[name]
    y_dim = 5 if name == "cvae" else None
    options = {"hidden": (7,)} if architecture == "mlp" else {}
    model = build(spec, architecture, x_dim=4, y_dim=y_dim, dtype=F64, **options)
    x = torch.randn(6, 4, generator=seeded(1), dtype=F64)
    y = torch.randn(6, 5, generator=seeded(2), dtype=F64) if y_dim else None
    return model, x, y


@pytest.mark.parametrize("name", SPECS)
def test_terms_are_those_of_the_distributions(name):
    model, x, y = make(name)
    noise = model.draw_noise(6, seeded(), F64)
    terms = model(x, y, noise)
    assert isinstance(model, LatentModel)

    given, latents, posteriors = x, [], []
    for level, eps in enumerate(noise, start=1):
        q = model.posterior(level, given, y if level == 1 else None)
        given = q.mean + q.stddev * eps
        posteriors.append(q)
        latents.append(given)
    for level, (q, z, kl, mean) in enumerate(
        zip(posteriors, latents, terms.kl, terms.means, strict=True), start=1
    ):
        torch.testing.assert_close(mean, q.mean)
        if level == len(noise):
            torch.testing.assert_close(kl, kl_divergence(q, model.prior(level).expand(kl.shape)))
        else:
            entropy = q.entropy()
            torch.testing.assert_close(
                kl, -entropy - model.prior(level, latents[level]).log_prob(z)
            )
    decoder = model.decode(latents[0], x)
    target = x if y is None else y
    torch.testing.assert_close(
        terms.squared_error / (2 * terms.eta_dec**2) + terms.normaliser,
        -decoder.log_prob(target).sum(-1),
    )


@pytest.mark.parametrize("name", SPECS)
def test_log_terms_are_the_densities(name):
    model, x, y = make(name)
    latents = model.infer(x, y, generator=seeded(), samples=8)
    assert [z.shape for z in latents] == [(8, 6, d) for d in model.units]
    log = model.log_terms(latents, x, y)
    assert log.decoder.shape == (8, 6)
    assert all(t.shape == (8, 6) for t in (*log.prior, *log.posterior))
    one = model.log_terms([z[3] for z in latents], x, y)
    torch.testing.assert_close(log.decoder[3], one.decoder)
    target = x if y is None else y
    decoder = model.decode(latents[0][3], x)
    by_hand = (
        -0.5 * ((target - decoder.mean) / decoder.stddev) ** 2
        - decoder.stddev.log()
        - 0.5 * math.log(2 * math.pi)
    ).sum(-1)
    torch.testing.assert_close(one.decoder, by_hand)
    top = Normal(0.0, model.spec.eta_enc)
    torch.testing.assert_close(log.prior[-1], top.log_prob(latents[-1]).sum(-1))
    below = [x, *latents[:-1]]
    for level, (given, z) in enumerate(zip(below, latents, strict=True), start=1):
        q = model.posterior(level, given, y if level == 1 else None)
        torch.testing.assert_close(log.posterior[level - 1], q.log_prob(z).sum(-1))


def test_importance_weights_average_to_the_likelihood_of_a_linear_model():
    spec = HVAESpec(latent_dims=(2, 1), eta_dec=0.8, sigma_1=0.8)
    model = build(spec, "linear", x_dim=3, dtype=F64, bias=False, initial_std=0.3)
    U1, U2 = (model.decoders[i].heads["z"].weight.detach() for i in (0, 1))
    S1 = 0.64 * torch.eye(2, dtype=F64) + U2 @ U2.T
    S = 0.64 * torch.eye(3, dtype=F64) + U1 @ S1 @ U1.T
    x = torch.randn(4, 3, generator=seeded(3), dtype=F64)
    exact = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=F64), S).log_prob(x)
    latents = model.infer(x, generator=seeded(4), samples=40_000)
    log = model.log_terms(latents, x)
    weights = (log.decoder + sum(log.prior) - sum(log.posterior)).exp()
    error = weights.std(0) / 200 / exact.exp()
    assert ((weights.mean(0) / exact.exp() - 1).abs() < 3 * error).all()
    assert (error < 0.05).all()


@pytest.mark.parametrize("name", SPECS)
def test_infer_gives_means_or_samples(name):
    model, x, y = make(name)
    means = model.infer(x, y)
    torch.testing.assert_close(means[0], model.posterior(1, x, y).mean)
    a, b = (model.infer(x, y, generator=seeded(7)) for _ in range(2))
    assert all(torch.equal(u, v) for u, v in zip(a, b, strict=True))
    assert not torch.equal(a[0], means[0])


def test_reconstruction_passes_through_the_level_asked_for():
    model, x, _ = make("hvae")
    z1, z2 = model.infer(x)
    torch.testing.assert_close(model.reconstruct(x), model.decode(z1).mean)
    back = model.prior(1, z2).mean
    torch.testing.assert_close(model.reconstruct(x, through=2), model.decode(back).mean)
    noisy = model.reconstruct(x, through=2, generator=seeded())
    assert not torch.equal(noisy, model.reconstruct(x, through=2))
    for level in (0, 3):
        with pytest.raises(InvalidArgumentError, match="through"):
            model.reconstruct(x, through=level)


def test_samples_have_the_moments_of_the_model():
    spec = HVAESpec(latent_dims=(2, 2), eta_dec=0.5, eta_enc=1.3)
    model = build(spec, "linear", x_dim=2, dtype=F64, bias=False)
    U1, U2 = (model.decoders[i].heads["z"].weight.detach() for i in (0, 1))
    S1 = 0.25 * torch.eye(2, dtype=F64) + 1.69 * U2 @ U2.T
    clean = model.sample(200_000, seeded())
    noisy = model.sample(200_000, seeded(), noise=True)
    expected = U1 @ S1 @ U1.T
    torch.testing.assert_close(clean.T.cov(), expected, rtol=0.02, atol=0.01)
    torch.testing.assert_close(
        noisy.T.cov(), expected + 0.25 * torch.eye(2, dtype=F64), rtol=0.02, atol=0.01
    )


def test_sampling_takes_one_condition_or_one_per_draw():
    model, x, _ = make("cvae")
    a = model.sample(6, seeded(), x[0])
    b = model.sample(6, seeded(), x[:1].expand(6, -1))
    torch.testing.assert_close(a, b)
    assert a.shape == (6, 5)
    assert not torch.allclose(model.sample(6, seeded(), x), b)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda m, x, y: m.posterior(2, x, y), "level"),
        (lambda m, x, y: m.prior(0), "level"),
        (lambda m, x, y: m.prior(1, x), "given"),
        (lambda m, x, y: m.posterior(1, x), "y"),
        (lambda m, x, y: m.posterior(1, y, y), "x"),
        (lambda m, x, y: m.decode(x[:, :3]), "x"),
        (lambda m, x, y: m(x, x, m.draw_noise(6, seeded(), F64)), "y"),
        (lambda m, x, y: m(x, None, m.draw_noise(6, seeded(), F64)), "y"),
    ],
)
def test_wrong_calls_say_what_is_wrong(call, argument):
    model, x, y = make("cvae")
    with pytest.raises(InvalidArgumentError) as caught:
        call(model, x, y)
    assert caught.value.argument == argument


def test_a_middle_level_needs_the_level_above():
    model = make("hvae")[0]
    with pytest.raises(InvalidArgumentError, match="z of the level above"):
        model.prior(1)


def test_an_autoencoder_target_may_differ_from_its_input():
    model = build(VAESpec(latent_dim=2), "mlp", x_dim=4, y_dim=3)
    x, y = torch.rand(5, 4), torch.rand(5, 3)
    noise = model.draw_noise(5, seeded())
    z = model.posterior(1, x).mean + model.posterior(1, x).stddev * noise[0]
    expected = (y - model.decode(z).mean).square().sum(-1)
    torch.testing.assert_close(model(x, y, noise).squared_error, expected)
    assert model.log_terms(model.infer(x), x, y).decoder.shape == (5,)
    with pytest.raises(InvalidArgumentError, match="y"):
        model(x, None, noise)


def test_std_heads():
    s = torch.tensor([-2.0, 0.5, 0.0], dtype=F64)
    torch.testing.assert_close(STD_HEADS["signed"](s)[:2], s[:2].abs())
    assert STD_HEADS["signed"](s)[2] == 1e-6
    torch.testing.assert_close(STD_HEADS["tanh"](s)[:2], s[:2].tanh().abs())
    torch.testing.assert_close(STD_HEADS["log"](s), s.exp(), rtol=2e-2, atol=0)
    extreme = STD_HEADS["log"](torch.tensor([-1e4, 1e4]))
    assert extreme.isfinite().all()
    assert (extreme > 0).all()
    std = torch.tensor([0.01, 1.0, 30.0], dtype=F64)
    torch.testing.assert_close(STD_HEADS["log"](log_head_of(std)), std)


def test_a_third_party_model_needs_three_distributions():
    class Mine(LatentModel):
        spec = VAESpec(latent_dim=2)

        def posterior(self, level, given, y=None):
            return Normal(given[..., :2], torch.full_like(given[..., :2], 0.5))

        def prior(self, level, given=None):
            return Normal(torch.zeros(2), torch.ones(2))

        def decode(self, z, x=None):
            return Normal(torch.cat([z, z], -1), 1.0)

    x = torch.rand(3, 4)
    mine = Mine()
    assert mine.units == (2,)
    assert mine.sample(5, seeded()).shape == (5, 4)
    torch.testing.assert_close(mine.reconstruct(x), torch.cat([x[:, :2], x[:, :2]], -1))
    assert mine.log_terms(mine.infer(x, generator=seeded()), x).posterior[0].shape == (3,)
