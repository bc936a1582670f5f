"""A learned dispersion of a negative binomial: against scipy's densities and the loss itself."""

import numpy as np
import pytest
from scipy import optimize, sparse, special, stats

import posterior_collapse as pc
from posterior_collapse.theory.dispersion import Tally, likeliest

SPEC = pc.VAESpec(2, beta=4.0, likelihood="negative-binomial")


def bursty(n=400, d=8):
    """Counts of cells of unlike depth, one in a hundred of them a burst: by moments r is tiny."""
    rng = np.random.default_rng(0)
    z, weights = rng.standard_normal((n, 2)), rng.standard_normal((2, d))
    depth = np.exp(rng.standard_normal((n, 1)))
    y = rng.poisson(depth * np.exp(0.4 * z @ weights)).astype(float)
    return np.where(rng.random(y.shape) < 0.01, 300.0, y)


def by_search(y):
    """r of one feature by search along the density, which need not be of whole numbers."""
    m = y.mean()

    def cost(log_r):
        r = np.exp(log_r)
        gammas = special.gammaln(y + r) - special.gammaln(r)
        return -(gammas + r * np.log(r / (r + m)) + y * np.log(m / (r + m))).mean()

    found = optimize.minimize_scalar(cost, bounds=(-12, 12), method="bounded")
    return np.exp(found.x)


def of_rows(y):
    counts = Tally.of(y)
    return likeliest(counts, y.mean(0)[counts.feature])


Y = bursty()
R = np.array([by_search(column) for column in Y.T])


def test_the_onset_is_where_the_loss_of_collapse_turns() -> None:
    """The ELBO itself, by quadrature, of a decoder and an encoder that say a little."""
    found = pc.forecast(Y, SPEC)
    m = Y.mean(0)
    white = (Y - m) / np.sqrt(m + m**2 / R)
    values, vectors = np.linalg.eigh(np.cov(white.T, bias=True))
    assert found.onset == pytest.approx(values[-1], rel=1e-4)
    assert found.n_active == 2
    along = vectors[:, -1] / np.sqrt(m * R / (m + R))
    points, weights = np.polynomial.hermite_e.hermegauss(40)

    def loss(beta, step):
        mean, total = step * white @ vectors[:, -1] / beta, np.zeros(len(Y))
        for point, weight in zip(points, weights / weights.sum(), strict=True):
            rate = m * np.exp(step * np.outer(mean + point, along))
            total -= weight * stats.nbinom.logpmf(Y, R, R / (R + rate)).sum(1)
        return total.mean() + beta * np.mean(mean**2) / 2

    for share, sign in ((0.95, -1), (1.05, 1)):
        beta = share * found.onset
        assert np.sign(loss(beta, 3e-3) - loss(beta, 0.0)) == sign


def test_the_loss_of_the_constant_is_that_of_the_likeliest_dispersion() -> None:
    best = -stats.nbinom.logpmf(Y, R, R / (R + Y.mean(0))) - special.gammaln(Y + 1)
    dead = pc.forecast(Y, SPEC.replace(beta=100.0))
    assert dead.n_active == 0
    assert dead.loss == pytest.approx(best.sum(1).mean(), rel=1e-8)


@pytest.mark.parametrize("kind", ["whole", "sparse", "dask", "batches", "once"])
def test_counts_are_counted_wherever_rows_are(kind) -> None:
    given = {
        "whole": lambda: Y.astype(np.uint16),
        "sparse": lambda: sparse.csr_matrix(Y),
        "dask": lambda: pytest.importorskip("dask.array").from_array(Y, chunks=(90, 8)),
        "batches": lambda: [Y[:100], Y[100:]],
        "once": lambda: iter([Y[:7], Y[7:]]),
    }[kind]()
    found, whole = pc.forecast(given, SPEC), pc.forecast(Y, SPEC)
    assert found.onset == pytest.approx(whole.onset, rel=1e-9)
    assert found.loss == pytest.approx(whole.loss, rel=1e-9)
    assert "exact for any network" in found.notes[0]


def test_moments_alone_estimate_and_say_so() -> None:
    found = pc.forecast(pc.Moments.from_arrays(Y), SPEC)
    m, v = Y.mean(0), Y.var(0)
    white = (Y - m) / np.sqrt(m + m**2 / (m**2 / (v - m)))
    assert found.onset == pytest.approx(np.linalg.eigvalsh(np.cov(white.T, bias=True))[-1])
    assert found.onset < 0.1 * pc.forecast(Y, SPEC).onset
    said = " ".join(found.notes)
    assert "exact" not in said
    assert "estimated from mean and variance" in said
    assert "Gamma" in said


@pytest.mark.parametrize("r", [0.02, 0.7, 40.0])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_likeliest_is_that_of_a_search(r, scale) -> None:
    rng = np.random.default_rng(1)
    mean = np.array([0.5, 20.0, 1e4])
    y = scale * rng.negative_binomial(r, r / (r + mean), (2000, 3))
    y = y[:, y.var(0) > y.mean(0)]
    assert len(y.T) >= 1 + (r < 1)
    np.testing.assert_allclose(of_rows(y), [by_search(column) for column in y.T], rtol=1e-4)


def test_counts_that_vary_no_more_than_a_poissons_have_no_dispersion() -> None:
    rng = np.random.default_rng(2)
    even = np.column_stack([rng.binomial(5, 0.5, 300), np.zeros(300), np.arange(300) == 7])
    assert np.isinf(of_rows(even.astype(float))).all()
    poisson = SPEC.replace(likelihood="poisson")
    assert pc.forecast(even, SPEC).onset == pytest.approx(pc.forecast(even, poisson).onset)
    # Nearly so: m^2 / r vanishes beside m, whatever r is.
    nearly = rng.poisson(1e4, (300, 6)).astype(float)
    m, r = nearly.mean(0), of_rows(nearly)
    assert (m / r < 0.2).all()
    np.testing.assert_array_equal(np.isinf(r), nearly.var(0) <= m)
    # A single burst leaves next to no likelihood to the mean: small, and yet a number.
    assert 0 < of_rows(np.r_[np.zeros((399, 1)), [[300.0]]])[0] < 1e-3


def test_a_condition_and_its_dispersion_are_fitted_together() -> None:
    """Against a search over intercept, slope and r of each feature at once."""
    x = np.random.default_rng(3).standard_normal((len(Y), 1))
    scores, constant, y = [], 0.0, Y[:, :3]
    for column in y.T:

        def density(shift, p, column=column):
            mean, r = np.exp(p[0] + p[1] * x[:, 0] + shift), np.exp(p[2])
            return stats.nbinom.logpmf(column, r, r / (r + mean))

        p = optimize.minimize(
            lambda p, density=density: -density(0.0, p).mean(),
            [np.log(column.mean()), 0.0, 0.0],
            method="Nelder-Mead",
            options={"xatol": 1e-8, "fatol": 1e-12, "maxiter": 5000},
        ).x
        up, here, down = (density(shift, p) for shift in (1e-3, 0.0, -1e-3))
        bend = -(up - 2 * here + down).mean() / 1e-6
        scores.append((up - down) / 2e-3 / np.sqrt(bend))
        constant -= here.mean() + special.gammaln(column + 1).mean()
    spec = pc.CVAESpec(1, beta=100.0, likelihood="negative-binomial")
    found = pc.forecast((x, y), spec)
    np.testing.assert_allclose(
        found.spectrum, np.linalg.eigvalsh(np.cov(scores, bias=True))[::-1], rtol=1e-3
    )
    assert found.loss == pytest.approx(constant, rel=1e-6)


def test_a_diagnosis_counts_as_a_forecast_does() -> None:
    """Of a trained model, by batches, and of a posterior's arrays."""
    fitted = pc.fit(SPEC, Y, "linear", epochs=1, initial_std=1e-5)
    onset = pc.forecast(Y, SPEC).onset
    means = np.random.default_rng(4).standard_normal((len(Y), 2))
    found = [
        fitted.forecast,
        pc.diagnose(fitted, Y, batch_size=90).forecast,
        pc.diagnose_arrays(means, np.ones_like(means), data=Y, spec=SPEC).forecast,
    ]
    assert [one.onset for one in found] == pytest.approx([onset] * 3, rel=1e-5)
    assert "exact for any network" in found[1].notes[0]
