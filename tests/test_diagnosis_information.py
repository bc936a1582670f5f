"""Mutual information of a unit with the rows, against quadrature, closed forms and its bounds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posterior_collapse.diagnosis import statistics
from posterior_collapse.diagnosis.statistics import mixture_information


def quadrature(mean, std, points=200_001):
    """h(mixture) less the mean entropy of its parts, the mixture summed point by point."""
    z = np.linspace((mean - 10 * std).min(), (mean + 10 * std).max(), points)
    density = np.zeros_like(z)
    for m, s in zip(mean, std, strict=True):
        density += np.exp(-0.5 * ((z - m) / s) ** 2) / (s * math.sqrt(2 * math.pi) * len(mean))
    surprise = np.where(density > 0, -density * np.log(np.maximum(density, 1e-300)), 0.0)
    return np.trapezoid(surprise, z) - np.mean(0.5 * np.log(2 * np.pi * np.e * std**2))


def rows(kind, n=80):
    rng = np.random.default_rng(3)
    return {
        "spread means": (rng.standard_normal(n), np.full(n, 0.5)),
        "narrow": (rng.standard_normal(n), np.full(n, 0.01)),
        "two clusters": (np.sign(rng.standard_normal(n)) * 3, np.full(n, 0.4)),
        "other stds only": (np.zeros(n), rng.uniform(0.3, 1.0, n)),
        "both": (rng.standard_normal(n), 10 ** rng.uniform(-1.3, 0.3, n)),
        "hardly anything": (0.01 * rng.standard_normal(n), np.ones(n)),
        "far from 0": (1e4 + rng.standard_normal(n), np.full(n, 0.5)),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["spread means", "narrow", "two clusters", "other stds only", "both", "hardly anything",
     "far from 0"],
)  # fmt: skip
def test_information_is_that_of_quadrature(kind) -> None:
    mean, std = rows(kind)
    # Widths between two classes of widths are the coarsest step: 3e-3 of the value.
    expected = quadrature(mean, std)
    assert mixture_information(mean, std).value == pytest.approx(expected, rel=3e-3, abs=1e-6)


def test_gaussian_rows_have_the_gaussian_information_within_the_stated_error() -> None:
    found = []
    for seed in range(200):
        mean = np.random.default_rng(seed).standard_normal(2000) * 0.8
        value, error, _ = mixture_information(mean, np.full(2000, 0.6))
        found.append((value - 0.5 * math.log(1 / 0.36)) / error)
    # Means are spread as the stated error says, and the known bias is small beside it.
    assert abs(np.mean(found)) < 0.3
    assert np.std(found) == pytest.approx(1, abs=3 / math.sqrt(2 * 200))


def test_the_mean_of_rows_far_apart_is_log_n() -> None:
    n = 1000
    value, error, coarse = mixture_information(np.arange(n) * 100.0, np.ones(n))
    assert value == pytest.approx(math.log(n), rel=1e-9)
    assert error == pytest.approx(0, abs=1e-6)
    assert not coarse


def test_one_row_apart_does_not_blur_the_others() -> None:
    mean, std = rows("spread means", 99)
    alone = mixture_information(mean, std).value
    joined = mixture_information(np.append(mean, 1e9), np.append(std, 0.5))
    share = 99 / 100
    expected = share * (alone - math.log(share)) - (1 - share) * math.log(1 - share)
    assert joined.value == pytest.approx(expected, rel=1e-6)
    assert not joined.coarse


def test_rows_alike_know_nothing() -> None:
    value, error, _ = mixture_information(np.full(50, 0.3), np.full(50, 0.07))
    assert value == pytest.approx(0, abs=1e-12)
    assert error == pytest.approx(0, abs=1e-12)


def test_posteriors_too_narrow_for_the_grid_give_a_lower_bound(monkeypatch) -> None:
    mean, std = rows("narrow")
    truth = mixture_information(mean, std)
    monkeypatch.setattr(statistics, "MOST_POINTS", 300)
    bound = mixture_information(mean, std)
    assert bound.coarse
    assert not truth.coarse
    assert 1 < bound.value < truth.value


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-8, 3)), min_size=2, max_size=30))
def test_information_is_bounded_whatever_the_rows(pairs) -> None:
    mean, log_std = np.array(pairs).T
    value, error, _ = mixture_information(mean, 10**log_std)
    assert 0 <= value <= math.log(len(pairs))
    assert error >= 0


@given(st.floats(-5, 5), st.floats(0.01, 100))
def test_scale_and_origin_do_not_matter(shift, scale) -> None:
    mean, std = rows("both")
    moved = mixture_information(scale * mean + shift, scale * std)
    assert moved.value == pytest.approx(mixture_information(mean, std).value, rel=1e-6)
