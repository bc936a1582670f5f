"""The beta above which no model beats total collapse, against brute force."""

import numpy as np
import pytest
from scipy import special

import posterior_collapse as pc
from posterior_collapse.theory.network import ceiling

DIGITS = pc.load("digits").x


def brute_force(log_ratio, outputs):
    """Largest beta at which some output breaks even, from a grid, by bisection of each."""
    best = 0.0
    for output in outputs:
        gains = log_ratio(output)
        if gains.max() <= 0:
            continue
        low, high = 1e-3, 1e3
        for _ in range(40):
            middle = np.sqrt(low * high)
            above = np.exp(gains / middle - gains.max() / middle).mean() > np.exp(
                -gains.max() / middle
            )
            low, high = (middle, high) if above else (low, middle)
        best = max(best, low)
    return best


def test_one_feature_against_a_grid() -> None:
    rng = np.random.default_rng(0)
    skewed = rng.exponential(size=(300, 1)) - 1
    binary = (rng.random((300, 1)) < 0.1).astype(float)
    counts = rng.poisson(rng.gamma(1.0, 2.0, (300, 1))).astype(float)
    mean = binary.mean(), counts.mean()

    def gaussian(eta):
        return ((skewed - skewed.mean()) ** 2 - (skewed - eta) ** 2)[:, 0] / 2

    def bernoulli(eta):
        loss = [np.logaddexp(0, e) - binary * e for e in (special.logit(mean[0]), eta)]
        return (loss[0] - loss[1])[:, 0]

    def poisson(eta):
        loss = [np.exp(e) - counts * e for e in (np.log(mean[1]), eta)]
        return (loss[0] - loss[1])[:, 0]

    grid = np.linspace(-12, 12, 801)
    for name, rows, ratio in (
        ("gaussian", skewed, gaussian),
        ("bernoulli", binary, bernoulli),
        ("poisson", counts, poisson),
    ):
        onset = pc.forecast(rows, pc.VAESpec(1, likelihood=name)).onset
        found = ceiling(name, rows, onset)
        assert found == pytest.approx(max(brute_force(ratio, grid), onset), rel=1e-3)
        assert found >= onset


def test_gaussian_data_have_no_gap_and_binary_positions_are_bernoullis() -> None:
    """A Gaussian is sub-Gaussian of its own variance: in the limit of many rows onset = ceiling."""
    binary = (DIGITS > 0.5).astype(float)[:, [20, 28, 36, 43]]
    onset = pc.forecast(binary, pc.VAESpec(1, likelihood="bernoulli")).onset
    twice = np.stack([binary, 1 - binary], axis=2).reshape(len(binary), -1)
    alike = [ceiling("bernoulli", binary, onset), ceiling("categorical", twice, onset)]
    assert alike[0] == pytest.approx(alike[1], rel=1e-4)
    quantiles = special.ndtri((np.arange(20_000) + 0.5) / 20_000)[:, None]
    assert ceiling("gaussian", quantiles, 0.0) == pytest.approx(1, abs=2e-3)


def test_digits_and_the_forecast() -> None:
    found = pc.forecast(DIGITS, pc.VAESpec(4, beta=2.0, eta_dec=0.5), network=True)
    assert found.onset * 0.25 == pytest.approx(0.699, abs=1e-3)
    assert found.ceiling * 0.25 == pytest.approx(0.7495, abs=1e-3)
    assert pc.forecast(DIGITS, pc.VAESpec(4)).ceiling is None
    pair = (DIGITS[:, :4], DIGITS[:, 4:])
    assert pc.forecast(pair, pc.CVAESpec(4), network=True).ceiling is None
    assert pc.forecast(DIGITS, pc.VAESpec(4, eta_dec="learned"), network=True).ceiling is None
    # Collapse onto 0 is worse than onto the mean at every beta.
    assert pc.forecast(DIGITS, pc.VAESpec(4), bias="none", network=True).ceiling is None
