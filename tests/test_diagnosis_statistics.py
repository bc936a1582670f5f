"""Statistics of streams, and what a unit knows of the rows, against NumPy and quadrature."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import trapezoid

from posterior_collapse.diagnosis import statistics
from posterior_collapse.diagnosis.statistics import Reservoir, Running, mixture_information


def test_batches_have_the_moments_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    a = 1e8 + rng.standard_normal((1000, 3))
    b = a + rng.standard_normal((1000, 3))
    running = Running()
    for part in np.array_split(np.arange(1000), [1, 2, 300, 999]):
        running.add(a[part], b[part])
    assert running.mean == pytest.approx(a.mean(0))
    expected = ((a - a.mean(0)) * (b - b.mean(0))).mean(0)
    assert running.covariance == pytest.approx(expected, rel=1e-6)


def test_the_error_is_that_of_a_mean() -> None:
    values = np.random.default_rng(0).standard_normal((500, 2))
    running = Running()
    running.add(values[:7])
    running.add(values[7:])
    assert running.error == pytest.approx(values.std(0, ddof=1) / np.sqrt(500), rel=1e-12)
    single = Running()
    single.add(values[:1])
    assert np.isnan(single.error).all()


def test_few_rows_are_all_kept_in_order() -> None:
    reservoir = Reservoir(np.random.default_rng(0))
    x = np.arange(50.0).reshape(25, 2)
    reservoir.add(x[:10], x[:10, 0])
    reservoir.add(x[10:], x[10:, 0])
    kept, column = reservoir.rows()
    assert (kept == x).all()
    assert (column == x[:, 0]).all()
    assert reservoir.kept == reservoir.n == 25


def test_every_row_has_the_same_chance_to_stay() -> None:
    counts = np.zeros(90)
    runs, capacity = 2000, 10
    for seed in range(runs):
        reservoir = Reservoir(np.random.default_rng(seed), numbers=0, least=capacity)
        for start in range(0, 90, 15):
            reservoir.add(np.arange(start, start + 15))
        (kept,) = reservoir.rows()
        assert len(kept) == reservoir.kept == capacity
        assert (np.diff(kept) > 0).all()
        counts[kept] += 1
    share = capacity / 90
    spread = np.sqrt(runs * share * (1 - share))
    # 90 counts, none further off than 4.5 standard deviations.
    assert (np.abs(counts - runs * share) < 4.5 * spread).all()


def test_memory_is_bounded() -> None:
    reservoir = Reservoir(np.random.default_rng(0), numbers=3000, least=1)
    for _ in range(100):
        reservoir.add(np.zeros((500, 3)))
        assert all(len(part) <= 2 * 1000 for part in reservoir._kept)
    assert len(reservoir.rows()[0]) == 1000


def test_the_rows_of_the_smallest_keys_stay_however_they_come() -> None:
    keys = np.random.default_rng(5).random(5000)
    expected = np.sort(np.argsort(keys)[:40])
    for sizes in ([5000], [1] * 200 + [4800], [70] * 71 + [30]):
        reservoir = Reservoir(np.random.default_rng(5), numbers=0, least=40)
        start = 0
        for size in sizes:
            rows = np.arange(start, start + size)
            reservoir.add(rows, np.column_stack([rows, -rows]).astype(np.float32))
            start += size
        kept, columns = reservoir.rows()
        np.testing.assert_array_equal(kept, expected)
        np.testing.assert_array_equal(columns, np.column_stack([expected, -expected]))
        again, _ = reservoir.rows()
        np.testing.assert_array_equal(again, expected)


def test_rows_that_were_chosen_before_they_came_are_those_that_stay() -> None:
    x = np.random.default_rng(1).standard_normal((3000, 2))
    whole, chosen, late = (Reservoir(np.random.default_rng(2), 0, least=50) for _ in range(3))
    computed = 0
    for start in range(0, 3000, 100):
        rows = x[start : start + 100]
        whole.add(rows)
        which = chosen.choose(100)
        computed += len(rows[which])
        chosen.keep(rows[which])
        late.choose(100)
        late.add(rows)
    (expected,) = whole.rows()
    assert len(expected) == 50
    for reservoir in (chosen, late):
        np.testing.assert_array_equal(reservoir.rows()[0], expected)
    # The first 200 rows come in full; of n before it, row n + 1 stays with a chance of 50 / n.
    assert computed < 200 + 2 * 50 * np.log(3000 / 100)


def test_rows_that_cannot_stay_are_known_from_how_many_will_come() -> None:
    """Each with the same chance, about as many as fit, and nothing is computed of the others."""
    n, capacity, runs = 900, 60, 400
    counts, sizes = np.zeros(n), []
    for seed in range(runs):
        reservoir = Reservoir(np.random.default_rng(seed), 0, least=capacity, expected=n)
        keys = np.random.default_rng(seed).random(n)
        computed = 0
        for start in range(0, n, 90):
            which = reservoir.choose(90)
            rows = np.arange(start, start + 90)[which]
            computed += len(rows)
            reservoir.keep(rows)
        (kept,) = reservoir.rows()
        np.testing.assert_array_equal(kept, np.flatnonzero(keys < capacity / n))
        assert computed < 90 + 1.6 * capacity  # the first batch, and its share of the others
        counts[kept] += 1
        sizes.append(len(kept))
    share = capacity / n
    assert abs(np.mean(sizes) - capacity) < 5 * np.sqrt(capacity / runs)
    assert (np.abs(counts - runs * share) < 5 * np.sqrt(runs * share)).all()


def test_more_rows_than_were_expected_take_no_more_memory() -> None:
    reservoir = Reservoir(np.random.default_rng(0), 0, least=50, expected=100)
    for start in range(0, 3000, 100):
        reservoir.add(np.arange(start, start + 100))
    expected = np.sort(np.argsort(np.random.default_rng(0).random(3000))[:50])
    np.testing.assert_array_equal(reservoir.rows()[0], expected)


def quadrature(mean, std, points=200_001):
    """h(mixture) less the mean entropy of its parts, the mixture summed point by point."""
    z = np.linspace((mean - 10 * std).min(), (mean + 10 * std).max(), points)
    density = np.zeros_like(z)
    for m, s in zip(mean, std, strict=True):
        density += np.exp(-0.5 * ((z - m) / s) ** 2) / (s * math.sqrt(2 * math.pi) * len(mean))
    surprise = np.where(density > 0, -density * np.log(np.maximum(density, 1e-300)), 0.0)
    return trapezoid(surprise, z) - np.mean(0.5 * np.log(2 * np.pi * np.e * std**2))


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
