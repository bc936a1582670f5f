"""What the law says of every likelihood, held against networks that were trained."""

import numpy as np
import pytest
from scipy.special import expit

import posterior_collapse as pc


def data(name, n=800):
    """One latent number that all features share: a strong first mode, and noise."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((n, 1))
    loads = np.linspace(0.5, 1.5, 40) * rng.choice([-1, 1], 40)
    if name == "bernoulli":
        return (rng.random((n, 40)) < expit(0.7 * z * loads)).astype(np.float32)
    if name == "poisson":
        return rng.poisson(np.exp(0.3 * z * loads)).astype(np.float32)
    logits = 0.6 * z[..., None] * np.stack([loads, -loads, np.zeros(40)], axis=1)
    classes = (logits + rng.gumbel(size=(n, 40, 3))).argmax(-1)
    return np.eye(3, dtype=np.float32)[classes].reshape(n, 120)


@pytest.mark.parametrize("name", ["bernoulli", "poisson", "categorical"])
def test_a_net_is_alive_below_the_onset_and_dead_above(name) -> None:
    y = data(name)
    spec = pc.VAESpec(2, likelihood=name)
    onset = pc.forecast(y, spec).onset
    runs = [spec.replace(beta=share * onset) for share in (0.8, 1.2)]
    trained = pc.fit_many(
        runs, y, "mlp", hidden=(32,), epochs=200, batch_size=100, learning_rate=3e-3
    )
    alive, dead = (pc.diagnose(fitted, y) for fitted in trained)
    assert alive.n_active >= 1
    assert dead.n_active == 0
    assert sum(alive.levels[0].kl) > 10 * sum(dead.levels[0].kl)
    # The two are told apart by the likelihood's own law alone: no Gaussian's is near.
    assert alive.forecast.n_active == 1
    assert dead.forecast.n_active == 0


@pytest.mark.parametrize("name", ["bernoulli", "poisson", "categorical"])
def test_the_kl_near_the_onset_is_theorys(name) -> None:
    """Of linear decoders, up to terms of higher order: a quarter here."""
    y = data(name)
    spec = pc.VAESpec(1, likelihood=name)
    spec = spec.replace(beta=0.85 * pc.forecast(y, spec).onset)
    fitted = pc.fit(y, spec, "linear", epochs=500, batch_size=200, learning_rate=2e-3)
    found = pc.diagnose(fitted, y)
    assert found.forecast.levels[0].kl[0] == pytest.approx(-0.5 * np.log(0.85))
    assert sum(found.levels[0].kl) == pytest.approx(found.forecast.levels[0].kl[0], abs=0.035)
