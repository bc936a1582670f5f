"""Linear models against the theory, and their exact objective against sampling."""

import numpy as np
import pytest
import torch

import posterior_collapse as pc
from posterior_collapse.errors import DataError, InvalidArgumentError
from posterior_collapse.models import (
    build,
    exact_terms,
    linear_values,
    load_parameters,
    loss,
    read_parameters,
    set_biases,
)
from posterior_collapse.theory import ExactObjective

F64 = torch.float64
SPECS = {
    "vae": pc.VAESpec(latent_dim=3, beta=0.7, eta_dec=0.8, eta_enc=1.3),
    "vae-fixed": pc.VAESpec(latent_dim=2, sigma=(0.9, 0.4)),
    "vae-shared": pc.VAESpec(latent_dim=3, sigma="shared"),
    "vae-learned-eta": pc.VAESpec(latent_dim=2, eta_dec="learned"),
    "vae-wide": pc.VAESpec(latent_dim=9, eta_dec=0.5),
    "cvae": pc.CVAESpec(latent_dim=2, beta=1.5, eta_dec=0.5),
    "cvae-fixed": pc.CVAESpec(latent_dim=2, sigma=0.4, eta_dec=0.5),
    "hvae": pc.HVAESpec(latent_dims=(3, 2), betas=(1, 0.6), sigma_1=0.6, eta_dec=0.7),
    "hvae-fixed": pc.HVAESpec(latent_dims=(2, 3), sigma_1=0.6, sigma_2=0.8, eta_dec=0.7),
    "hvae-learned": pc.HVAESpec(latent_dims=(3, 2), betas=(1, 2), sigma_1="learned"),
    "chain": pc.ChainSpec(latent_dims=(3, 3, 2), betas=(1, 1.5, 2), eta_decs=(0.5, 0.6, 0.7)),
}


def data(spec):
    rng = np.random.default_rng(4)
    x = 1.5 * rng.standard_normal((40, 4)) @ rng.standard_normal((4, 4)) + 3.0
    if spec.model != "cvae":
        return x, None
    return x, x @ rng.standard_normal((4, 5)) + 2 * rng.standard_normal((40, 5)) - 1.0


def tensors(*arrays):
    return tuple(None if a is None else torch.as_tensor(a, dtype=F64) for a in arrays)


def linear(spec, x, y, **options):
    y_dim = None if y is None else y.shape[1]
    return build(spec, "linear", x_dim=x.shape[1], y_dim=y_dim, dtype=F64, **options)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("name", SPECS)
def test_a_warm_start_is_the_forecast_optimum(name, center):
    spec = SPECS[name]
    x, y = data(spec)
    forecast = pc.forecast(pc.Moments.from_arrays(x, y, center=center), spec)
    objective = ExactObjective(pc.Moments.from_arrays(x, y, center=center), spec)
    x, y = tensors(x, y)
    model = linear(spec, x, y, bias=center)
    load_parameters(model, forecast.parameters())
    terms = exact_terms(linear_values(model), x, y)
    value = loss(terms, spec.beta_levels)
    assert value.item() == pytest.approx(forecast.loss, abs=1e-9, rel=1e-9)
    averages = objective.terms(read_parameters(model))
    assert objective.weighed(averages) == pytest.approx(forecast.loss, abs=1e-9, rel=1e-9)
    for level, kl, average in zip(forecast.levels, terms.kl, averages.kl, strict=True):
        for found in (kl.mean(0).detach(), average):
            np.testing.assert_allclose(np.sort(found), np.sort(level.kl), rtol=1e-7, atol=1e-7)
    gradients = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    assert all(g is None or g.abs().max() < 1e-6 for g in gradients)


@pytest.mark.parametrize("name", SPECS)
def test_parameters_survive_the_round_trip(name):
    spec = SPECS[name]
    x, y = data(spec)
    given = pc.forecast(pc.Moments.from_arrays(x, y), spec).parameters()
    model = linear(spec, x, y)
    load_parameters(model, given)
    back = read_parameters(model)
    assert set(back) == set(given)
    for key, value in given.items():
        np.testing.assert_allclose(back[key], value, rtol=1e-14, err_msg=key)


@pytest.mark.parametrize("name", ["vae", "cvae", "hvae-fixed", "chain"])
@pytest.mark.parametrize("center", [True, False])
def test_moments_equal_the_average_over_samples(name, center):
    spec = SPECS[name]
    moments = pc.Moments.from_arrays(*data(spec), center=center)
    x, y = tensors(*data(spec))
    model = linear(spec, x, y, bias=center)
    if center:
        set_biases(model, x.mean(0), None if y is None else y.mean(0))
    samples = exact_terms(linear_values(model), x, y)
    averages = ExactObjective(moments, spec).terms(read_parameters(model))
    assert averages.squared_error == pytest.approx(samples.squared_error.mean().item(), rel=1e-12)
    assert averages.normaliser == pytest.approx(samples.normaliser.item(), rel=1e-12)
    for a, b in zip(samples.kl, averages.kl, strict=True):
        np.testing.assert_allclose(a.mean(0).detach(), b, rtol=1e-11)


def test_moments_of_an_autoencoder_may_be_given_in_full():
    x, _ = data(SPECS["vae"])
    p = read_parameters(linear(SPECS["vae"], *tensors(x, None)))
    xx = x.T @ x / len(x)
    one, full = (
        ExactObjective(pc.Moments.from_matrices(*given), SPECS["vae"]).terms(p)
        for given in ((xx,), (xx, xx, xx))
    )
    assert one.squared_error == full.squared_error
    np.testing.assert_array_equal(one.kl, full.kl)


def test_an_exact_conditional_model_needs_its_target():
    x, y = tensors(*data(SPECS["cvae"]))
    values = linear_values(linear(SPECS["cvae"], x, y))
    with pytest.raises(InvalidArgumentError, match="y"):
        exact_terms(values, x)
    with pytest.raises(DataError, match="no target y"):
        ExactObjective(pc.Moments.from_arrays(x.numpy()), SPECS["cvae"])


def test_optimal_biases_beat_any_other():
    for name in ("vae", "cvae", "hvae", "chain"):
        spec = SPECS[name]
        x, y = tensors(*data(spec))
        model = linear(spec, x, y)
        set_biases(model, x.mean(0), None if y is None else y.mean(0))
        biases = [model.encoders[0].mean["x"].bias, model.decoders[0].heads["z"].bias]
        value = loss(exact_terms(linear_values(model), x, y), spec.beta_levels)
        for gradient in torch.autograd.grad(value, biases):
            assert gradient.abs().max() < 1e-10


@pytest.mark.parametrize("name", ["vae", "cvae", "hvae", "hvae-learned", "chain"])
def test_sampled_elbo_agrees_with_the_exact_one(name):
    spec = SPECS[name]
    x, y = tensors(*data(spec))
    x, y = x[:5] / 3, None if y is None else y[:5] / 3
    model = linear(spec, x, y, generator=torch.Generator().manual_seed(3))
    draws = 20_000
    wide = [None if a is None else a.repeat(draws, 1) for a in (x, y)]
    noise = model.draw_noise(len(wide[0]), torch.Generator().manual_seed(8), F64)
    with torch.no_grad():
        sampled, exact = model(*wide, noise), exact_terms(linear_values(model), x, y)

    def per_draw(terms, count):
        error = terms.squared_error / (2 * terms.eta_dec**2)
        kls = [b * kl.sum(-1) for b, kl in zip(spec.beta_levels, terms.kl, strict=True)]
        return {
            "error": error.reshape(count, 5).mean(1),
            **{f"kl {i}": kl.reshape(count, 5).mean(1) for i, kl in enumerate(kls, start=1)},
            "loss": (error + sum(kls) + terms.normaliser).reshape(count, 5).mean(1),
        }

    expected = per_draw(exact, 1)
    for key, values in per_draw(sampled, draws).items():
        standard_error = values.std() / draws**0.5
        # A level-1 posterior KL depends on no noise: both are then the same number.
        assert (values.mean() - expected[key]).abs() <= 3 * standard_error + 1e-12, key
        assert standard_error < 0.02 * (1 + expected[key].abs()), key


@pytest.mark.parametrize("name", ["vae", "cvae", "hvae", "chain"])
def test_values_can_come_from_stacked_state(name):
    spec = SPECS[name]
    x, y = tensors(*data(spec))
    models = [linear(spec, x, y, generator=torch.Generator().manual_seed(s)) for s in range(3)]
    params, buffers = torch.func.stack_module_state(models)

    def one(state):
        return loss(exact_terms(linear_values(models[0], state), x, y), spec.beta_levels)

    together = torch.func.vmap(one)({**params, **buffers})
    alone = [loss(exact_terms(linear_values(m), x, y), spec.beta_levels) for m in models]
    torch.testing.assert_close(together, torch.stack(alone))


def test_a_shared_or_input_std_starts_at_the_optimum_too():
    x, _ = data(SPECS["vae"])
    given = pc.forecast(x, SPECS["vae"]).parameters()
    spec = SPECS["vae"].replace(sigma="input")
    for bias in (True, False):
        model = linear(spec, x, None, bias=bias)
        biasless = {**given, "b1": np.zeros(3), "c1": np.zeros(4)}
        load_parameters(model, given if bias else biasless)
        std = model.posterior(1, torch.as_tensor(x)).stddev
        np.testing.assert_allclose(std.detach(), np.tile(given["sigma_1"], (40, 1)), rtol=1e-12)
    with pytest.raises(InvalidArgumentError, match="sigma"):
        linear_values(model)


def loading(model, given, **changes):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(InvalidArgumentError) as caught:
        load_parameters(model, {k: v for k, v in {**given, **changes}.items() if v is not None})
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    return caught.value.argument


def test_parameters_that_do_not_fit_are_refused_and_change_nothing():
    x, _ = data(SPECS["vae"])
    given = pc.forecast(x, SPECS["vae"]).parameters()
    model = linear(SPECS["vae"], x, None)
    assert loading(model, given, W1=None) == "parameters"
    assert loading(model, given, W2=given["W1"]) == "parameters"
    assert loading(model, given, U1=given["U1"].T) == "U1"
    assert loading(model, given, b1=np.zeros(2)) == "b1"
    assert loading(model, given, eta_dec=0.5) == "eta_dec"
    assert loading(model, given, eta_dec=np.ones(2)) == "eta_dec"
    assert loading(model, given, sigma_1=np.ones(2)) == "sigma_1"
    assert loading(model, given, W1=np.full((3, 4), np.nan)) == "W1"
    assert loading(model, given, sigma_1=np.zeros(3)) == "sigma_1"
    assert loading(linear(SPECS["vae"], x, None, bias=False), given) == "b1"
    fixed = linear(SPECS["vae"].replace(sigma=0.123), x, None)
    assert loading(fixed, given) == "sigma_1"
    shared = linear(SPECS["vae"].replace(sigma="shared"), x, None)
    assert loading(shared, given) == "sigma_1"
    net = build(SPECS["vae"], "mlp", x_dim=4)
    assert loading(net, given) == "architecture"


def test_only_linear_models_with_biases_have_optimal_biases():
    x = torch.zeros(4)
    with pytest.raises(InvalidArgumentError, match="architecture"):
        set_biases(build(SPECS["vae"], "mlp", x_dim=4), x)
    with pytest.raises(InvalidArgumentError, match="biases"):
        set_biases(build(SPECS["vae"], "linear", x_dim=4, bias=False), x)
