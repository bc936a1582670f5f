"""Training of every likelihood: sweeps, checkpoints, data, collapse where theory says."""

import numpy as np
import pytest
import torch
from scipy import special
from scipy.stats import norm
from torch.utils.data import DataLoader, TensorDataset

import posterior_collapse as pc
from posterior_collapse.diagnosis import log_likelihood
from posterior_collapse.errors import DataError, InvalidArgumentError, NotSolvedError
from posterior_collapse.models import build
from posterior_collapse.training import checkpoints, states
from test_training_many import assert_same_course
from test_training_resume import assert_same, broken_off

G = np.random.default_rng(0)
N = 150
HIDDEN = G.standard_normal((N, 2)) @ G.standard_normal((2, 12)) * 1.5
BINARY = (G.random((N, 12)) < special.expit(HIDDEN)).astype(np.float32)
SOFT = special.expit(HIDDEN).astype(np.float32)
COUNTS = G.poisson(np.exp(np.clip(HIDDEN / 3, -1, 1) + 1)).astype(np.float32)
ONE_HOT = np.eye(3, dtype=np.float32)[(HIDDEN[:, :4, None] > [-1, 1]).sum(-1)]  # (N, 4, 3)
UNEVEN = np.concatenate([ONE_HOT[:, 0], ONE_HOT[:, 1], BINARY[:, :1], 1 - BINARY[:, :1]], 1)


def specs(likelihood, *betas, kind=pc.VAESpec, dims=3, **fields):
    def beta(value):
        return {"betas": (value, 1.0)} if kind is pc.HVAESpec else {"beta": value}

    return [kind(dims, **beta(b), likelihood=likelihood, **fields) for b in betas]


RUNS = {
    "bernoulli, linear": (specs("bernoulli", 0.5, 1.5), BINARY, "linear", {}),
    "bernoulli, soft targets": (specs("bernoulli", 0.5, 1.5), SOFT, "mlp", {"hidden": (8,)}),
    "bernoulli, cnn": (
        specs("bernoulli", 0.5, 1.5), BINARY.reshape(N, 3, 4), "cnn",
        {"channels": (3, 2), "hidden": (5,)},
    ),
    "bernoulli, cvae": (
        specs("bernoulli", 0.5, 1.5, kind=pc.CVAESpec), (HIDDEN[:, :4], BINARY[:, 4:]), "mlp",
        {"hidden": (6, 5), "dropout": 0.1},
    ),
    "bernoulli, hvae": (
        specs("bernoulli", 0.5, 1.5, kind=pc.HVAESpec, dims=(3, 2), eta_dec=0.7), BINARY, "mlp",
        {"hidden": (6,), "free_bits": 0.05},
    ),
    "poisson": (specs("poisson", 0.5, 1.5), COUNTS, "mlp", {"hidden": (8,)}),
    "negative-binomial": (
        specs("negative-binomial", 0.5, 1.5), COUNTS, "mlp", {"hidden": (8,)}
    ),
    "negative-binomial, fixed": (
        [
            *specs("negative-binomial", 1, dispersion=2),
            *specs("negative-binomial", 2, dispersion=9),
        ],
        COUNTS, "linear", {},
    ),
    "categorical": (specs("categorical", 0.5, 1.5), ONE_HOT, "mlp", {"hidden": (8,)}),
    "categorical, uneven": (specs("categorical", 0.5, 1.5), UNEVEN, "linear", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_sweep_has_the_losses_of_its_runs_alone(name) -> None:
    runs, data, network, options = RUNS[name]
    # 150 rows in batches of 64 are 3 steps, the last smaller. Tracing that fails would warn.
    sweep = pc.fit_many(
        runs, data, network, epochs=12, batch_size=64, seeds=(5, 6), clips=(None, 5.0),
        learning_rates=(1e-3, 3e-3), **options,
    )  # fmt: skip
    networks = {k: v for k, v in options.items() if k not in sweep[0].settings.to_dict()}
    assert_same_course(sweep, data, network, 1e-5, **networks)
    for run in sweep:
        assert run.stopped == "finished"
        assert run.history["loss"][-1] < run.history["loss"][0]
        measured = run.measured()
        assert measured["loss"] == pytest.approx(run.history["loss"][-1], rel=0.2, abs=1)


@pytest.mark.parametrize(
    "name", ["bernoulli, cnn", "bernoulli, hvae", "negative-binomial", "categorical, uneven"]
)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, name) -> None:
    runs, data, network, options = RUNS[name]
    options = {"epochs": 5, "batch_size": 64, **options}
    alone = pc.fit(runs[0], data, network, **options)
    assert_same(broken_off(3, pc.fit, runs[0], data, network, folder=tmp_path, **options), alone)
    model = states.load_model(checkpoints.load(tmp_path))
    assert model.config == alone.model.config
    for (key, own), other in zip(
        alone.model.state_dict().items(), model.state_dict().values(), strict=True
    ):
        assert torch.equal(own, other), key


@pytest.mark.parametrize("name", ["bernoulli, soft targets", "categorical", "negative-binomial"])
def test_half_precision_is_near(name) -> None:
    runs, data, network, own = RUNS[name]
    one = pc.fit(runs[0], data, network, epochs=3, **own)
    other = pc.fit(runs[0], data, network, epochs=3, precision="bf16", **own)
    np.testing.assert_allclose(one.history["loss"], other.history["loss"], rtol=0.01)


def test_a_sweep_keeps_likelihoods_apart() -> None:
    mixed = [*specs("bernoulli", 0.5), *specs("poisson", 0.5), pc.VAESpec(3, 0.5)]
    options = {"epochs": 2, "hidden": (6,)}
    swept = pc.sweep([*mixed, *specs("bernoulli", 2.0)], BINARY, "mlp", **options)
    for run, spec in zip(swept.runs, mixed, strict=False):
        alone = pc.fit(spec, BINARY, "mlp", seed=run.run.settings.seed, **options)
        np.testing.assert_allclose(run.history["loss"], alone.history["loss"], rtol=1e-5)
    with pytest.raises(InvalidArgumentError, match="specs: got a bernoulli and a poisson"):
        pc.fit_many(mixed, BINARY, "mlp", **options)


# Data


def test_positions_are_found_however_one_hot_data_come() -> None:
    (spec,) = specs("categorical", 1.0)
    flat, loader = ONE_HOT.reshape(N, 12), DataLoader(TensorDataset(torch.tensor(ONE_HOT)), 50)
    options = {"epochs": 1, "hidden": (4,)}
    for data in (ONE_HOT, flat, loader, DataLoader(TensorDataset(torch.tensor(flat)), 50)):
        assert pc.fit(spec, data, "mlp", **options).model.config["classes"] == [3, 3, 3, 3]
    assert pc.fit(spec, UNEVEN, "mlp", **options).model.config["classes"] == [3, 3, 2]
    # A class that no row has: only the shape tells whose it is.
    never = np.concatenate([ONE_HOT, np.zeros((N, 4, 1))], 2)
    assert pc.fit(spec, never, "mlp", **options).model.config["classes"] == [4, 4, 4, 4]
    pair = HIDDEN[:, :2], ONE_HOT
    (given,) = specs("categorical", 1.0, kind=pc.CVAESpec)
    fitted = pc.fit(given, pair, "mlp", **options)
    assert fitted.model.config["classes"] == [3, 3, 3, 3]
    means = fitted.model.reconstruct(*map(torch.tensor, (pair[0].astype("f4"), flat)))
    np.testing.assert_allclose(means.detach().reshape(N, 4, 3).sum(2), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("likelihood", "data", "message"),
    [
        ("bernoulli", BINARY * 255, "data: got the value 255; expected values from 0 to 1"),
        ("bernoulli", BINARY - 0.5, "data: got the value -0.5"),
        ("poisson", COUNTS - 3, "data: got the value -3; expected values of at least 0"),
        ("categorical", COUNTS, r"one-hot vector \(torch.nn.functional.one_hot\)"),
        ("categorical", BINARY, "data: got rows that sum to"),
        ("categorical", ONE_HOT.transpose(0, 2, 1), "one-hot positions side by side"),
    ],
)
def test_targets_that_have_no_probability_are_refused(likelihood, data, message) -> None:
    (spec,) = specs(likelihood, 1.0)
    loader = DataLoader(TensorDataset(torch.tensor(np.ascontiguousarray(data))), 50)
    for given in (data, loader):
        with pytest.raises(DataError, match=message) as caught:
            pc.fit(spec, given, "mlp", epochs=1)
        assert "\n" not in str(caught.value)
    good = {"categorical": ONE_HOT, "poisson": COUNTS}.get(likelihood, BINARY)
    if data.shape == good.shape:
        with pytest.raises(DataError, match=message):
            pc.fit(spec, good, "mlp", epochs=1, validation=data)


def test_the_condition_may_be_anything() -> None:
    (spec,) = specs("bernoulli", 1.0, kind=pc.CVAESpec)
    with pytest.raises(DataError, match="the value"):
        pc.fit(spec, (BINARY, HIDDEN), "linear", epochs=1)
    pc.fit(spec, (HIDDEN, BINARY), "linear", epochs=1)


@pytest.mark.parametrize("call", [pc.fit, lambda spec, x, **o: pc.fit_many([spec], x, **o)])
def test_what_cannot_be_trained_is_refused(call) -> None:
    (spec,) = specs("bernoulli", 1.0)
    for options, message in (
        ({"exact": True, "architecture": "linear"}, "exact: got True with likelihood 'bernoulli'"),
        ({"convention": "twice"}, "convention: got 'twice' with likelihood 'bernoulli'"),
        ({"output": "sigmoid"}, "output: got 'sigmoid' with likelihood 'bernoulli'"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            call(spec, BINARY, **options)
    with pytest.raises(InvalidArgumentError, match="likelihood: got 'other' for a model to train"):
        call(pc.VAESpec(2, likelihood="other"), BINARY)


# Collapse


def one_strong_mode():
    """300 binary rows of 10 features that all follow one coin: correlations of about a half."""
    rng = np.random.default_rng(1)
    coin = rng.random((300, 1)) < 0.5
    return (rng.random((300, 10)) < np.where(coin, 0.85, 0.15)).astype(np.float32)


def test_a_linear_bernoulli_vae_collapses_at_its_onset() -> None:
    x = one_strong_mode()
    onset = np.linalg.eigvalsh(np.corrcoef(x.T))[-1]
    runs = specs("bernoulli", 0.7 * onset, 1.2 * onset, dims=2)
    assert pc.forecast(x, runs[0]).onset == pytest.approx(onset)
    alive, dead = pc.fit_many(
        runs, x, "linear", steps=1500, batch_size=300, learning_rate=0.02
    )  # fmt: skip
    assert alive.measured()["levels"][0]["n_active"] == 1
    assert dead.measured()["levels"][0]["n_active"] == 0
    for run in (alive, dead):
        found = run.summary()
        counts = [found[key]["levels"][0]["n_active"] for key in ("measured", "forecast")]
        assert counts[0] == counts[1]
    # Of the constant the loss is known exactly; a collapsed model comes that near in its noise.
    mean = x.mean(0)
    constant = -(special.xlogy(mean, mean) + special.xlogy(1 - mean, 1 - mean)).sum()
    assert dead.forecast.loss == pytest.approx(constant)
    assert dead.measured()["loss"] == pytest.approx(constant, rel=0.01)


def test_a_hierarchy_may_learn_the_std_of_its_upper_level() -> None:
    (spec,) = specs("bernoulli", 1.0, kind=pc.HVAESpec, dims=(3, 2), eta_dec="learned")
    fitted = pc.fit(spec, BINARY, "mlp", epochs=2, hidden=(6,))
    assert fitted.summary()["forecast"] is None
    with pytest.raises(NotSolvedError, match="eta_dec: got 'learned' in a hierarchy of likelihood"):
        pc.forecast(BINARY, spec)


def test_a_run_may_start_at_the_forecast() -> None:
    (spec,) = specs("bernoulli", 2.0, dims=2)
    x = one_strong_mode()
    started = pc.fit(spec, x, "linear", epochs=1, learning_rate=1e-6, from_forecast=True)
    assert started.measured()["loss"] == pytest.approx(started.forecast.loss, rel=0.05)


def test_the_dispersion_is_learned() -> None:
    rng = np.random.default_rng(3)
    mean, r = np.full((2000, 3), 5.0), np.array([1.0, 4.0, 50.0])
    x = rng.poisson(rng.gamma(r, mean / r))
    spec = pc.VAESpec(1, 50.0, likelihood="negative-binomial")
    fitted = pc.fit(spec, x, "linear", steps=600, batch_size=2000, learning_rate=0.03)
    found = fitted.model.observation.r.detach().numpy()
    # 2,000 counts tell r to some per cent, and less well where it makes less of a difference.
    np.testing.assert_allclose(found[:2], r[:2], rtol=0.2)
    assert found[2] > 15


# Log-likelihood


@pytest.mark.parametrize("name", ["bernoulli", "poisson", "negative-binomial", "categorical"])
def test_the_log_likelihood_agrees_with_quadrature(name) -> None:
    (spec,) = specs(name, 1.0, dims=1)
    x = {"bernoulli": BINARY, "categorical": ONE_HOT.reshape(N, 12)}.get(name, COUNTS)[:20]
    model = build(spec, "linear", x_dim=12, classes=(3,) * 4, dtype=torch.float64)
    with torch.no_grad():
        model.decoders[0].heads["z"].weight.mul_(1.5)
        z = torch.linspace(-9, 9, 2001, dtype=torch.float64)
        y = torch.tensor(x, dtype=torch.float64)
        decoded = model.decode(z[:, None, None].expand(-1, len(x), 1))
        density = decoded.log_prob(y).sum(-1).numpy().T + norm.logpdf(z.numpy())
    expected = special.logsumexp(density, axis=1) + np.log(18 / 2000)
    found = log_likelihood(model, x.astype(float), samples=20_000)
    assert found.samples == 20_000  # no closed form is known
    assert found.sampling_error < 0.05
    assert np.all(np.abs(found.per_row - expected) < 4.5 * found.per_row_error + 1e-9)


def test_the_log_likelihood_of_two_units_agrees_with_quadrature() -> None:
    (spec,) = specs("bernoulli", 1.0, dims=2)
    x = one_strong_mode()[:10]
    model = pc.fit(spec, one_strong_mode(), "mlp", epochs=30, hidden=(8,)).model.double()
    z = torch.linspace(-7, 7, 141, dtype=torch.float64)
    grid = torch.cartesian_prod(z, z)
    with torch.no_grad():
        decoded = model.decode(grid[:, None].expand(-1, len(x), 2))
        log_p = decoded.log_prob(torch.tensor(x, dtype=torch.float64)).sum(-1)
        log_p = log_p + model.prior(1).log_prob(grid).sum(-1)[:, None]
    expected = log_p.logsumexp(0).numpy() + 2 * np.log(0.1)
    found = log_likelihood(model, x.astype(float), samples=20_000)
    assert found.sampling_error < 0.02
    assert np.all(np.abs(found.per_row - expected) < 4.5 * found.per_row_error + 1e-9)
    few = log_likelihood(model, x.astype(float), samples=50)
    assert pc.diagnose(model, x.astype(float), importance_samples=50).nll == few.nll


@pytest.mark.parametrize("r", [1e4, 1e8])
def test_counts_of_large_dispersion_are_diagnosed_as_a_poissons(r) -> None:
    (spec,) = specs("poisson", 1.0)
    poisson = build(spec, "linear", x_dim=12)
    same = build(spec.replace(likelihood="negative-binomial", dispersion=r), "linear", x_dim=12)
    same.load_state_dict(poisson.state_dict(), strict=False)
    one, other = (pc.diagnose(model, COUNTS, importance_samples=20) for model in (poisson, same))
    for name in ("loss", "nll", "data_loss", "signal"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-3)


def test_a_conditional_model_is_diagnosed_beside_its_forecast(monkeypatch) -> None:
    """Of rows that pass by, and of too many, it is said who has it."""
    (spec,) = specs("bernoulli", 0.5, kind=pc.CVAESpec)
    data = HIDDEN[:, :2].astype(np.float32), BINARY
    model = build(spec, "linear", x_dim=2, y_dim=12)
    found, expected = pc.diagnose(model, data), pc.forecast(data, spec)
    assert found.forecast.loss == expected.loss
    np.testing.assert_array_equal(found.forecast.spectrum, expected.spectrum)
    best = expected._modes.noise.constant_loss
    assert found.collapsed_loss == best < found.loss
    assert found.verdict.startswith("Training has not converged")
    assert f"the linear forecast, an approximation, keeps {expected.n_active}" in found.verdict
    assert any("differently for each x may keep more units" in note for note in found.notes)
    monkeypatch.setattr("posterior_collapse.diagnosis.diagnosing.MOST_REGRESSED", 100)
    for given in (data, iter([data])):
        told = pc.diagnose(model, given)
        (note,) = [note for note in told.notes if "forecast" in note]
        assert note.endswith("that are not too large; pc.forecast has it")
        assert told.forecast is None


def test_a_std_is_no_option_of_another_likelihood() -> None:
    (spec,) = specs("bernoulli", 1.0)
    model = build(spec, "linear", x_dim=12)
    with pytest.raises(InvalidArgumentError, match=r"eta_dec: got 0\.5 with likelihood"):
        log_likelihood(model, BINARY, eta_dec=0.5)
    with pytest.raises(InvalidArgumentError, match="exact: got True"):
        log_likelihood(model, BINARY, exact=True)
    other = build(pc.VAESpec(3), "linear", x_dim=12)
    other.spec = spec  # a decoder that gives means alone
    with pytest.raises(NotSolvedError, match="a decoder mean alone, with likelihood 'bernoulli'"):
        log_likelihood(other, BINARY, exact=False)
