"""Moments and rows of a stream."""

import numpy as np
import pytest

from posterior_collapse.diagnosis.statistics import Reservoir, Running


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
