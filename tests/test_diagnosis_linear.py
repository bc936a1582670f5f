"""Linear models at their closed-form optimum: every number is the theory's, exact or sampled."""

import numpy as np
import pytest
import torch

import posterior_collapse as pc
from planted import Opaque
from posterior_collapse.diagnosis.conclusions import is_settled, keeps_too_many
from posterior_collapse.models import build, load_parameters, read_parameters

N = 1500
SPECS = {
    "vae": pc.VAESpec(6, beta=1.3, eta_enc=1.2),
    "vae-fixed": pc.VAESpec(5, sigma=0.6),
    "vae-per-unit": pc.VAESpec(4, sigma=(0.4, 0.9, 1.1, 0.7)),
    "vae-learned-eta": pc.VAESpec(3, eta_dec="learned"),
    "cvae": pc.CVAESpec(5, beta=0.8),
    "cvae-fixed": pc.CVAESpec(5, sigma=0.7),
    "hvae": pc.HVAESpec((6, 5), betas=(1, 0.6), sigma_1=0.6, eta_dec=0.7),
    "hvae-fixed": pc.HVAESpec((6, 6), betas=(1, 0.6), sigma_1=0.6, sigma_2=0.8, eta_dec=0.7),
    "hvae-relay": pc.HVAESpec((6, 6), sigma_1=1.0, eta_dec=0.8),
    "hvae-learned": pc.HVAESpec((3, 2), betas=(1, 2), sigma_1="learned"),
    "chain": pc.ChainSpec((3, 3, 3), (1, 0.8, 0.5), (0.5, 0.6, 0.7), sigmas=(0.5, 0.5, "learned")),
}


def optimum(spec, center=True):
    """Gaussian data, the forecast, and a model with its parameters."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((N, 6)) * [3, 2, 1.5, 1, 0.3, 0.1] + 1
    y = None
    if spec.model == "cvae":
        y = x[:, :3] @ rng.standard_normal((3, 5))
        y += rng.standard_normal((N, 5)) * [2, 1.5, 0.8, 0.4, 0.2]
    forecast = pc.forecast(pc.Moments.from_arrays(x, y, center=center), spec)
    model = build(
        spec, "linear", x_dim=6, y_dim=None if y is None else 5, dtype=torch.float64, bias=center
    )
    parameters = dict(forecast.parameters())
    if not center:
        parameters = {k: v for k, v in parameters.items() if k not in ("b1", "c1")}
    load_parameters(model, parameters)
    return x if y is None else (x, y), forecast, model


@pytest.mark.parametrize("name", SPECS)
def test_an_optimum_is_diagnosed_as_it_was_forecast(name) -> None:
    data, forecast, model = optimum(SPECS[name])
    found = pc.diagnose(model, data)
    assert found.loss == pytest.approx(forecast.loss, rel=1e-12)
    assert found.eta_dec == pytest.approx(forecast.eta_dec)
    assert found.forecast.loss == pytest.approx(forecast.loss, rel=1e-12)
    for level, expected in zip(found.levels, forecast.levels, strict=True):
        assert level.kl == pytest.approx(expected.kl, abs=1e-10)
        assert level.posterior_std == pytest.approx(expected.posterior_std)
        assert level.gaussian_information == pytest.approx(expected.information, abs=1e-10)
        off = np.abs(level.information - expected.information)
        assert (off <= 4 * level.information_error + 1e-9).all()
        assert level.status == expected.status
        assert level.n_active == expected.n_active


@pytest.mark.parametrize("name", SPECS)
def test_sampling_finds_the_same_within_its_errors(name) -> None:
    data, forecast, model = optimum(SPECS[name])
    exact, found = pc.diagnose(model, data), pc.diagnose(Opaque(model), data)
    assert found.loss == pytest.approx(forecast.loss, abs=4 * found.loss_error)
    assert found.reconstruction == pytest.approx(
        exact.reconstruction, abs=4 * found.reconstruction_error
    )
    for level, same in zip(found.levels, exact.levels, strict=True):
        assert (np.abs(level.kl - same.kl) <= 4 * level.kl_error + 1e-9).all()
        off = np.abs(level.information - same.information)
        assert (off <= 4 * level.information_error + 1e-9).all()
        assert level.status == same.status
    for t, error, truth in zip(found.signal, found.signal_error, exact.signal, strict=True):
        # Several directions at the very threshold: the strongest of them is a little above.
        assert t == pytest.approx(truth, abs=4 * error)
    # At the very threshold, as a fixed sigma leaves it, samples cannot tell it from a little more.
    at_threshold = max(abs(t - 1) for t in exact.signal) < 1e-6
    assert found.conclusion == ("undecided" if at_threshold else exact.conclusion)


def test_a_linear_model_that_keeps_more_than_its_optimum_is_not_told_to_keep_them() -> None:
    """Where training has all but arrived, no loss tells, and "keep 5 units" was one too many."""
    x = np.random.default_rng(0).standard_normal((2000, 7)) * [3, 2.5, 2, 1.5, 1.06, 0.4, 0.3]
    spec = pc.VAESpec(7, beta=1.2)
    model = build(spec, "linear", x_dim=7, dtype=torch.float64)
    load_parameters(model, pc.forecast(x, spec.replace(beta=1.05)).parameters())
    found = pc.diagnose(model, x)
    assert (found.n_active, found.forecast.n_active) == (5, 4)
    assert 0 < found.loss - found.forecast.loss < 0.04
    assert "optimal" not in found.verdict
    assert "5 of 7 units active, 2 collapsed: no signal is left for the coll" in found.verdict
    assert found.verdict.endswith(
        "the linear optimum keeps 4: training has not ended there, or units are near their "
        "threshold."
    )
    first, *others = found.advice
    assert first.code == "not-at-optimum"
    assert first.text.startswith("5 units are active where the optimum of this linear model keeps")
    assert not [one for one in others if "Keep" in one.action]
    load_parameters(model, found.forecast.parameters())
    best = pc.diagnose(model, x)
    assert best.advice[0].action.startswith("Keep 4 units")
    assert "near their threshold" not in best.verdict


def other_optimum():
    """Of a plain hierarchical ELBO: z1 wider than z2's decoder is, as much as z2 explains of it."""
    data, forecast, model = optimum(pc.HVAESpec((3, 2), sigma_1="learned", eta_dec=0.5))
    wider = np.array([3.0, 2.0, 1.0])
    found = dict(forecast.parameters())
    found["W1"], found["b1"] = found["W1"] * wider[:, None], found["b1"] * wider
    found["U1"], found["sigma_1"] = found["U1"] / wider, found["sigma_1"] * wider
    # Section 3c: with s = wider^2 / 4, omega^2 = s - 1/4, sigma^2 = 1 / (4 s).
    found["U2"], found["W2"] = np.zeros((3, 2)), np.zeros((2, 3))
    np.fill_diagonal(found["U2"], np.sqrt(wider[:2] ** 2 - 1) / 2)
    np.fill_diagonal(found["W2"], 2 * np.sqrt(1 - wider[:2] ** -2.0) / wider[:2])
    found["sigma_2"] = 1 / wider[:2]
    load_parameters(model, found)
    return data, forecast, model


def test_other_counts_at_the_same_loss_are_no_failure_of_training() -> None:
    data, forecast, model = other_optimum()
    found = pc.diagnose(model, data)
    assert found.loss == pytest.approx(forecast.loss, rel=1e-12)
    assert [level.n_active for level in found.levels] == [3, 2]
    assert [level.n_active for level in forecast.levels] == [3, 0]
    assert forecast.undetermined
    assert found.verdict.endswith(
        "the linear optimum keeps 3 and 0, or other numbers of z2 at the same loss."
    )
    assert "not-at-optimum" not in [finding.code for finding in found.advice]


def test_units_that_share_what_is_active_have_nothing_to_settle() -> None:
    x = np.random.default_rng(4).standard_normal((N, 6)) * [2, 1.4, 0.3, 0.3, 0.2, 0.1]
    fitted = pc.fit(
        pc.HVAESpec((5, 2), (1, 0.5), 0.5, sigma_1="learned", sigma_2=0.4), x, "linear", exact=True
    )
    found = pc.diagnose(fitted, x)
    assert found.loss == pytest.approx(found.forecast.loss, rel=1e-9)
    assert found.forecast.undetermined
    for said in ("settling", "not ended", "Train"):
        assert said not in found.verdict + "".join(finding.action for finding in found.advice)


def test_counts_that_the_optimum_decides_are_told_from_others() -> None:
    moments = pc.Moments.from_matrices(np.diag([4.0, 2.0, 0.1]))
    learned = pc.HVAESpec((3, 2), sigma_1="learned", eta_dec=0.5)
    assert pc.forecast(moments, learned).undetermined
    assert pc.forecast(moments, learned).undetermined_levels == (False, True)
    for spec in (
        learned.replace(betas=(1, 1.1)),
        learned.replace(latent_dims=(2, 2), sigma_2=0.4),
        learned.replace(sigma_1=0.5),
        pc.VAESpec(3, eta_dec=0.5),
    ):
        assert not pc.forecast(moments, spec).undetermined, spec
    # Where z1 may be turned, its units that know nothing may be those that z2 hears.
    assert pc.forecast(moments, learned.replace(sigma_2=0.4)).undetermined_levels == (True, True)
    chain = pc.ChainSpec((3, 3, 2), (1, 1.5, 1.5), (0.5, 0.6, 0.7))
    assert pc.forecast(moments, chain).undetermined_levels == (False, False, True)


def test_a_level_that_is_open_silences_no_other() -> None:
    """z2 may keep other numbers than its optimum's 0; z1, of which it is 3, may not."""
    data, forecast, model = other_optimum()
    found = pc.diagnose(model, data)
    assert not keeps_too_many(found)
    z1, z2 = forecast.levels
    fewer = z1.replace(information=z1.information * [1, 1, 0])
    assert keeps_too_many(found.replace(forecast=forecast.replace(levels=(fewer, z2))))
    assert not is_settled(found.replace(levels=(found.levels[0].replace(directions=0),) * 2), 0)


def test_noise_below_that_is_learned_is_stopped_by_beta_where_theory_says() -> None:
    spec = pc.HVAESpec((6, 6), (1, 0.5), 0.5, sigma_1="learned", sigma_2=0.4)
    data, _, model = optimum(spec)
    found = pc.diagnose(model, data)
    assert found.levels[1].status.count("noise") == 2
    (finding,) = [one for one in found.advice if one.code == "noise-relay"]
    assert finding.action == "Raise beta_2 from 0.5 to 6.25, or use fewer units."
    for beta, statuses in ((6.25, {"collapsed"}), (6.24, {"active", "noise"})):
        stopped = pc.forecast(data, spec.replace(betas=(1, beta)))
        assert set(stopped.levels[1].status) == statuses


def test_a_posterior_wider_than_what_the_level_above_says_is_no_mistake() -> None:
    data, _, model = optimum(pc.HVAESpec((3, 2), sigma_1="learned", eta_dec=0.5))
    untrained = build(model.spec, "linear", x_dim=6)  # begins at sigma = 1, beside eta_dec = 0.5
    found = pc.diagnose(untrained, data)
    assert (found.levels[0].posterior_std == 1).all()
    assert "variance-for-log-variance" not in [finding.code for finding in found.advice]


def test_where_x_explains_all_no_beta_is_advised_for_rounding() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 3))
    data = x, x @ rng.standard_normal((3, 5))
    found = pc.diagnose(pc.fit(pc.CVAESpec(2), data, "linear", exact=True), data)
    assert found.conclusion == "collapse-optimal"
    (finding,) = found.advice
    assert finding.action.endswith(
        "Leave the level out: no setting can keep a unit, as x explains all of y."
    )


def test_losses_add_up() -> None:
    spec = SPECS["hvae"]
    data, _, model = optimum(spec)
    found = pc.diagnose(model, data)
    kls = [level.kl.sum() for level in found.levels]
    weighted = sum(beta * kl for beta, kl in zip(spec.beta_levels, kls, strict=True))
    assert found.kl == pytest.approx(sum(kls))
    assert found.loss == pytest.approx(found.reconstruction + weighted)
    assert found.elbo == pytest.approx(-found.reconstruction - found.kl)
    gaussian = 6 / 2 * np.log(2 * np.pi * 0.49) + found.squared_error / (2 * 0.49)
    assert found.reconstruction == pytest.approx(gaussian)


def test_the_likelihood_comes_along_where_it_is_exact_or_asked_for() -> None:
    data, _, model = optimum(SPECS["vae"])
    found = pc.diagnose(model, data)
    covariance = np.cov(data.T, bias=True)
    p = pc.forecast(data, SPECS["vae"]).parameters()
    marginal = 1.2**2 * p["U1"] @ p["U1"].T + np.eye(6)
    nll = 0.5 * (
        np.linalg.slogdet(2 * np.pi * marginal)[1] + np.trace(np.linalg.solve(marginal, covariance))
    )
    assert found.nll == pytest.approx(nll, rel=1e-10)
    assert found.effective_sample_size is None
    assert found.nll <= -found.elbo
    sampled = pc.diagnose(Opaque(model), data[:100], importance_samples=500)
    exact = pc.diagnose(model, data[:100])
    assert sampled.nll == pytest.approx(exact.nll, abs=0.05)
    assert 1 < sampled.effective_sample_size < 500
    assert pc.diagnose(Opaque(model), data).nll is None


def test_without_biases_raw_moments_count() -> None:
    data, forecast, model = optimum(SPECS["vae"], center=False)
    found = pc.diagnose(model, data)
    assert found.loss == pytest.approx(forecast.loss, rel=1e-12)
    assert found.forecast.loss == pytest.approx(forecast.loss, rel=1e-12)
    assert found.signal[0] <= 1 + 1e-6


def test_another_spec_than_the_models_counts_where_it_is_given() -> None:
    data, _, model = optimum(SPECS["vae"])
    spec = SPECS["vae"].replace(beta=0.1, eta_dec=0.5)
    found, opaque = pc.diagnose(model, data, spec=spec), pc.diagnose(Opaque(model), data, spec=spec)
    expected = 6 / 2 * np.log(2 * np.pi * 0.25) + 2 * found.squared_error + 0.1 * found.kl
    assert found.loss == pytest.approx(expected)
    assert opaque.loss == pytest.approx(expected, abs=4 * opaque.loss_error)
    assert found.eta_dec == 0.5
    assert found.signal[0] == pytest.approx(pc.diagnose(model, data).signal[0] * 1.3 / (0.1 * 0.25))
    assert found.conclusion == "signal-unclaimed"


def test_a_target_that_only_x_can_tell_of_counts_as_far_as_x_does() -> None:
    """A VAE from x to another y: what x does not predict of y is no signal."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 3))
    y = x @ rng.standard_normal((3, 4)) * 2 + 3 * rng.standard_normal((3000, 4))
    spec = pc.VAESpec(4)
    forecast = pc.forecast(pc.Moments.from_arrays(x, y), spec)
    model = build(spec, "linear", x_dim=3, y_dim=4, dtype=torch.float64)
    load_parameters(model, forecast.parameters())
    for each in (model, Opaque(model)):
        found = pc.diagnose(each, (x, y))
        assert found.levels[0].n_active == forecast.n_active == 3
        assert found.signal[0] <= 1
        assert found.conclusion == "collapse-optimal"


# Units of one std can be turned into each other: what is counted must not depend on the turn

G = np.random.default_rng(0)
X = G.standard_normal((300, 6)) * [3, 2, 1.5, 0.3, 0.3, 0.3] + 1
Y = X @ G.standard_normal((6, 4)) + G.standard_normal((300, 4))
TURNED = {
    "vae": (pc.VAESpec(6, sigma=0.8), X, None),
    "vae, sigma per unit, all equal": (pc.VAESpec(4, sigma=(0.8,) * 4), X, None),
    "vae, shared sigma": (pc.VAESpec(5, sigma="shared"), X, None),
    "cvae": (pc.CVAESpec(4, sigma=0.6, eta_dec=0.7), X, Y),
    "hvae": (pc.HVAESpec((5, 3), (1, 1.5), eta_dec=0.5, sigma_1=0.6), X, None),
    "hvae, both fixed": (pc.HVAESpec((4, 4), (1, 1), 0.6, 1.0, 0.5, 0.6), X, None),
}


def turn(n, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def optimum_turned(spec, x, y, turned_levels):
    """The forecast's optimum with some levels turned at random: as good, and another model."""
    moments = pc.Moments.from_arrays(x, y)
    best = pc.forecast(moments, spec)
    d_y = None if y is None else y.shape[1]
    model = build(spec, "linear", x_dim=x.shape[1], y_dim=d_y, dtype=torch.float64)
    load_parameters(model, best.parameters())
    p = read_parameters(model)
    for level in turned_levels:
        Q = turn(spec.dims[level - 1], level)
        conditional = ["W2", "b1"] if y is not None else ["b1"] if level == 1 else []
        for name in (f"W{level}", *conditional):
            p[name] = Q @ p[name]
        p[f"U{level}"] = p[f"U{level}"] @ Q.T
        if level < len(spec.dims):
            p[f"W{level + 1}"] = p[f"W{level + 1}"] @ Q.T
            p[f"U{level + 1}"] = Q @ p[f"U{level + 1}"]
    load_parameters(model, p)
    return best, model


@pytest.mark.parametrize("name", TURNED)
def test_a_turned_optimum_is_diagnosed_as_it_was_forecast(name):
    spec, x, y = TURNED[name]
    free = [level for level, same in enumerate(spec.one_sigma_levels, 1) if same]
    best, model = optimum_turned(spec, x, y, free)
    data = x if y is None else (x, y)
    before = read_parameters(model)
    found = pc.diagnose(model, data)
    assert found.loss == pytest.approx(best.loss, abs=1e-10)
    for level, expected in zip(found.levels, best.levels, strict=True):
        assert level.n_active == expected.n_active
        assert sorted(level.kl) == pytest.approx(sorted(expected.kl), abs=1e-9)
        assert sorted(level.gaussian_information) == pytest.approx(
            sorted(expected.information), abs=1e-9
        )
    assert found.conclusion in ("collapse-optimal", "nothing-to-do", "more-units-pay")
    assert any("turned into each other" in note for note in found.notes)
    # The model itself is as it was.
    for key, value in read_parameters(model).items():
        np.testing.assert_array_equal(value, before[key])


def test_units_that_lie_along_their_directions_stay_as_they_are():
    best, model = optimum_turned(*TURNED["vae"], [])
    found = pc.diagnose(model, X)
    assert found.levels[0].status == best.levels[0].status
    assert not any("turned" in note for note in found.notes)


def test_what_has_directions_of_its_own_is_not_turned():
    fitted = pc.fit(pc.VAESpec(4), X, "linear", exact=True)
    assert not any("turned" in note for note in pc.diagnose(fitted.model, X).notes)
    squashed = build(pc.HVAESpec((4, 3), sigma_1=0.5), "hvae-relu", x_dim=6, hidden=(8,))
    assert not any("turned" in note for note in pc.diagnose(squashed, X).notes)


def test_a_nonlinear_model_is_counted_as_its_training_counts():
    fitted = pc.fit(pc.VAESpec(6, sigma=0.8), X, "mlp", hidden=(16,), epochs=60)
    found = pc.diagnose(fitted.model, X)
    directions = fitted.measured()["levels"][0]["information"]
    assert found.levels[0].gaussian_information == pytest.approx(directions, abs=2e-3)
    assert found.loss == pytest.approx(fitted.measured()["loss"], abs=6 * found.loss_error)
    effects = found.levels[0].decoder_effect
    assert effects[0] == max(effects)


def test_data_that_can_be_read_once_are_not_turned_but_said_to_be():
    _, model = optimum_turned(*TURNED["vae"], [1])
    found = pc.diagnose(model, iter(np.split(X, 3)))
    assert any("read twice" in note for note in found.notes)
    assert found.n == len(X)
