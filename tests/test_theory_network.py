"""What a network keeps: a bracket between the parts of the data and the linear count."""

import numpy as np
import pytest
from sklearn.cluster import KMeans

import posterior_collapse as pc
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.report import verdict
from posterior_collapse.theory.network import fewest_units

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
