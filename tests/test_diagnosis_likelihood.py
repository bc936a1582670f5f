"""log p(y|x): closed form against scipy, sampling against closed form, quadrature and itself."""

import json
import math
import re

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.stats import multivariate_normal, norm
from torch.distributions import Normal

import posterior_collapse as pc
from posterior_collapse.adapters import from_callable
from posterior_collapse.diagnosis import LogLikelihood, likelihood, log_likelihood
from posterior_collapse.errors import DataError, InvalidArgumentError
from posterior_collapse.models import LatentModel, build, load_parameters

F64 = torch.float64
SPECS = {
    "vae": pc.VAESpec(latent_dim=3, eta_dec=0.8, eta_enc=1.3),
    "vae-wide": pc.VAESpec(latent_dim=9, eta_dec=0.5),
    "vae-input": pc.VAESpec(latent_dim=2, sigma="input"),
    "vae-learned": pc.VAESpec(latent_dim=2, eta_dec="learned"),
    "cvae": pc.CVAESpec(latent_dim=2, eta_dec=0.5),
    "hvae": pc.HVAESpec(latent_dims=(3, 2), sigma_1=0.6, eta_dec=0.7, eta_enc=1.2),
    "chain": pc.ChainSpec(latent_dims=(3, 3, 2), betas=(1, 1, 1), eta_decs=(0.5, 0.6, 0.7)),
}


def data(spec, n=30):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((n, 4)) @ rng.standard_normal((4, 4)) / 2 + 0.5
    if spec.model != "cvae":
        return x, None
    return x, x @ rng.standard_normal((4, 5)) / 2 + rng.standard_normal((n, 5)) / 2 - 1.0


def pair(x, y):
    return x if y is None else (x, y)


def make(name, architecture="linear", dtype=F64, **options):
    spec = SPECS[name]
    y_dim = 5 if spec.model == "cvae" else None
    return build(spec, architecture, x_dim=4, y_dim=y_dim, dtype=dtype, **options)


def optimum(spec, x, y=None, dtype=F64):
    """The linear model at the closed-form optimum of the data, and its loss."""
    forecast = pc.forecast(pc.Moments.from_arrays(x, y), spec)
    y_dim = None if y is None else y.shape[1]
    model = build(spec, "linear", x_dim=x.shape[1], y_dim=y_dim, dtype=dtype)
    load_parameters(model, forecast.parameters())
    return model, forecast.loss


def nearly_optimum(name, dtype=F64):
    """A linear model whose posterior is a little wider than the true one, and its data."""
    spec = SPECS["vae" if name == "vae-input" else name]
    x, y = data(spec, n=60)
    model = optimum(spec, x, y, dtype)[0].eval()
    with torch.no_grad():
        for encoder in model.encoders:
            encoder.std.set(1.2 * encoder.std())
    return model, pair(x, y)


def curved(spec, x_dim):
    """A model with tanh networks that samples from about its prior."""
    model = build(
        spec, "mlp", x_dim=x_dim, hidden=(6,), activation="tanh", dtype=F64, initial_std=1.0
    )
    with torch.no_grad():
        for encoder in model.encoders:
            head = encoder.mean["x" if "x" in encoder.mean else "z"]
            head.weight *= 0.1
    return model.eval()


def by_scipy(model, x, y):
    """log N(y; ..., covariance) with the matrices taken by name."""
    state = {k: v.detach().numpy() for k, v in model.state_dict().items()}
    eta_enc = float(state["eta_enc"])
    etas = np.atleast_1d(model.eta_dec().detach().numpy())
    depth = len(model.units)
    covariance = eta_enc**2 * np.eye(model.units[-1])
    for level in range(depth - 1, -1, -1):
        U = state[f"decoders.{level}.heads.z.weight"]
        eta = etas[level if len(etas) > 1 else 0]
        covariance = U @ covariance @ U.T + eta**2 * np.eye(len(U))
    mean = state["decoders.0.heads.z.bias"]
    if y is None:
        return multivariate_normal(mean, covariance).logpdf(x)
    residual = y - x @ state["decoders.0.heads.x.weight"].T
    return multivariate_normal(mean, covariance).logpdf(residual)


@pytest.mark.parametrize("name", SPECS)
def test_linear_models_are_exact(name):
    x, y = data(SPECS[name])
    model = make(name)
    found = log_likelihood(model, pair(x, y))
    expected = by_scipy(model, x, y)
    np.testing.assert_allclose(found.per_row, expected, rtol=1e-10, atol=1e-10)
    assert found.nll == pytest.approx(-expected.mean(), abs=1e-10)
    assert found.nll_error == pytest.approx(expected.std(ddof=1) / math.sqrt(len(x)))
    assert (found.sampling_error, found.samples, found.effective_sample_size) == (0, None, None)
    assert found.notes == ("the model was in training mode: it was measured in evaluation mode",)


def test_networks_without_activation_are_exact_too():
    x, _ = data(SPECS["vae"])
    model = make("vae", "mlp", hidden=(7,), activation="identity").eval()
    first, last = (model.decoders[0].features["z"].layers[0], model.decoders[0].heads["z"])
    U = (last.weight @ first.weight).detach().numpy()
    mean = (last.weight @ first.bias + last.bias).detach().numpy()
    covariance = 1.3**2 * U @ U.T + 0.8**2 * np.eye(4)
    expected = multivariate_normal(mean, covariance).logpdf(x)
    found = log_likelihood(model, x)
    np.testing.assert_allclose(found.per_row, expected, rtol=1e-10)
    assert found.notes == ()


@pytest.mark.parametrize("model", [pc.VAESpec(3), pc.CVAESpec(3), pc.HVAESpec((3, 3))])
def test_at_beta_1_the_optimum_attains_the_likelihood(model):
    spec = model.replace(eta_dec=0.6, **({"sigma_1": "learned"} if model.model == "hvae" else {}))
    x, y = data(spec, n=60)
    linear, loss = optimum(spec, x, y)
    assert log_likelihood(linear, pair(x, y)).nll == pytest.approx(loss, abs=1e-8)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("name", SPECS)
def test_sampling_finds_the_closed_form(name, dtype):
    model, rows = nearly_optimum(name, dtype)
    truth = log_likelihood(model, rows)
    found = log_likelihood(model, rows, exact=False, samples=4000, seed=1)
    assert found.samples == 4000
    assert 0 < found.sampling_error < 0.02
    assert abs(found.nll - truth.nll) < 3 * found.sampling_error
    misses = np.abs(found.per_row - truth.per_row) / found.per_row_error
    assert misses.max() < 5
    assert 0.5 < np.sqrt(np.mean(misses**2)) < 1.5


def test_at_beta_1_every_sample_of_the_optimum_weighs_the_same():
    spec = SPECS["vae"]
    x, _ = data(spec)
    model, _ = optimum(spec, x)
    found = log_likelihood(model, x, exact=False, samples=10)
    np.testing.assert_allclose(found.effective_sample_size, 10, rtol=1e-9)
    np.testing.assert_allclose(found.per_row, log_likelihood(model, x).per_row, rtol=1e-9)
    assert found.sampling_error < 1e-6


def test_a_curved_decoder_agrees_with_quadrature():
    model = curved(pc.VAESpec(1, eta_dec=1.4, eta_enc=1.2, sigma=1.1), x_dim=3)
    x = np.random.default_rng(0).standard_normal((25, 3))
    z = np.linspace(-9, 9, 4001)
    decoded = model.decode(torch.as_tensor(z)[:, None]).mean.detach().numpy()
    density = norm.logpdf(x[:, None], decoded, 1.4).sum(-1) + norm.logpdf(z, 0, 1.2)
    expected = np.log(trapezoid(np.exp(density), z, axis=1))
    found = log_likelihood(model, x, samples=20_000)
    assert found.sampling_error < 0.05
    assert np.all(np.abs(found.per_row - expected) < 4 * found.per_row_error + 1e-9)


def test_two_curved_levels_agree_with_quadrature():
    model = curved(pc.HVAESpec((1, 1), eta_dec=1.4, sigma_1=1.4, sigma_2=1.0), x_dim=2)
    x = np.random.default_rng(1).standard_normal((20, 2))
    z = np.linspace(-12, 12, 1201)
    with torch.no_grad():
        below = model.prior(1, torch.as_tensor(z)[:, None]).mean.numpy()[:, 0]
        decoded = model.decode(torch.as_tensor(z)[:, None]).mean.numpy()
    # p(z_1): z_2 integrated out
    joint = norm.pdf(z[:, None], below, 1.4) * norm.pdf(z)
    p_z1 = trapezoid(joint, z, axis=1)
    likelihood = np.exp(norm.logpdf(x[:, None], decoded, 1.4).sum(-1))
    expected = np.log(trapezoid(likelihood * p_z1, z, axis=1))
    found = log_likelihood(model, x, samples=20_000)
    assert found.sampling_error < 0.05
    assert np.all(np.abs(found.per_row - expected) < 4 * found.per_row_error + 1e-9)


@pytest.mark.parametrize("name", ["vae", "cvae", "hvae", "chain"])
def test_without_residuals_it_is_the_same_number(name, monkeypatch):
    model = make(name, "mlp", hidden=(4,)).eval()
    both = pair(*data(SPECS[name]))
    assert likelihood.Sampler(model, 1, torch.Generator())._residual_free is not None
    fast = log_likelihood(model, both, samples=50, chunk=200)
    monkeypatch.setattr(likelihood._ResidualFree, "serves", staticmethod(lambda model: False))
    plain = log_likelihood(model, both, samples=50, chunk=200)
    np.testing.assert_allclose(fast.per_row, plain.per_row, rtol=1e-11)


def test_single_precision_keeps_the_digits_of_a_sharp_decoder():
    spec = pc.VAESpec(2, eta_dec=0.01)
    x = np.random.default_rng(2).standard_normal((40, 4)).astype(np.float32)
    model, _ = optimum(spec, x, dtype=torch.float32)
    truth = log_likelihood(model, x)
    found = log_likelihood(model, x, exact=False, samples=100)
    assert np.abs(truth.per_row).max() > 1e4
    # as good as the 6e-8 of a float32: residuals of 1 over a variance of 1e-4 lose nothing more
    np.testing.assert_allclose(found.per_row, truth.per_row, rtol=1e-6)


@pytest.mark.parametrize("chunk", [1, 7, 150, None])
def test_the_chunk_bounds_what_is_decoded_and_changes_no_more_than_noise(chunk, monkeypatch):
    model = make("hvae", "mlp", hidden=(40,)).eval()  # wider than the data: decoded as it is
    x, _ = data(SPECS["hvae"], n=12)
    sizes = []
    decode = model.decode

    def counting(z, x=None):
        sizes.append(z[..., 0].numel())
        return decode(z, x)

    monkeypatch.setattr(model, "decode", counting)
    found = log_likelihood(model, x, samples=1000, chunk=chunk)
    assert max(sizes) <= (chunk or 2**18 // 4)
    assert sum(sizes) == 12_000
    truth = log_likelihood(model, x, samples=20_000, seed=9)
    assert np.all(np.abs(found.per_row - truth.per_row) < 4.5 * found.per_row_error)


def test_errors_are_those_of_repetition():
    model = curved(pc.VAESpec(2, eta_dec=1.4, sigma=1.0), x_dim=4)
    x = data(SPECS["vae"], n=8)[0]
    runs = [log_likelihood(model, x, samples=200, seed=seed) for seed in range(150)]
    spread = np.std([run.per_row for run in runs], axis=0, ddof=1)
    claimed = np.mean([run.per_row_error for run in runs], axis=0)
    # the spread of 150 repetitions is known to 1/sqrt(300) = 6%
    np.testing.assert_allclose(claimed, spread, rtol=0.2)
    assert log_likelihood(model, x, samples=200, seed=3).per_row.tolist() == (
        runs[3].per_row.tolist()
    )


def test_a_poor_posterior_is_told_with_the_remedy():
    spec = SPECS["vae"]
    x, _ = data(spec)
    model, _ = optimum(spec, x)
    with torch.no_grad():
        model.encoders[0].std.log -= 2.0
    found = log_likelihood(model.eval(), x, exact=False, samples=100)
    (note,) = found.notes
    assert "fewer than 10 effective samples" in note
    assert "pass samples=" in note
    low, middle, high = found.effective_sample_size_quantiles
    assert 1 <= low <= middle <= high <= 100
    assert low < 10
    assert "upper bound" in repr(found)
    assert found.nll > log_likelihood(model, x).nll


def test_a_diagnosis_passes_the_caution_on():
    model = make("vae", "mlp").eval()
    with torch.no_grad():
        model.encoders[0].std.log -= 2.0
    x, _ = data(SPECS["vae"])
    found = pc.diagnose(model, x, importance_samples=20)
    assert found.nll == log_likelihood(model, x, samples=20).nll
    assert any("effective samples" in note for note in found.notes)
    assert not any("effective samples" in note for note in pc.diagnose(model, x).notes)


def test_one_sample_has_no_error_bar():
    found = log_likelihood(make("vae").eval(), data(SPECS["vae"])[0], exact=False, samples=1)
    assert np.isnan(found.per_row_error).all()
    assert math.isnan(found.sampling_error)
    assert len(found.notes) == 1


def test_one_row_is_told_as_one_and_without_an_error():
    model, (x, _) = make("vae").eval(), data(SPECS["vae"])
    text = repr(log_likelihood(model, x[:1], exact=False, samples=1))
    assert re.search(r"nll -?[\d.]+ nats over 1 row; 1 sample, effective 1 ", text)
    assert "nan" not in text
    assert " nats over 30 rows; exact)" in repr(log_likelihood(model, x))


class Ring(LatentModel):
    """A model of someone else's, no module: y is on a ring, its angle is the latent."""

    spec = pc.VAESpec(1, eta_dec=0.2)

    def posterior(self, level, given, y=None):
        angle = torch.atan2(given[..., 1:], given[..., :1])
        return Normal(angle, torch.full_like(angle, 0.3))

    def prior(self, level, given=None):
        return Normal(torch.zeros(1), torch.ones(1))

    def decode(self, z, x=None):
        return Normal(torch.cat([z.cos(), z.sin()], -1), 0.2)


def test_any_latent_model_will_do():
    angles = np.linspace(-1.5, 1.5, 9)
    x = np.stack([np.cos(angles), 1.1 * np.sin(angles)], 1)
    z = np.linspace(-8, 8, 8001)
    ring = np.stack([np.cos(z), np.sin(z)], 1)
    density = norm.logpdf(x[:, None], ring, 0.2).sum(-1) + norm.logpdf(z)
    # the posterior does not look for the ring's other turns: leave them out
    near = np.abs(z - angles[:, None]) < np.pi
    expected = np.log(trapezoid(np.exp(density) * near, z, axis=1))
    found = log_likelihood(Ring(), x, samples=5000)
    assert np.all(np.abs(found.per_row - expected) < 4 * found.per_row_error + 1e-5)


def test_a_std_that_was_only_assumed_is_noted():
    encode, decode = torch.nn.Linear(4, 4), torch.nn.Linear(2, 4)
    options = {"latent_dim": 2}
    x, _ = data(SPECS["vae"])
    wrapped = from_callable(lambda x: encode(x).chunk(2, -1), decode, **options)
    assert any("std is not known" in note for note in log_likelihood(wrapped, x).notes)
    spec = pc.VAESpec(2, sigma="input", eta_dec=0.7)
    known = from_callable(lambda x: encode(x).chunk(2, -1), decode, spec=spec, **options)
    assert not any("std is not known" in note for note in log_likelihood(known, x).notes)


def test_a_gaussian_that_the_decoder_itself_returned_is_no_stand_in():
    """Of likelihood "other" it was refused as a mean alone: return a distribution, it was told."""
    U = torch.tensor([[1.0, 0.5], [0.0, 1.0], [0.5, -0.5]])
    std = torch.tensor([0.5, 1.0, 2.0])

    def decode(z):
        return Normal(z @ U.T, std)

    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    precision = U.T @ torch.diag(std**-2) @ U + torch.eye(2)
    covariance = torch.linalg.inv(precision)

    def encode(x):  # about the posterior itself
        mean = x @ torch.diag(std**-2) @ U @ covariance
        return mean, covariance.diagonal().log().expand(len(x), 2)

    model = from_callable(
        encode, decode, latent_dim=2, spec=pc.VAESpec(2, sigma="input", likelihood="other")
    )
    found = log_likelihood(model, x, samples=4000)
    truth = multivariate_normal(np.zeros(3), (U @ U.T + torch.diag(std**2)).numpy())
    assert found.nll == pytest.approx(-truth.logpdf(x.numpy()).mean(), abs=5 * found.sampling_error)
    assert found.sampling_error < 0.01
    assert pc.diagnose(model, x, importance_samples=100).nll == pytest.approx(found.nll, abs=0.1)


def test_data_come_in_many_forms():
    model = make("cvae", "mlp", hidden=(4,)).eval()
    x, y = data(SPECS["cvae"])
    tensors = tuple(torch.as_tensor(a) for a in (x, y))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*tensors), batch_size=30)
    expected = log_likelihood(model, (x, y), samples=20).per_row
    for form in (tensors, pc.Dataset("toy", x, y), loader, iter([tensors])):
        np.testing.assert_array_equal(log_likelihood(model, form, samples=20).per_row, expected)


def test_the_result_is_plain_data_on_request():
    found = log_likelihood(make("vae", "mlp").eval(), data(SPECS["vae"])[0], samples=50)
    plain = json.loads(json.dumps(found.to_dict()))
    assert isinstance(found, LogLikelihood)
    assert plain["nll"] == found.nll
    assert plain["per_row"] == found.per_row.tolist()
    assert len(plain["effective_sample_size_quantiles"]) == 3


def test_the_model_gets_its_mode_back():
    model = make("vae", "mlp", dropout=0.5).train()
    found = log_likelihood(model, data(SPECS["vae"])[0], samples=5)
    assert model.training
    assert "training mode" in found.notes[0]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"samples": 0}, "samples"),
        ({"samples": 2.5}, "samples"),
        ({"samples": "many"}, "samples"),
        ({"chunk": 0}, "chunk"),
        ({"seed": -1}, "seed"),
        ({"exact": True}, "exact"),
    ],
)
def test_bad_options_are_named(options, named):
    with pytest.raises(InvalidArgumentError, match=rf"^{named}: got"):
        log_likelihood(make("vae", "mlp"), data(SPECS["vae"])[0], **options)


def test_bad_data_and_models_are_refused():
    x, _ = data(SPECS["cvae"])
    with pytest.raises(DataError, match="no target"):
        log_likelihood(make("cvae"), x)
    with pytest.raises(DataError, match="row 3"):
        log_likelihood(make("vae"), np.where(np.arange(30)[:, None] == 3, np.nan, x))
    with pytest.raises(InvalidArgumentError, match=r"\(\.\.\., 4\)"):
        log_likelihood(make("vae"), x[:, :3])
    fitted = pc.fit(SPECS["vae"], x, "linear", epochs=1)
    np.testing.assert_array_equal(
        log_likelihood(fitted, x).per_row, log_likelihood(fitted.model, x).per_row
    )
    broken = make("vae", "mlp")
    with torch.no_grad():
        broken.decoders[0].heads["z"].bias.fill_(math.nan)
    with pytest.raises(InvalidArgumentError, match=r"^model: got log p\(y\|x\) = nan in row 0"):
        log_likelihood(broken, x, samples=5)


@pytest.mark.parametrize("architecture", ["linear", "mlp"])
def test_another_eta_dec_is_that_of_the_model_with_it(architecture):
    x = np.random.default_rng(5).standard_normal((40, 4))
    networks = {} if architecture == "linear" else {"hidden": (8,)}
    models = [
        build(pc.VAESpec(2, eta_dec=eta), architecture, x_dim=4, **networks) for eta in (1.0, 0.5)
    ]
    models[1].load_state_dict(models[0].state_dict() | {"eta_dec.value": torch.tensor(0.5)})
    at, own = (
        log_likelihood(model, x, samples=300, eta_dec=eta)
        for model, eta in zip(models, (0.5, None), strict=True)
    )
    np.testing.assert_allclose(at.per_row, own.per_row, rtol=1e-5)
    assert abs(at.nll - log_likelihood(models[0], x, samples=300).nll) > 0.1
