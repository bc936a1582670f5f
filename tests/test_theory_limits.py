"""Limits that other theories and libraries know, and the switches at every threshold."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import posterior_collapse as pc
from posterior_collapse.report.text import forecast_tables, verdict
from posterior_collapse.theory import FewSamplesWarning

DIGITS = load_digits().data / 16
RNG = np.random.default_rng(3)
SMALL = RNG.standard_normal((200, 6)) * [3, 2, 1.5, 1, 0.6, 0.3]


@pytest.mark.parametrize("units", [1, 5, 20])
@pytest.mark.parametrize("eta_dec", [0.1, 0.3])
def test_loss_at_beta_one_is_the_likelihood_of_probabilistic_pca(units, eta_dec) -> None:
    """At a given noise: N(mean, U U' + eta_dec^2 I) by scikit-learn's own likelihood."""
    f = pc.forecast(DIGITS, pc.VAESpec(units, eta_dec=eta_dec))
    pca = PCA(f.n_active, svd_solver="full").fit(DIGITS)
    pca.explained_variance_ = pca.explained_variance_ * (len(DIGITS) - 1) / len(DIGITS)
    pca.noise_variance_ = eta_dec**2
    assert -f.loss == pytest.approx(pca.score(DIGITS), rel=1e-10)


@pytest.mark.parametrize("units", [1, 5, 20])
def test_learned_decoder_variance_is_that_of_probabilistic_pca(units: int) -> None:
    centred = DIGITS[:, DIGITS.std(0) > 0]
    f = pc.forecast(centred, pc.VAESpec(units, eta_dec="learned"))
    pca = PCA(units, svd_solver="full").fit(centred)
    ratio = (len(centred) - 1) / len(centred)
    assert f.eta_dec**2 == pytest.approx(pca.noise_variance_ * ratio, rel=1e-10)


def test_maximum_likelihood_equals_a_grid_search_over_eta_dec() -> None:
    for spec in (
        pc.VAESpec(3, 1.5, "learned"),
        pc.VAESpec(3, 1.5, "learned", sigma="shared"),
        pc.VAESpec(3, 1.5, "learned", sigma=(0.4, 0.8, 1.1)),
    ):
        best = pc.forecast(SMALL, spec)
        grid = best.eta_dec * np.exp(np.linspace(-0.5, 0.5, 401))
        losses = [pc.forecast(SMALL, spec.replace(eta_dec=e)).loss for e in grid]
        assert best.loss <= min(losses) + 1e-12
        assert grid[int(np.argmin(losses))] == pytest.approx(best.eta_dec, rel=2e-3)


def test_learned_eta_dec_without_a_minimum() -> None:
    with pytest.raises(pc.UnboundedObjectiveError, match="eta_dec"):
        pc.forecast(SMALL, pc.VAESpec(6, 0.5, "learned"))
    flat = pc.forecast(SMALL, pc.VAESpec(6, 1.0, "learned"))
    assert any("same for every eta_dec" in note for note in flat.notes)
    lower = pc.forecast(SMALL, pc.VAESpec(6, 1.0, flat.eta_dec / 3))
    assert lower.loss == pytest.approx(flat.loss, rel=1e-12)


def test_units_are_fewer_than_features_over_beta_when_eta_dec_is_learned() -> None:
    for beta in (1.5, 2.0, 4.0):
        f = pc.forecast(SMALL, pc.VAESpec(6, beta, "learned"))
        assert f.n_active < 6 / beta


def test_two_level_chain_is_the_hierarchical_model() -> None:
    for sigma_1, sigma_2 in ((0.5, 0.8), (0.5, "learned"), ("learned", "learned")):
        two = pc.forecast(SMALL, pc.HVAESpec((4, 3), (0.8, 1.1), 0.7, 1.2, sigma_1, sigma_2))
        chain = pc.forecast(
            SMALL, pc.ChainSpec((4, 3), (0.8, 1.1), (0.7, 0.7), 1.2, (sigma_1, sigma_2))
        )
        assert chain.loss == pytest.approx(two.loss, rel=1e-12)
        for a, b in zip(two.levels, chain.levels, strict=True):
            np.testing.assert_allclose(a.kl, b.kl, atol=1e-10)
            np.testing.assert_allclose(a.critical_beta, b.critical_beta, rtol=1e-9)
            assert a.status == b.status


SWITCHING = [
    pc.VAESpec(5, 0.9, 0.8, 1.1),
    pc.VAESpec(5, 0.9, 0.8, 1.1, (0.9, 0.4, 1.2, 0.7, 0.6)),
    pc.VAESpec(5, 0.9, 0.8, 1.1, "shared"),
    pc.VAESpec(5, 1.4, "learned"),
    pc.VAESpec(5, 1.4, "learned", sigma=(0.9, 0.4, 1.2, 0.7, 0.6)),
    pc.VAESpec(4, 1.6, "learned", sigma="shared"),
    pc.HVAESpec((5, 4), (0.9, 1.3), 0.8, 1.1, 0.6),
    pc.HVAESpec((4, 5), (0.9, 1.3), 0.8, 1.1, 0.6, 0.7),
    pc.HVAESpec((4, 4), (0.9, 1.3), 0.8, 1.1, 0.6, (0.9, 0.4, 1.2, 0.7)),
    pc.HVAESpec((4, 4), (0.9, 1.3), 0.8, 1.1, (0.9, 0.4, 1.2, 0.7)),
    pc.HVAESpec((4, 4), (0.9, 1.3), 0.8, 1.1, "learned", 0.9),
    pc.HVAESpec((4, 4), (0.9, 1.3), 0.8, 1.1, "learned"),
    pc.ChainSpec((4, 3, 4), (0.9, 1.0, 1.3), (0.8, 0.7, 0.6), 1.1, (0.6, 0.7, "learned")),
]


def with_beta(spec: pc.Spec, level: int, value: float) -> pc.Spec:
    if isinstance(spec, pc.VAESpec):
        return spec.replace(beta=value)
    return spec.replace(betas=[value if k == level else b for k, b in enumerate(spec.betas)])


def with_eta(spec: pc.Spec, level: int, value: float) -> pc.Spec:
    if isinstance(spec, pc.ChainSpec):
        etas = [value if k == level else e for k, e in enumerate(spec.eta_decs)]
        return spec.replace(eta_decs=etas)
    return spec.replace(eta_dec=value)


@pytest.mark.parametrize(
    ("spec", "what"),
    [(s, "beta") for s in SWITCHING]
    + [(s, "eta_dec") for s in SWITCHING if s.eta_levels[0] != "learned"],
    ids=repr,
)
def test_units_switch_exactly_at_their_critical_values(spec: pc.Spec, what: str) -> None:
    f = pc.forecast(SMALL, spec)
    change = with_beta if what == "beta" else with_eta
    switched = 0
    for k, level in enumerate(f.levels):
        for unit, critical in enumerate(getattr(level, f"critical_{what}")):
            now = spec.beta_levels[k] if what == "beta" else f.eta_dec
            tried = [(0.999 * critical, True), (1.001 * critical, False)]
            if critical == 0 or np.isinf(critical) or np.isnan(critical):
                tried = [(now / 3, critical > 0), (now * 3, critical > 0)]
            for value, on in tried:
                try:
                    g = pc.forecast(SMALL, change(spec, k, float(value)))
                except pc.UnboundedObjectiveError:
                    assert what == "beta"
                    assert (np.diff(with_beta(spec, k, float(value)).beta_levels) < 0).any()
                    continue
                assert (g.levels[k].status[unit] != "collapsed") == on, (k, unit, value)
                switched += 1
    assert switched


@pytest.mark.parametrize("spec", [s for s in SWITCHING if s.eta_levels[0] != "learned"], ids=repr)
def test_units_become_active_where_their_mode_passes_the_threshold(spec: pc.Spec) -> None:
    theta = SMALL.std(0)
    f = pc.forecast(SMALL, spec)
    for k, level in enumerate(f.levels):
        for variance, threshold, status in zip(
            level.data_variance, level.threshold, level.status, strict=True
        ):
            if not np.isnan(threshold):
                assert (variance > threshold) == (status == "active"), (k, theta)


def test_noise_relay_is_not_active() -> None:
    """sigma_1 > sqrt(beta_2 / beta_1) eta_dec and no signal: z2 encodes z1's noise."""
    moments = pc.Moments.from_matrices(np.diag([4.0, 1e-4]))
    f = pc.forecast(moments, pc.HVAESpec((2, 2), (1.0, 0.5), 0.5, sigma_1=1.0))
    assert f.levels[1].status == ("active", "noise")
    assert f.levels[1].kl[1] > 0.1
    assert f.levels[1].information[1] == 0


def test_biases() -> None:
    x = SMALL + np.array([2, 0, 1, 0, 0, 3])
    spec = pc.VAESpec(3, 0.8, 0.7)
    both, none = (pc.forecast(x, spec, bias=b).loss for b in ("both", "none"))
    assert both == pytest.approx(pc.forecast(pc.Moments.from_arrays(x), spec).loss)
    raw = pc.Moments.from_arrays(x, center=False)
    assert none == pytest.approx(pc.forecast(raw, spec).loss)
    assert pc.forecast(x, spec, bias="encoder").loss == pytest.approx(none)  # y = x: no help
    y = x[:, :2] + 1
    ones = np.column_stack([x, np.ones(len(x))])
    explicit = pc.forecast(pc.Moments.from_arrays(ones, y, center=False), spec)
    implied = pc.forecast(pc.Moments.from_arrays(x, y), spec, bias="encoder")
    assert implied.loss == pytest.approx(explicit.loss, rel=1e-12)
    for bad_spec, bias in ((spec, "decoder"), (pc.CVAESpec(2), "encoder")):
        with pytest.raises(pc.NotSolvedError, match="bias"):
            pc.forecast(pc.Moments.from_arrays(x, y), bad_spec, bias=bias)
    with pytest.raises(pc.InvalidArgumentError, match="bias"):
        pc.forecast(x, spec, bias="some")


def test_an_encoders_bias_is_none_of_its_weights() -> None:
    """Of a pair `W1` had a column more than x has features, and `b1` was 0."""
    x = SMALL + np.array([2, 0, 1, 0, 0, 3])
    y = x[:, :2] + 1
    f = pc.forecast((x, y), pc.VAESpec(2, 0.8, 0.7), bias="encoder")
    p = f.parameters()
    mean, variance = x @ p["W1"].T + p["b1"], p["sigma_1"] ** 2
    error = (
        np.square(y - mean @ p["U1"].T - p["c1"]).sum(1).mean() + (p["U1"] ** 2 @ variance).sum()
    )
    kl = (np.square(mean).mean(0) + variance - 1 - np.log(variance)).sum() / 2
    assert f.loss == pytest.approx(error / 2 / 0.49 + np.log(2 * np.pi * 0.49) + 0.8 * kl)
    assert not p["c1"].any()
    m = pc.Moments.from_arrays(x, y, center=False)
    with pytest.raises(pc.DataError, match="matrices, which tell no means"):
        pc.forecast(pc.Moments.from_matrices(m.xx, m.yx, m.yy), f.spec, bias="encoder")


def test_perfect_condition_collapses_everything() -> None:
    y = SMALL @ RNG.standard_normal((6, 4)) + 1
    f = pc.forecast(pc.Moments.from_arrays(SMALL, y), pc.CVAESpec(4, eta_dec=1e-3))
    assert f.n_active == 0
    assert f.total_variance == 0


def test_condition_with_few_samples_warns_with_the_remedy() -> None:
    x, y = RNG.standard_normal((50, 30)), RNG.standard_normal((50, 3))
    moments = pc.Moments.from_arrays(x, y)
    with pytest.warns(FewSamplesWarning, match="cross_fitted_residuals") as told:
        f = pc.forecast(moments, pc.CVAESpec(3, eta_dec=0.8))
    assert told[0].filename == __file__  # of the line that asked
    assert any("artefact" in note for note in f.notes)
    honest = pc.forecast(pc.cross_fitted_residuals(x, y), pc.VAESpec(3, eta_dec=0.8))
    assert honest.spectrum.sum() > 0.8 * y.var(0).sum() > f.spectrum.sum() * 1.5


def test_few_pairs_warn_a_vae_that_reads_x_and_writes_y_too() -> None:
    """Of 50 rows 30 features of x explain most of a y that has nothing to do with them."""
    x, y = RNG.standard_normal((50, 30)), RNG.standard_normal((50, 3))
    with pytest.warns(FewSamplesWarning, match="x has 30 independent features for 50 samples"):
        f = pc.forecast(pc.Moments.from_arrays(x, y), pc.VAESpec(3, eta_dec=0.5))
    assert f.n_active == 3
    assert not any("cross_fitted" in note for note in f.notes)  # which are a condition's


@pytest.mark.filterwarnings("ignore::posterior_collapse.theory.FewSamplesWarning")
@pytest.mark.parametrize("sigma", ["learned", "shared", 0.5])
def test_nothing_left_to_explain_is_seen_through_rounding(sigma) -> None:
    """As many features of the condition as samples: the residual is 0, whatever rounding says."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        n, d_y = rng.integers(3, 6), rng.integers(1, 4)
        moments = pc.Moments.from_arrays(rng.standard_normal((n, 5)), rng.standard_normal((n, d_y)))
        with pytest.raises(pc.UnboundedObjectiveError, match="no variance left"):
            pc.forecast(moments, pc.CVAESpec(2, eta_dec="learned", sigma=sigma))


@pytest.mark.parametrize("ratio", [1e3, 1e8, 1e13, 1e17, 1e30])
def test_no_digits_are_lost_at_high_signal_to_noise(ratio: float) -> None:
    moments = pc.Moments.from_matrices([[1.234567 * ratio]])
    f = pc.forecast(moments, pc.VAESpec(1))
    kl = np.log(1.234567 * ratio) / 2
    assert f.loss == pytest.approx(1 / 2 + kl + np.log(2 * np.pi) / 2, rel=1e-14)
    assert f.levels[0].information[0] == pytest.approx(kl, rel=1e-14)
    assert f.levels[0].kl[0] == pytest.approx(kl, rel=1e-14)


def test_conditional_model_needs_a_target() -> None:
    with pytest.raises(pc.DataError, match="no target y"):
        pc.forecast(SMALL, pc.CVAESpec(2))


def test_units_beyond_the_modes_never_live_whatever_eta_dec_learns() -> None:
    f = pc.forecast(
        pc.Moments.from_matrices(np.diag([4.0, 1.0])), pc.VAESpec(5, eta_dec="learned", sigma=0.5)
    )
    critical = f.levels[0].critical_beta
    assert (critical[:2] > 0).all()
    assert critical[2:].tolist() == [0, 0, 0]


HIERARCHIES = [
    pc.HVAESpec((4, 2), (1.0, 0.9)),
    pc.HVAESpec((4, 6), (0.4, 0.5), 0.8, sigma_1=0.7),
    pc.HVAESpec((4, 4), (0.5, 0.9), 0.9, sigma_1=0.9, sigma_2=0.7),
    pc.HVAESpec((4, 4), (0.5, 0.6), 0.9, sigma_1="learned", sigma_2=0.7),
    pc.HVAESpec((4, 3), (0.5, 0.6), sigma_1="learned"),
    pc.ChainSpec((4, 4), (0.5, 0.6), (0.9, 0.7), sigmas=("learned", 0.7)),
    pc.ChainSpec((4, 4, 3), (0.5, 0.6, 0.7), (0.9, 0.7, 0.8), sigmas=(0.8, 0.7, "learned")),
    pc.ChainSpec((4, 4, 3), (0.1, 0.1, 0.1), (0.9, 0.7, 0.8), sigmas=(0.6, 0.5, 0.5)),
]


@pytest.mark.parametrize("spec", HIERARCHIES, ids=repr)
def test_up_to_where_a_unit_lives_and_up_to_where_it_relays_noise(spec) -> None:
    """Each limit against forecasts on both sides of it: the two were taken for one."""
    moments = pc.Moments.from_arrays(DIGITS)
    for number, level in enumerate(pc.forecast(moments, spec).levels, 1):
        for unit, status in enumerate(level.status):
            for field, ends, kinds in (
                ("beta", level.critical_beta, ("active", "noise")),
                ("eta_dec", level.critical_eta_dec, ("active", "noise")),
                ("beta", level.informed_beta, ("active",)),
                ("eta_dec", level.informed_eta_dec, ("active",)),
            ):

                def lives(value, number=number, unit=unit, field=field, kinds=kinds):
                    there = spec.with_level(field, number, value)
                    with contextlib.suppress(pc.UnboundedObjectiveError):
                        return pc.forecast(moments, there).levels[number - 1].status[unit] in kinds
                    return None

                end = float(ends[unit])
                if end == 0:
                    assert status not in kinds
                elif np.isinf(end):
                    assert lives(1e3)
                else:
                    assert lives(end * 0.999) in (True, None)
                    assert not lives(end * 1.001)


def test_what_relays_noise_is_told_from_what_lives() -> None:
    """It was said to live while beta < 1, beside that no unit survives."""
    found = pc.forecast(DIGITS, pc.HVAESpec((4, 2), (1.0, 0.9)))
    betas = np.linspace(0.5, 1.1, 61)
    counts = [pc.forecast(DIGITS, found.spec.with_level("beta", 2, b)).levels[1] for b in betas]
    knows = max(b for b, level in zip(betas, counts, strict=True) if level.n_active)
    relays = max(b for b, level in zip(betas, counts, strict=True) if "noise" in level.status)
    assert (knows, relays) == (pytest.approx(0.695, abs=0.01), pytest.approx(0.995, abs=0.01))
    assert verdict(found).endswith(
        "z2: 0 of 2 units survive; 2 only relay the noise injected below, up to beta_2 = 1, and a "
        "first carries x below 0.699."
    )
    table = list(forecast_tables(found))[1]
    (cells,) = [list(c.cells) for c in table.columns if str(c.header).endswith("\nbeta <")]
    assert cells == ["0.699", "0.639"]

    for units, said in ((1, "1 only relays"), (2, "2 only relay")):
        deaf = pc.HVAESpec((2, units), (1e5, 0.9), sigma_1="learned", sigma_2=0.5)
        who = "it carries" if units == 1 else "they carry"
        end = f"{said} the noise injected below, up to beta_2 = 4e+05, and {who} x at none."
        assert verdict(pc.forecast(DIGITS, deaf)).endswith(end)
