"""Symmetries and monotonicities that hold for any data (hypothesis)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import posterior_collapse as pc

positive = st.floats(0.05, 20.0)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def data(draw, low=8, high=30):
    """Random samples with a random, possibly degenerate, spectrum."""
    n, d = draw(st.integers(low, high)), draw(st.integers(2, 5))
    scales = draw(hnp.arrays(float, d, elements=st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 5.0])))
    scales[0] = max(scales[0], 0.3)
    rng = np.random.default_rng(draw(seeds))
    return rng.standard_normal((n, d)) * scales + rng.standard_normal(d)


@st.composite
def specs(draw, learned_eta: bool = False):
    """A VAE or hierarchical spec of any solved kind."""
    k = draw(st.integers(1, 4))
    eta = "learned" if learned_eta else draw(positive)
    sigma = draw(st.sampled_from(["learned", "shared", 0.3, 1.0]))
    if learned_eta or draw(st.booleans()):
        return pc.VAESpec(k, draw(positive), eta, draw(positive), sigma)
    sigma_1, sigma_2 = draw(
        st.sampled_from([(0.5, "learned"), (1.5, 0.7), ("learned", 0.4), (0.8, 0.8)])
    )
    betas = (draw(positive), draw(positive))
    dims = (k, draw(st.integers(1, 4)))
    return pc.HVAESpec(dims, betas, eta, draw(positive), sigma_1, sigma_2)


def counts(f: pc.Forecast) -> list[int]:
    return [level.n_active for level in f.levels]


@given(data(), specs(), st.floats(1.01, 30.0))
def test_active_units_never_rise_with_eta_dec(x, spec, factor) -> None:
    before = counts(pc.forecast(x, spec))
    after = counts(pc.forecast(x, spec.replace(eta_dec=spec.eta_dec * factor)))
    assert all(b <= a for a, b in zip(before, after, strict=True))


@given(data(), specs(), st.floats(1.01, 30.0))
def test_active_units_never_rise_with_beta(x, spec, factor) -> None:
    before = pc.forecast(x, spec)
    if isinstance(spec, pc.VAESpec):
        higher = spec.replace(beta=spec.beta * factor)
    else:  # of the top level: raising beta_1 alone moves information up, to z2
        higher = spec.replace(betas=(spec.betas[0], spec.betas[1] * factor))
    assert pc.forecast(x, higher).n_active <= before.n_active


@given(data(), st.floats(0.3, 3.0), st.floats(1.01, 5.0), st.sampled_from(["learned", 0.5]))
def test_active_units_never_rise_with_beta_when_eta_dec_is_learned(x, beta, factor, sigma) -> None:
    spec = pc.VAESpec(1, beta, "learned", sigma=sigma)
    try:
        before = pc.forecast(x, spec)
    except pc.UnboundedObjectiveError:
        return
    assert pc.forecast(x, spec.replace(beta=beta * factor)).n_active <= before.n_active


def same_forecast(a: pc.Forecast, b: pc.Forecast) -> None:
    assert a.loss == pytest.approx(b.loss, rel=1e-7, abs=1e-7)
    for one, two in zip(a.levels, b.levels, strict=True):
        np.testing.assert_allclose(one.kl, two.kl, atol=1e-5)
        np.testing.assert_allclose(one.posterior_std, two.posterior_std, rtol=1e-5)


@given(data(), specs(), seeds)
def test_rotating_the_data_changes_nothing(x, spec, seed) -> None:
    d = x.shape[1]
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]
    same_forecast(pc.forecast(x, spec), pc.forecast(x @ rotation, spec))


@given(data(), specs(), st.floats(0.01, 100.0))
def test_units_of_measurement_do_not_matter(x, spec, scale) -> None:
    if isinstance(spec, pc.HVAESpec):  # eta_dec is p(z1|z2)'s too: z1 is measured anew as well
        sigma_1 = spec.sigma_1 if spec.sigma_1 == "learned" else spec.sigma_1 * scale
        scaled = spec.replace(eta_dec=spec.eta_dec * scale, sigma_1=sigma_1)
    else:
        scaled = spec.replace(eta_dec=spec.eta_dec * scale)
    before, after = pc.forecast(x, spec), pc.forecast(x * scale, scaled)
    assert counts(before) == counts(after)
    shift = x.shape[1] * np.log(scale)
    assert after.loss == pytest.approx(before.loss + shift, rel=1e-7, abs=1e-6)
    for one, two in zip(before.levels, after.levels, strict=True):
        np.testing.assert_allclose(one.kl, two.kl, atol=1e-5)


@given(data(), specs(), seeds, st.integers(1, 7))
def test_order_and_batches_of_samples_do_not_matter(x, spec, seed, size) -> None:
    order = np.random.default_rng(seed).permutation(len(x))
    batches = [x[order[i : i + size]] for i in range(0, len(x), size)]
    same_forecast(pc.forecast(x, spec), pc.forecast(pc.Moments.from_batches(batches), spec))


@given(data(), st.integers(1, 4), positive, positive)
def test_conditional_model_with_an_empty_condition_is_a_vae(y, k, beta, eta) -> None:
    moments = pc.Moments.from_arrays(np.empty((len(y), 0)), y)
    same_forecast(
        pc.forecast(moments, pc.CVAESpec(k, beta, eta)), pc.forecast(y, pc.VAESpec(k, beta, eta))
    )


@given(data(), specs(), st.integers(2, 6))
def test_merged_moments_give_the_forecast_of_the_whole(x, spec, at) -> None:
    try:
        parts = pc.Moments.from_arrays(x[:at]) + pc.Moments.from_arrays(x[at:])
    except pc.DataError:
        return
    same_forecast(pc.forecast(x, spec), pc.forecast(parts, spec))


@given(data(), specs())
def test_losses_never_beat_the_numerical_search(x, spec) -> None:
    moments = pc.Moments.from_arrays(x)
    found = pc.minimise(moments, spec, restarts=1, generator=np.random.default_rng(0))
    assert pc.forecast(moments, spec).loss <= found.loss + 1e-8 * (1 + abs(found.loss))


@given(data(), specs())
def test_results_are_finite_plain_values(x, spec) -> None:
    f = pc.forecast(x, spec)
    assert np.isfinite(f.loss)
    for level, dim in zip(f.to_dict()["levels"], spec.dims, strict=True):
        for key in ("kl", "information", "posterior_std", "encoder_singular_values"):
            assert len(level[key]) == dim
            assert np.isfinite(level[key]).all()
        assert all(i >= 0 for i in level["information"])
