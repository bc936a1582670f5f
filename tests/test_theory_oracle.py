"""Every verified problem of the oracle: losses, spectra, singular values, KLs, thresholds."""

from __future__ import annotations

import numpy as np
import pytest

import posterior_collapse as pc
from exact import INSTANCES, instance_data, instance_spec
from posterior_collapse.theory.spectrum import Modes

pytestmark = pytest.mark.filterwarnings("ignore::posterior_collapse.theory.FewSamplesWarning")
BOUNDED = sorted(set(INSTANCES) - {"mhvae_unbounded"})


def forecast(name: str) -> pc.Forecast:
    instance = INSTANCES[name]
    x, y = instance_data(instance)
    moments = pc.Moments.from_arrays(x, y, center=instance["center"])
    return pc.forecast(moments, instance_spec(instance))


def same(found, expected, atol=1e-6) -> None:
    """Compare as multisets, padded by the zeros of units without a mode."""
    found, expected = np.sort(np.ravel(found)), np.sort(np.ravel(expected))
    missing = len(found) - len(expected)
    assert missing >= 0
    expected = np.sort(np.concatenate([expected, np.zeros(missing)]))
    np.testing.assert_allclose(found, expected, atol=atol, rtol=1e-9)


@pytest.mark.parametrize("name", BOUNDED)
def test_loss(name: str) -> None:
    expected = INSTANCES[name]["expected"]["nelbo"]
    assert abs(forecast(name).loss - expected) <= 1e-8 * (1 + abs(expected))


@pytest.mark.parametrize("name", BOUNDED)
def test_spectrum_and_singular_values(name: str) -> None:
    expected, f = INSTANCES[name]["expected"], forecast(name)
    power = 1 if name.startswith("cvae") else 2
    if "theta" in expected:
        same(f.spectrum, np.array(expected["theta"]) ** power, atol=1e-9)
    known = expected.get("identifiable", {})
    checks = (
        ("sv_U1", f.levels[0].decoder_singular_values, known.get("U1")),
        ("sv_V1", f.levels[0].encoder_singular_values, known.get("V1")),
        ("sv_W2E", f.levels[0].encoder_singular_values, known.get("V1")),
        ("sv_U2", f.levels[-1].decoder_singular_values, known.get("U2")),
        ("sigma1", f.levels[0].posterior_std, known.get("sigma1")),
        ("sigma2", f.levels[-1].posterior_std, known.get("sigma2")),
    )
    for key, found, unique in checks:
        if key in expected and unique:
            same(found, expected[key])


@pytest.mark.parametrize("name", [n for n in BOUNDED if n.startswith("mh")])
def test_whitened_encoder_is_that_of_every_optimum(name: str) -> None:
    f = forecast(name)
    p = f.parameters()
    x, _ = instance_data(INSTANCES[name])
    values = np.linalg.svd(x @ (p["W1"] / p["sigma_1"][:, None]).T, compute_uv=False)
    found = np.zeros(len(p["W1"]))
    found[: len(values)] = values / np.sqrt(len(x))
    same(found, INSTANCES[name]["expected"]["sv_V1_whitened"])


@pytest.mark.parametrize("name", BOUNDED)
def test_kl(name: str) -> None:
    expected, f = INSTANCES[name]["expected"], forecast(name)
    for key, level in (("kl_per_unit", 0), ("kl1_per_unit", 0), ("kl2_per_unit", -1)):
        if key in expected:
            same(f.levels[level].kl, expected[key])
    for key, level in (("kl_total", 0), ("kl1_total", 0), ("kl2_total", -1)):
        if key in expected:
            assert f.levels[level].kl.sum() == pytest.approx(expected[key], abs=1e-6)


@pytest.mark.parametrize("name", BOUNDED)
def test_counts(name: str) -> None:
    expected, f = INSTANCES[name]["expected"], forecast(name)
    on = [len(level.status) - level.status.count("collapsed") for level in f.levels]
    for key, level in (("active", 0), ("active1", 0), ("active2", -1)):
        if key in expected:
            assert on[level] == expected[key]
    assert f.levels[0].n_active == on[0]


@pytest.mark.parametrize("name", BOUNDED)
def test_thresholds(name: str) -> None:
    expected, f = INSTANCES[name]["expected"], forecast(name)
    if "beta_crit" in expected:
        same(f.levels[0].critical_beta, expected["beta_crit"])
        same(f.levels[0].critical_eta_dec, expected["eta_dec_crit"])
    if "z1_theta_thresh" in expected:
        wanted = np.ravel(expected["z1_theta_thresh"]) * np.ones(len(f.levels[0].status))
        same(np.sqrt(f.levels[0].threshold), wanted)
    if "z2_beta2_crit" in expected:
        units = min(len(level.status) for level in f.levels)
        found = np.sort(f.levels[1].critical_beta)[::-1][:units]
        wanted = np.array(expected["z2_beta2_crit"])[:units]
        same(found, wanted)


def test_chain_states() -> None:
    f = forecast("chain_L3_2")
    expected = np.array(INSTANCES["chain_L3_2"]["expected"]["mode_second_moments"])
    p = f.parameters()
    x, _ = instance_data(INSTANCES["chain_L3_2"])
    second = x.T @ x / len(x)
    for level in (1, 2):
        w = p[f"W{level}"]
        second = w @ second @ w.T + np.diag(p[f"sigma_{level}"] ** 2)
        same(np.linalg.eigvalsh(second), expected[level - 1])


def test_learned_decoder_std() -> None:
    for name in (n for n in BOUNDED if n.startswith("vae_learned_eta")):
        expected = INSTANCES[name]["expected"]
        assert forecast(name).eta_dec ** 2 == pytest.approx(expected["eta_dec_squared"], rel=1e-9)


def test_falling_betas_with_all_sigmas_learned_are_unbounded() -> None:
    with pytest.raises(pc.UnboundedObjectiveError, match=r"beta_2: got 0.5"):
        forecast("mhvae_unbounded")


def test_flat_level_is_reported() -> None:
    f = forecast("mh_learn_learn_01")
    assert any("flat direction" in note for note in f.notes)
    assert set(f.levels[1].status) == {"collapsed"}
    assert np.isnan(f.levels[1].threshold).all()


def test_reference_script_bug_is_not_ours() -> None:
    """theta = 3 lies between sqrt(beta) eta_dec = 2 and beta eta_dec^2 = 4: it collapses."""
    f = forecast("cvae_ref_bug_high")
    assert f.levels[0].n_active == 0
    assert (f.levels[0].posterior_std == 1.0).all()


def test_modes_of_input_and_target_are_singular_values_of_the_whitened_cross_moment() -> None:
    x, y = instance_data(INSTANCES["vae_learn_01"])
    a, b = x.T @ x / len(x), y.T @ x / len(x)
    values, vectors = np.linalg.eigh(a)
    z = b @ vectors @ np.diag(values**-0.5) @ vectors.T
    moments = pc.Moments.from_arrays(x, y, center=False)
    np.testing.assert_allclose(Modes(moments).theta, np.linalg.svd(z)[1], atol=1e-10)
