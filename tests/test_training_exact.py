"""Linear models trained without noise against the closed form, which training never sees."""

import numpy as np
import pytest

import posterior_collapse as pc
from exact import elbo_loss
from posterior_collapse.errors import InvalidArgumentError, NonFiniteLossError
from posterior_collapse.models import read_parameters
from posterior_collapse.training import ACTIVE_INFORMATION

G = np.random.default_rng(3)
PLANTED = np.array([3.0, 2.0, 1.2, 0.7, 0.4, 0.2, 0.1, 0.05])
X = G.standard_normal((400, 8)) * PLANTED @ np.linalg.qr(G.standard_normal((8, 8)))[0] + 5
Y = X[:, :5] @ G.standard_normal((5, 6)) / 2 + G.standard_normal((400, 6)) * PLANTED[:6]


def digits():
    return pc.load("digits").x, None


def quarter():
    found = pc.load("digits", task="quarter")
    return found.x, found.y


def random():
    return X, None


def with_constants():
    return np.hstack([X, np.ones((len(X), 2))]), None


def pair():
    return X, Y


CASES = {
    "vae digits": (pc.VAESpec(8, beta=1.5, eta_dec=0.4), digits),
    "vae digits, learned eta_dec": (pc.VAESpec(6, eta_dec="learned"), digits),
    "cvae digits": (pc.CVAESpec(5, eta_dec=0.5), quarter),
    "hvae digits": (pc.HVAESpec((6, 4), (1, 2), eta_dec=0.4, sigma_1=0.5), digits),
    "vae": (pc.VAESpec(6, beta=2.0, eta_dec=0.4, eta_enc=1.5), random),
    "vae, wider than the data": (pc.VAESpec(10, eta_dec=0.3), random),
    "vae, constant features": (pc.VAESpec(6, eta_dec=0.4), with_constants),
    "vae, fixed sigma": (pc.VAESpec(6, eta_dec=0.5, sigma=0.8), random),
    "vae, a fixed sigma per unit": (pc.VAESpec(4, eta_dec=0.5, sigma=(0.9, 0.5, 1.5, 0.7)), random),
    "vae, shared sigma": (pc.VAESpec(6, eta_dec=0.5, sigma="shared"), random),
    "vae, learned eta_dec": (pc.VAESpec(4, beta=1.2, eta_dec="learned"), random),
    "vae, fixed sigma, learned eta_dec": (pc.VAESpec(4, eta_dec="learned", sigma=0.6), random),
    "cvae": (pc.CVAESpec(5, beta=0.7, eta_dec=0.6), pair),
    "cvae, fixed sigma": (pc.CVAESpec(5, eta_dec=0.6, sigma=0.7), pair),
    "cvae, learned eta_dec": (pc.CVAESpec(4, eta_dec="learned"), pair),
    "hvae": (pc.HVAESpec((6, 6), (1, 1.5), eta_dec=0.6, sigma_1=0.4), random),
    "hvae, fixed sigmas": (pc.HVAESpec((6, 5), (1, 2), 0.6, 1.3, 0.5, 0.6), random),
    "hvae, fixed sigma_2": (pc.HVAESpec((6, 6), (1, 1), 0.6, 1, "learned", 0.9), random),
    "hvae, learned sigmas": (pc.HVAESpec((6, 4), (1, 1.5), 0.6, 1, "learned", "learned"), random),
    "chain": (pc.ChainSpec((5, 4, 3), (1, 1.5, 2), (0.5, 0.6, 0.7), sigmas="learned"), random),
}


def root(moment):
    values, vectors = np.linalg.eigh(moment)
    return vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T


def singular_values(x, y, spec, p, *, center=True):
    """Encoder's and decoder's per level, by the definition in the theory."""
    x = x - x.mean(0) * center
    seen = x.T @ x / len(x)
    if spec.model == "cvae":
        y = y - y.mean(0)
        left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
        W = p["W2"] @ root(left.T @ left / len(x))
        return [[np.linalg.svd(m, compute_uv=False) for m in (W, p["U1"])]]
    found = []
    for level in range(1, len(spec.dims) + 1):
        V = p[f"W{level}"] @ root(seen)
        seen = V @ V.T + np.diag(p[f"sigma_{level}"] ** 2)
        found.append([np.linalg.svd(m, compute_uv=False) for m in (V, p[f"U{level}"])])
    return found


def padded(values, n):
    return np.pad(values, (0, n - len(values)))


@pytest.mark.parametrize("name", CASES)
def test_exact_training_reaches_the_closed_form(name):
    spec, load = CASES[name]
    x, y = load()
    fitted = pc.fit(spec, x if y is None else (x, y), "linear", exact=True)
    p = read_parameters(fitted.model)
    best = pc.forecast(pc.Moments.from_arrays(x, y), spec)
    scale = max(1.0, abs(best.loss))
    assert -1e-9 * scale <= elbo_loss(x, y, spec, p) - best.loss <= 1e-6 * scale
    assert fitted.measured()["loss"] == pytest.approx(best.loss, abs=1e-6 * scale)
    found = singular_values(x, y, spec, p)
    for level, (W, U), row in zip(best.levels, found, fitted.measured()["levels"], strict=True):
        n = len(level.kl)
        close(padded(W, n), level.encoder_singular_values)
        close(padded(U, n), level.decoder_singular_values)
        assert not ((level.information > 0) & (level.information < 2 * ACTIVE_INFORMATION)).any()
        assert row["n_active"] == level.n_active
        close(sorted(row["information"])[::-1], np.sort(level.information)[::-1])


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_an_ill_conditioned_model_arrives_and_one_cut_short_says_so():
    x = np.random.default_rng(2).standard_normal((500, 6)) * [3, 2, 1.2, 0.5, 0.3, 0.2]
    spec = pc.HVAESpec((4, 3), betas=(1, 0.2), eta_dec=0.5, sigma_1=1.5)
    fitted = pc.fit(spec, x, "linear", exact=True)
    assert fitted.stopped == "finished"
    assert fitted.measured()["loss"] == pytest.approx(fitted.forecast.loss, abs=1e-11)
    # In units of their own noise, encoders need few iterations, however narrow a posterior.
    assert fitted.history["step"][-1] < 500
    short = pc.fit(spec, x, "linear", exact=True, steps=7)
    assert short.stopped == "iteration limit"
    assert short.history["step"] == [7]


@pytest.mark.parametrize("spec", [pc.VAESpec(3, beta=0.7), pc.HVAESpec((4, 3), sigma_1=0.5)])
def test_a_target_that_is_not_the_input_needs_no_condition(spec):
    fitted = pc.fit(spec, (X, Y), "linear", exact=True)
    assert fitted.measured()["loss"] == pytest.approx(fitted.forecast.loss, abs=1e-9)


@pytest.mark.parametrize("units", [1e-6, 1e6])
@pytest.mark.parametrize("sigma", ["learned", 0.7])
def test_the_way_does_not_depend_on_the_units_of_the_data(units, sigma):
    spec = pc.VAESpec(4, eta_dec=0.5, sigma=sigma)
    one = pc.fit(spec, X, "linear", exact=True, steps=60)
    other = pc.fit(spec.replace(eta_dec=0.5 * units), X * units, "linear", exact=True, steps=60)
    shifted = np.array(other.history["loss"]) - X.shape[1] * np.log(units)
    np.testing.assert_allclose(shifted, one.history["loss"], atol=1e-5)


@pytest.mark.parametrize("spec", [pc.VAESpec(4, eta_dec=0.5), pc.CVAESpec(3, eta_dec=0.5)])
def test_without_biases_the_optimum_is_that_of_raw_moments(spec):
    y = Y if spec.model == "cvae" else None
    fitted = pc.fit(spec, X if y is None else (X, y), "linear", exact=True, bias=False)
    best = pc.forecast(pc.Moments.from_arrays(X, y, center=False), spec)
    p = {"b1": 0, "c1": 0, **read_parameters(fitted.model)}
    assert elbo_loss(X, y, spec, p) == pytest.approx(best.loss, rel=1e-6)
    (level,) = fitted.measured()["levels"]
    assert level["n_active"] == best.levels[0].n_active
    close(sorted(level["information"]), sorted(best.levels[0].information))


@pytest.mark.parametrize(("optimiser", "rate"), [("adam", 0.01), ("sgd", 0.1)])
def test_first_order_methods_arrive_too(optimiser, rate):
    x = np.random.default_rng(4).standard_normal((300, 4)) * [2, 1.5, 1, 0.3]
    spec = pc.VAESpec(3, beta=1.5, sigma=0.8)
    fitted = pc.fit(
        spec, x, "linear", exact=True, optimiser=optimiser, learning_rate=rate, steps=1500, clip=10
    )
    assert fitted.measured()["loss"] == pytest.approx(fitted.forecast.loss, rel=1e-6)


def test_a_warm_start_is_at_the_optimum_already():
    fitted = pc.fit(pc.VAESpec(3, eta_dec=0.5), X, "linear", exact=True, from_forecast=True)
    assert fitted.history["step"][-1] <= 2
    assert fitted.measured()["loss"] == pytest.approx(fitted.forecast.loss, rel=1e-12)


def test_models_to_start_from_are_started_from():
    """They were taken for models as initialised, whose weights are in the units of white data."""
    spec = pc.VAESpec(3, eta_dec=0.5)
    best = pc.fit(spec, X, "linear", exact=True)
    (again,) = pc.fit_many([spec], X, "linear", exact=True, start=[best.model])
    assert again.history["step"][-1] <= 2
    assert again.measured()["loss"] == pytest.approx(best.measured()["loss"], rel=1e-12)


@pytest.mark.parametrize(
    ("start", "options", "said"),
    [
        (
            lambda one: [one.model],
            {"from_forecast": True},
            "from_forecast: got True beside `start`",
        ),
        (lambda one: one.model, {}, "start: got a MarkovVAE; expected a sequence"),
        (lambda one: [one], {}, "start: got a Fitted; expected a list of trained models"),
        (lambda one: [one.model] * 2, {}, "start: got 2 values; expected 1"),
        (lambda one: [one.model], {"bias": False}, "start: got a model of Architecture"),
    ],
)
def test_what_cannot_be_started_from_is_refused(start, options, said):
    spec = pc.VAESpec(3, eta_dec=0.5)
    one = pc.fit(spec, X, "linear", epochs=1)
    with pytest.raises(InvalidArgumentError, match=said):
        pc.fit_many([spec], X, "linear", epochs=1, start=start(one), **options)
    with pytest.raises(InvalidArgumentError, match="start: got a model of Shapes"):
        pc.fit_many([spec], X[:, :7], "linear", epochs=1, start=[one.model])


def test_a_sweep_is_its_runs_alone():
    specs = [pc.VAESpec(3, beta=beta, eta_dec=0.5) for beta in (0.5, 4.0)]
    sweep = pc.fit_many(specs, X, "linear", exact=True, seeds=(3, 4))
    for seed, run in zip((3, 4), sweep, strict=True):
        alone = pc.fit(run.spec, X, "linear", exact=True, seed=seed)
        assert run.history == alone.history


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_a_convention_has_the_optimum_of_its_effective_beta(factor):
    convention = {1.0: "twice", 0.5: "reference"}[factor]
    fitted = pc.fit(pc.VAESpec(3), X, "linear", exact=True, convention=convention)
    best = pc.forecast(X, pc.VAESpec(3, beta=factor))
    assert fitted.forecast.loss == best.loss
    assert fitted.measured()["loss"] == pytest.approx(best.loss, rel=1e-6)


def test_a_loss_that_is_not_finite_ends_the_run_and_freezes_it_in_a_sweep():
    options = {"exact": True, "optimiser": "sgd", "steps": 300}
    with pytest.raises(NonFiniteLossError, match=r"iteration \d+.*learning_rate"):
        pc.fit(pc.VAESpec(3), X, "linear", learning_rate=1e3, **options)
    specs = [pc.VAESpec(3)] * 2
    bad, good = pc.fit_many(specs, X, "linear", learning_rates=(1e3, 1e-3), **options)
    assert bad.stopped.startswith("non-finite: loss at iteration")
    assert good.stopped == "finished"


@pytest.mark.parametrize(
    ("architecture", "options", "said"),
    [
        ("mlp", {}, "'linear' with exact=True. Pass architecture='linear', or leave exact out"),
        ("linear", {"sigma": "input"}, "sigma: got 'input'"),
        ("linear", {"warm_up": 3}, "warm_up: got 3"),
        ("linear", {"patience": 3}, "patience: got 3"),
        ("linear", {"validation": X}, "validation: got data; expected nothing in exact training"),
        ("linear", {"wide": True}, "exact: got data too wide"),
    ],
)
def test_what_exact_training_cannot_do_is_refused(architecture, options, said):
    x = G.standard_normal((20, 8200)) if options.pop("wide", False) else X
    spec = pc.VAESpec(3, sigma=options.pop("sigma", "learned"))
    with pytest.raises(InvalidArgumentError, match=said):
        pc.fit(spec, x, architecture, exact=True, **options)


def test_epochs_of_exact_training_are_iterations_at_most():
    options = {"exact": True, "initial_std": 1e-3}
    short = pc.fit(pc.VAESpec(3), X, "linear", epochs=3, **options)
    assert (short.stopped, short.history["step"][-1]) == ("iteration limit", 3)
    assert short.settings.steps == 3
    same = pc.fit(pc.VAESpec(3), X, "linear", epochs=3, steps=None, **options)
    assert same.history == short.history
    with pytest.raises(InvalidArgumentError, match="epochs: got 0"):
        pc.fit(pc.VAESpec(3), X, "linear", epochs=0, **options)
    assert pc.fit(pc.VAESpec(3), X, "linear", **options).stopped == "finished"


@pytest.mark.parametrize("scale", [1e-8, 1e-5, 1.0, 1e6])
def test_the_unit_of_the_data_decides_nothing(scale) -> None:
    """Beside a loss of data far smaller than their noise its constant was all that was seen."""
    spec = pc.VAESpec(6, beta=scale**2)
    fitted = pc.fit(X * scale, spec, "linear", exact=True)
    expected = np.sort(np.maximum(np.log(np.linalg.eigvalsh(np.cov(X.T, bias=True)))[2:], 0) / 2)
    found = np.sort(fitted.measured()["levels"][0]["kl"])
    assert fitted.stopped == "finished"
    assert found == pytest.approx(expected, abs=1e-4)
