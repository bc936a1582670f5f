"""The certificate: collapse that is optimal, and signal that was left unclaimed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import posterior_collapse as pc
from planted import Opaque
from posterior_collapse.adapters import from_callable
from posterior_collapse.diagnosis.certificate import Residual, Residuals
from posterior_collapse.models import build, load_parameters
from problems import problems

PROBLEMS = problems(300, st.floats(0.2, 3.0), ["vae", "per-unit", "cvae", "hvae"])


def optimum(x, y, spec):
    """The data and a model at the optimum."""
    y_dim = None if y is None else y.shape[1]
    model = build(spec, "linear", x_dim=x.shape[1], y_dim=y_dim, dtype=torch.float64)
    load_parameters(model, pc.forecast(pc.Moments.from_arrays(x, y), spec).parameters())
    return x if y is None else (x, y), model


@torch.no_grad()
def switch_off(model, level, unit):
    """Cut a unit off, from below and from above."""
    for layer in model.encoders[level - 1].mean.values():
        layer.weight[unit] = 0
    model.decoders[level - 1].heads["z"].weight[:, unit] = 0


@settings(max_examples=40)
@given(PROBLEMS)
def test_no_optimum_with_a_spare_unit_leaves_signal_unclaimed(problem) -> None:
    data, model = optimum(*problem)
    found = pc.diagnose(model, data)
    for level, t, paying in zip(found.levels, found.signal, found.paying_units, strict=True):
        if "collapsed" in level.status:
            assert t <= 1 + 1e-6
            assert paying == 0
    assert found.conclusion != "signal-unclaimed"


@settings(max_examples=40)
@given(PROBLEMS, st.sampled_from([1, 2]))
def test_a_live_unit_that_is_switched_off_is_missed(problem, level) -> None:
    data, model = optimum(*problem)
    level = min(level, len(problem[2].dims))
    before = pc.diagnose(model, data).levels[level - 1]
    if before.information.max() < 0.2:  # t is little above 1, within its error
        return
    unit = int(np.argmax(before.information))
    switch_off(model, level, unit)
    found = pc.diagnose(model, data)
    assert found.levels[level - 1].status[unit] == "collapsed"
    assert found.signal[level - 1] > 1
    assert found.paying_units[level - 1] >= 1
    assert found.conclusion == "signal-unclaimed"
    assert "the optimiser failed" in found.verdict
    finding = (
        found.advice[0]
        if level == 1
        else next(f for f in found.advice if f.code == "signal-unclaimed")
    )
    assert "warm-up" in finding.action


@pytest.mark.parametrize("level", [1, 2])
def test_sampling_misses_it_too(level) -> None:
    x = np.random.default_rng(0).standard_normal((1500, 4)) * [3, 2, 1.5, 0.2]
    data, model = optimum(x, None, pc.HVAESpec((4, 4), (1, 0.9), 0.8, 1.0, 0.5, "learned"))
    assert pc.diagnose(Opaque(model), data).conclusion == "collapse-optimal"
    switch_off(model, level, 0)
    found = pc.diagnose(Opaque(model), data)
    assert found.signal[level - 1] - 3 * found.signal_error[level - 1] > 1
    assert found.conclusion == "signal-unclaimed"


@pytest.mark.parametrize(
    "spec",
    [
        pc.ChainSpec((4,), (1,), (1,), sigmas=((0.4, 0.9, 1.6, 0.7),)),
        pc.VAESpec(4, sigma=(0.4, 0.9, 1.6, 0.7)),
        pc.HVAESpec((4, 4), (1, 1.2), 1.0, 1.0, sigma_1=(0.4, 0.9, 1.6, 0.7)),
        pc.ChainSpec((5, 5, 5), (1, 1.2, 1.3), (0.5, 1.5, 1.2), sigmas=(0.6, 0.8, "learned")),
    ],
)
def test_the_spare_unit_is_the_measure_where_units_differ(spec) -> None:
    """An active unit of larger sigma leaves more than the threshold of a smaller one."""
    x = np.random.default_rng(0).standard_normal((1000, 5)) * [3, 2, 1.3, 0.2, 0.1]
    data, model = optimum(x, None, spec)
    for each in (model, Opaque(model)):
        found = pc.diagnose(each, data)
        spare = ["collapsed" in level.status for level in found.levels]
        assert any(spare)
        for t, error, counts in zip(found.signal, found.signal_error, spare, strict=True):
            assert not counts or t <= 1 + (1e-6 if each is model else 2 * error)
        # The hierarchies leave a t of 0.98 and 1, which samples cannot tell from more than 1.
        undecided = each is not model and len(spec.dims) > 1
        assert found.conclusion == ("undecided" if undecided else "collapse-optimal")


def test_more_units_would_pay_where_all_are_used() -> None:
    x = np.random.default_rng(0).standard_normal((1000, 6)) * [5, 4, 3, 2, 0.5, 0.1]
    data, model = optimum(x, None, pc.VAESpec(2))
    found = pc.diagnose(model, data)
    assert found.conclusion == "more-units-pay"
    assert found.signal[0] == pytest.approx(found.forecast.spectrum[2])
    assert found.paying_units == (2,)
    assert found.advice[0].action == "Raise latent_dim from 2 to 4."
    data, model = optimum(x, None, pc.VAESpec(4))
    enough = pc.diagnose(model, data)
    assert enough.conclusion == "nothing-to-do"
    assert enough.advice == ()


def test_a_model_that_is_not_trained_out_is_told_to_train_on() -> None:
    """All units are alive and t > 1, yet a linear model does better with three of them."""
    x = np.random.default_rng(0).standard_normal((1000, 6)) * [5, 4, 3, 0.5, 0.4, 0.1]
    spec = pc.VAESpec(6)
    early = pc.fit(spec, x, "linear", epochs=1, learning_rate=3e-2, seed=1)
    found = pc.diagnose(early.model, x)
    assert found.n_active > found.forecast.n_active == 3
    assert found.loss > found.forecast.loss + 1
    assert found.advice[0].code == "not-at-optimum"
    assert "nats lower" in found.verdict
    trained = pc.diagnose(pc.fit(spec, x, "linear", exact=True).model, x)
    assert "not-at-optimum" not in [finding.code for finding in trained.advice]
    assert "lower" not in trained.verdict


def test_what_z2_leaves_of_noise_is_no_signal() -> None:
    """z_1 has dead units whose noise z_2 has no unit left to relay: t > 1, yet nothing is lost."""
    x = np.random.default_rng(0).standard_normal((2000, 3)) * [3, 2, 0.1]
    data, model = optimum(x, None, pc.HVAESpec((4, 2), (1, 0.5), 0.5, 1.0, 0.6, "learned"))
    for each in (model, Opaque(model)):
        found = pc.diagnose(each, data)
        assert found.levels[1].n_active == 2
        assert found.signal[1] > 1.5
        assert found.paying_units[1] == 0
        assert found.conclusion == "collapse-optimal"  # of z_1
        assert [f.code for f in found.advice if "z2" in f.text] == []


def test_of_a_network_collapse_is_said_to_be_a_local_optimum() -> None:
    """49 clusters: no small step leads there, yet two units that tell clusters apart are better."""
    rng = np.random.default_rng(0)
    x = (4 * np.eye(49)[np.arange(980) % 49] + 0.1 * rng.standard_normal((980, 49))).astype("f4")
    mean = torch.tensor(x.mean(0))

    def encode(x):
        return torch.zeros(len(x), 2), torch.zeros(len(x), 2)

    spec = pc.VAESpec(2, sigma="input")
    model = from_callable(encode, lambda z: mean.expand(len(z), 49), latent_dim=2, spec=spec)
    found = pc.diagnose(model, x)
    assert found.conclusion == "collapse-optimal"
    local = "optimal for a linear decoder, a local optimum for a network"
    assert f"no small step improves this collapse, {local}" in found.verdict
    assert local in found.advice[0].text
    assert "what the objective asks for" not in found.verdict


def test_total_collapse_is_said_to_be_what_was_asked_for() -> None:
    x = np.random.default_rng(0).standard_normal((500, 4))
    data, model = optimum(x, None, pc.VAESpec(3, beta=4.0))
    found = pc.diagnose(model, data)
    assert found.n_active == 0
    assert found.conclusion == "collapse-optimal"
    assert found.verdict.startswith("0 of 3 units active, 3 collapsed: this collapse is optimal")
    assert "lower beta from 4 to" in found.advice[0].action


@pytest.mark.parametrize(("n", "features"), [(200, 200), (400, 20), (100, 10)])
def test_few_rows_of_many_features_are_not_taken_for_signal(n, features) -> None:
    """White noise of variance 0.9, below a threshold of 1: the largest eigenvalue of the sample is
    near the edge of Marchenko and Pastur, 3.6 for as many rows as features."""
    claims, naive = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        average = np.sqrt(0.9) * rng.standard_normal((n, 1, features))
        residuals = Residuals(rng)
        residuals.add(Residual(average, np.zeros_like(average)), np.zeros((n, 1)))
        found = residuals.signal()
        naive.append(np.linalg.eigvalsh(average[:, 0].T @ average[:, 0] / n)[-1] > 1)
        claims.append(found.variances[0] - 2 * found.error > 1)
    assert np.mean(naive) > 0.9
    assert np.mean(claims) <= 0.05


def test_a_strong_direction_is_measured_without_bias() -> None:
    n, features = 400, 100
    off = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        scale = np.ones(features)
        scale[0] = 3.0
        average = rng.standard_normal((n, 1, features)) * scale
        noise = 2 * rng.standard_normal((n, 1, features))
        residuals = Residuals(rng)
        # Noise of the draws is in both, and in no part of the signal.
        residuals.add(Residual(average + noise, 2 * rng.standard_normal(noise.shape)), noise[:, 0])
        found = residuals.signal()
        off.append((found.variances[0] - 9.0) / found.error)
    assert abs(np.mean(off)) < 0.5
    assert np.std(off) < 1.3


def test_many_features_are_searched_without_a_matrix_of_them(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    average = rng.standard_normal((300, 1, 60)) * np.linspace(3, 0.1, 60)
    difference = 0.3 * rng.standard_normal((300, 1, 60))

    def signal():
        residuals = Residuals(np.random.default_rng(0))
        residuals.add(Residual(average, difference), np.zeros((300, 1)))
        return residuals.signal()

    dense = signal()
    monkeypatch.setattr("posterior_collapse.diagnosis.certificate.DENSE", 10)
    sparse = signal()
    assert sparse.variances[:4] == pytest.approx(dense.variances[:4], rel=1e-3)
    assert sparse.error == pytest.approx(dense.error, rel=1e-2)


def test_too_few_rows_decide_nothing() -> None:
    x = np.random.default_rng(0).standard_normal((600, 4)) * [1.2, 1.1, 0.3, 0.2]
    data, model = optimum(x, None, pc.VAESpec(3))
    switch_off(model, 1, 0)
    found = pc.diagnose(Opaque(model), data[:30])
    assert found.conclusion == "undecided"
    assert "Diagnose more than 30 rows" in found.advice[0].action


def test_a_net_trained_well_and_one_in_a_bad_minimum() -> None:
    """Digits: at a learning rate of 0.1 all units die, and the data still have signal for 5."""
    digits = pc.load("digits")
    spec = pc.VAESpec(8, eta_dec=0.5, sigma="input")
    options = {"hidden": (64,), "batch_size": 64}
    well = pc.fit(spec, digits, "mlp", epochs=300, learning_rate=3e-3, **options)
    badly = pc.fit(spec, digits, "mlp", epochs=20, learning_rate=0.1, **options)
    good, bad = pc.diagnose(well.model, digits), pc.diagnose(badly.model, digits)
    assert 3 <= good.n_active <= 5
    assert good.signal[0] < 0.9
    assert good.conclusion == "collapse-optimal"
    assert bad.n_active == 0
    assert bad.signal[0] == pytest.approx(bad.forecast.spectrum[0] / 0.25, rel=0.05)
    assert bad.conclusion == "signal-unclaimed"
    assert bad.paying_units[0] in (4, 5)  # the fifth within its error
    assert "linear optimum keeps 5" in bad.verdict


def test_no_more_units_are_advised_than_the_data_have_modes() -> None:
    x = np.random.default_rng(0).standard_normal((300, 6)) * [6, 5, 4, 1.5, 1.5, 1.5]
    spec = pc.VAESpec(3, sigma=(0.4, 2.5, 3), eta_dec=0.5)
    found = pc.diagnose(pc.fit(spec, x, "linear", exact=True).model, x)
    (finding,) = (f for f in found.advice if f.code == "more-units-pay")
    # Five directions pay, each by itself, and four surely beside what a unit costs idle; x has six
    # modes in all.
    assert found.paying_units == (4,)
    assert finding.action == "Raise latent_dim from 3 to 6."
    # Of three modes above the threshold each gains less than 1% of what the first brought.
    x = np.random.default_rng(0).standard_normal((300, 6)) * [3, 2, 1.5, 0.3, 0.3, 0.3]
    one = pc.diagnose(pc.fit(pc.VAESpec(1, eta_dec=0.2), x, "linear", exact=True).model, x)
    assert any(f.text.startswith("The 1 unit is used, and 2 more would pay") for f in one.advice)


def test_directions_too_weak_to_count_are_left_out_and_the_others_are_the_same() -> None:
    x = np.random.default_rng(0).standard_normal((2000, 30)) * np.geomspace(3, 0.1, 30)
    residuals = Residuals(np.random.default_rng(0))
    residuals.add(Residual(x[:, None], np.zeros_like(x[:, None])), x)
    whole, some, none = (residuals.signal(least=least) for least in (0.0, 1.0, 1e3))
    count = len(some.variances)
    assert (whole.variances[count:] < 1).all()
    assert (whole.variances > 1).sum() <= count < 20
    np.testing.assert_allclose(some.variances, whole.variances[:count], rtol=1e-9)
    assert some.error == pytest.approx(whole.error, rel=1e-9)
    np.testing.assert_allclose(none.variances, whole.variances[:1], rtol=1e-9)
