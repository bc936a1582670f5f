"""What networks can do: a bracket of counts between parts and whole, and a ceiling of beta."""

import itertools

import numpy as np
import pytest
from scipy import special
from sklearn.cluster import KMeans

import posterior_collapse as pc
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.report import verdict
from posterior_collapse.theory.network import _modes_above, _rows_of_modes, ceiling, fewest_units

DIGITS = pc.load("digits").x


@pytest.mark.parametrize(
    ("tau", "linear", "trained"), [(0.05, 18, (8, 9)), (0.09, 12, (6, 6)), (0.18, 7, (4, 4))]
)
def test_networks_trained_to_a_standstill_lie_within(tau, linear, trained) -> None:
    """Counts of mlps 64-128-16 on digits, trained apart until they stood still."""
    found = pc.forecast(DIGITS, pc.VAESpec(24, beta=tau), network=True)
    fewest, most = found.bracket
    assert most == found.n_active == linear
    assert fewest <= trained[0]
    assert trained[1] <= most
    assert trained[0] - fewest <= 1  # and the guess is a near one
    assert verdict(found).endswith(
        f"A linear model keeps {linear} of 24; a network trained to convergence between {fewest} "
        f"and {most}."
    )
    assert f"between {fewest} and {most}" in found.advice().text
    assert found.to_dict()["bracket"] == [fewest, most]
    assert f"a network keeps {fewest} to {most}" in found.plot().axes[0].get_title()


def test_counts_of_another_likelihood_are_called_approximate() -> None:
    binary = (DIGITS[:600] > 0.5) * 1.0
    found = pc.forecast(binary, pc.VAESpec(8, beta=1.5, likelihood="bernoulli"), network=True)
    said = f"{verdict(found)} {found.advice().text} {found._repr_html_()}"
    assert f"The quadratic approximation keeps {found.n_active} of 8" in said
    assert "Counts are a quadratic approximation's" in said
    assert "linear model" not in said


def test_parts_hang_on_no_rounding_and_no_luck() -> None:
    """Digits have many ties; what rounding of another processor does is far less than 1e-12."""
    found, parts = fewest_units(DIGITS, 0.09)
    for seed in range(6):
        noise = np.random.default_rng(seed).standard_normal(DIGITS.shape)
        assert fewest_units(DIGITS * (1 + 1e-12 * noise), 0.09) == (found, parts)
    # The count of k-means from other starts, of which one alone is off by 0.1.
    others = []
    for seed in range(4):
        labels = KMeans(parts, random_state=seed, n_init=1).fit_predict(DIGITS)
        members = (DIGITS[labels == part].astype(float) for part in range(parts))
        others.append(sum(len(m) * _modes_above(m, 0.09) for m in members) / len(DIGITS))
    assert found == pytest.approx(np.mean(others), abs=0.15)


@pytest.mark.parametrize(
    ("spec", "whose"),
    [
        (pc.VAESpec(4, beta=2.0), " whose encoder reads x linearly"),
        (pc.CVAESpec(4, beta=2.0), " that adds a part of z to a part linear in x"),
    ],
)
def test_above_the_onset_no_more_is_said_than_it_holds_for(spec, whose) -> None:
    """Networks that use z differently for each x, or read |x|, may live above the onset."""
    x, r = np.random.default_rng(0).standard_normal((2, 400, 1))
    dead = pc.forecast((x, np.abs(x) * r), spec, network=True)
    assert dead.bracket == (0, 0)
    assert verdict(dead).endswith(
        f"A linear model keeps 0 of 4; total collapse is stable in any network{whose}."
    )
    alone = pc.forecast(r, pc.VAESpec(4, beta=9.0), network=True)
    assert verdict(alone).endswith("total collapse is stable in any network.")
    assert "keeps" not in alone.plot().axes[0].get_title()


def test_parts_are_of_what_an_encoder_of_another_x_can_tell() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 3))
    y = x @ rng.standard_normal((3, 5)) + 5 * rng.standard_normal((400, 5))
    counts = rng.poisson(np.exp(np.clip(y / 8, -3, 3)))
    for target, likelihood in ((y, "gaussian"), (counts, "poisson")):
        spec = pc.VAESpec(3, beta=0.5, likelihood=likelihood)
        modes = pc.forecast((x, target), spec)._modes
        rows = _rows_of_modes(x, target, modes, spec)
        variances = np.linalg.eigvalsh(np.cov(rows.T, bias=True))[::-1]
        np.testing.assert_allclose(variances[:3], modes.theta**2, rtol=1e-9)


def test_few_rows_are_corrected_for() -> None:
    """Rows of one Gaussian of three modes above the threshold: noise adds more, and is told."""
    stds = np.array([2.0] * 3 + [0.5] * 47)
    for seed in range(3):
        few = np.random.default_rng(seed).standard_normal((45, 50)) * stds
        assert np.count_nonzero(np.linalg.eigvalsh(np.cov(few.T)) > 0.8) > 3
        assert fewest_units(few, 0.8) == (3, 1)


def test_counts_of_few_rows_are_those_of_many() -> None:
    """40 clusters of 5 modes above the threshold each, of 50 rows in 200 dimensions."""
    rng = np.random.default_rng(1)
    centres = 4 * rng.standard_normal((40, 200))
    stds = 2 * np.arange(1, 201) ** -0.6
    rows = centres[rng.integers(40, size=2000)] + rng.standard_normal((2000, 200)) * stds
    labels = KMeans(40, random_state=0, n_init=1).fit_predict(rows)
    parts = [rows[labels == k] for k in range(40)]
    raw = sum(
        len(p) / 2000 * np.count_nonzero(np.linalg.eigvalsh(np.cov(p.T)) > 0.5) for p in parts
    )
    assert np.count_nonzero(stds**2 > 0.5) == 5
    assert raw > 6
    assert fewest_units(rows, 0.5)[0] == pytest.approx(5, abs=0.3)


def test_every_likelihood_and_a_condition() -> None:
    binary = (DIGITS > 0.5).astype(float)
    spec = pc.VAESpec(24, likelihood="bernoulli")
    onset = pc.forecast(binary, spec).onset
    # Above the onset no network keeps a unit, and just below it each keeps one.
    assert pc.forecast(binary, spec.replace(beta=1.1 * onset), network=True).bracket == (0, 0)
    assert pc.forecast(binary, spec.replace(beta=0.95 * onset), network=True).bracket == (1, 1)
    # Whitened by hand the same, of a Gaussian.
    varying = binary[:, binary.std(0) > 0]
    white = (varying - varying.mean(0)) / np.sqrt(varying.mean(0) * (1 - varying.mean(0)))
    spec = spec.replace(beta=1.5)
    found = pc.forecast(binary, spec, network=True).bracket
    assert found == pc.forecast(white, spec.replace(likelihood="gaussian"), network=True).bracket
    for likelihood, beta in (("gaussian", 0.1), ("bernoulli", 0.8)):
        given = pc.CVAESpec(24, beta=beta, likelihood=likelihood)
        pair = (binary[:, :32], binary[:, 32:])
        fewest, most = pc.forecast(pair, given, network=True).bracket
        assert 1 <= fewest < most == pc.forecast(pair, given).n_active


def test_batches_do_and_moments_do_not() -> None:
    spec = pc.VAESpec(24, beta=0.09)
    whole = pc.forecast(DIGITS, spec, network=True)
    assert pc.forecast([DIGITS[:900], DIGITS[900:]], spec, network=True).bracket == whole.bracket
    assert pc.forecast(spec, DIGITS, network=True).bracket == whole.bracket
    assert pc.forecast(DIGITS, spec).bracket is None
    with pytest.raises(InvalidArgumentError, match="the rows of the data"):
        pc.forecast(pc.Moments.from_arrays(DIGITS), spec, network=True)
    few = pc.forecast(DIGITS[:300], spec, network=True)
    assert any("7 parts" in note for note in few.notes)


# The beta above which no model beats total collapse, against brute force


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


@pytest.mark.parametrize("widths", [(2,), (3,), (4,), (2, 2), (3, 2)])
def test_of_one_position_nothing_is_left_between_onset_and_ceiling(widths) -> None:
    """Where beta is 1, E (q/p)^(1/beta) is 1 of every q; the search failed along constants."""
    rng = np.random.default_rng(len(widths))
    rows = np.hstack([np.eye(w)[rng.integers(0, w, 400) % rng.integers(2, w + 1)] for w in widths])
    f = pc.forecast(rows, pc.VAESpec(1, likelihood="categorical"), network=True)
    if len(widths) == 1:
        assert f.ceiling == pytest.approx(1, rel=1e-9)
    assert f.onset <= f.ceiling < 1.5


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


@pytest.mark.parametrize(
    ("features", "std", "times"), [(4, 0.7, 1.5), (4, 2.0, 2.6), (8, 0.7, 1.3), (8, 2.0, 2.3)]
)
def test_just_below_the_onset_the_best_has_more_kl_than_the_forecast(features, std, times) -> None:
    """What `docs/likelihoods.md` says of binary features that share one factor.

    The best of all encoders and decoders by alternating between them, with z on 31 nodes.
    """
    z, prior = np.polynomial.hermite_e.hermegauss(31)
    prior /= prior.sum()
    patterns = np.array(list(itertools.product([0.0, 1.0], repeat=features)))
    ones = patterns.sum(1)
    logits = np.multiply.outer(std * z, np.ones(len(ones)))
    drawn = np.exp(ones * logits - features * np.logaddexp(0, logits))
    # As rows, among which all patterns of as many ones are alike: the others need not be looked at.
    rows = np.repeat(patterns, np.rint(100_000 * (prior @ drawn)).astype(int), axis=0)
    count, share = np.unique(rows.sum(1), return_counts=True)
    share = share / len(rows)
    spec = pc.VAESpec(1, likelihood="bernoulli")
    beta = 0.97 * pc.forecast(rows, spec).onset
    mean = 0.5 + 0.02 * z  # of a feature, given z
    for _ in range(6000):
        log = np.multiply.outer(np.log(mean), count) + np.multiply.outer(
            np.log1p(-mean), features - count
        )
        posterior = prior[:, None] * np.exp(log / beta - (log / beta).max(0))
        posterior /= posterior.sum(0)
        mean = posterior @ (share * count) / (posterior @ share) / features
    kl = share @ (posterior * np.log(posterior / prior[:, None])).sum(0)
    forecast = pc.forecast(rows, spec.replace(beta=beta)).levels[0].kl[0]
    assert round(kl / forecast, 1) == times
