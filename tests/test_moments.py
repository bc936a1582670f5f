"""Means and second moments of arrays and batches against numpy in float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import posterior_collapse as pc
from posterior_collapse import arrays
from posterior_collapse.moments import accumulate

RNG = np.random.default_rng(0)
X = RNG.standard_normal((300, 7)) * np.geomspace(0.01, 100, 7) + np.geomspace(1, 1e4, 7)
Y = X[:, :3] @ RNG.standard_normal((3, 4)) + RNG.standard_normal((300, 4))


def second(a: np.ndarray, b: np.ndarray, center: bool = True) -> np.ndarray:
    """E[a b'] in float64, by the textbook two passes."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    if center:
        a, b = a - a.mean(0), b - b.mean(0)
    return a.T @ b / len(a)


def check(moments: pc.Moments, x: np.ndarray, y: np.ndarray | None, rtol: float = 1e-12) -> None:
    """Compare all that moments hold with the samples they came from."""
    y = x if y is None else y
    assert moments.n == len(x)
    assert moments.features == (x.shape[1], y.shape[1])
    for found, expected in [
        (moments.mean_x, x.astype(np.float64).mean(0)),
        (moments.mean_y, y.astype(np.float64).mean(0)),
        (moments.xx, second(x, x, moments.center)),
        (moments.yx, second(y, x, moments.center)),
        (moments.yy, second(y, y, moments.center)),
    ]:
        assert found.dtype == np.float64
        np.testing.assert_allclose(
            found, expected, rtol=rtol, atol=rtol * np.abs(expected).max(initial=0)
        )
    total = np.trace(second(y, y, moments.center))
    assert moments.total_variance == pytest.approx(total, rel=rtol)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks of rows, the last of them short, from little data."""
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 1)


@pytest.mark.parametrize(
    "dtype", ["?", "u1", "i1", "u2", "i4", "i8", "u8", "f2", "f4", "f8", ">f4"]
)
@pytest.mark.parametrize("center", [True, False])
def test_any_real_dtype_gives_what_float64_gives(dtype: str, center: bool) -> None:
    values = RNG.integers(0, 2 if dtype == "?" else 120, (500, 6)).astype(dtype)
    target = RNG.integers(0, 2 if dtype == "?" else 120, (500, 3)).astype(dtype)
    check(pc.Moments.from_arrays(values, center=center), values, None)
    check(pc.Moments.from_arrays(values, target, center=center), values, target)


def test_single_precision_data_are_summed_in_double_precision() -> None:
    x = (RNG.standard_normal((20_000, 5)) + 3000).astype(np.float32)
    check(pc.Moments.from_arrays(x), x, None, rtol=1e-11)
    naive = np.cov(x.T, bias=True, dtype=np.float32)
    assert not np.allclose(naive, second(x, x), rtol=1e-6)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("rows", [1, 2, 511, 512, 513, 1500])
def test_rows_are_the_same_whole_or_in_chunks(rows: int) -> None:
    more = np.vstack([X] * 5)[:rows]
    if rows == 1:
        more = np.vstack([more, more + 1])
    check(pc.Moments.from_arrays(more, more[:, :2]), more, more[:, :2])


@pytest.mark.parametrize(
    "view",
    [
        X[::-1],
        X[::2, ::-2],
        np.asfortranarray(X),
        X.astype(">f8"),
        X.tolist(),
        np.lib.stride_tricks.sliding_window_view(X[:, 0], 5),
    ],
)
def test_views_and_lists_are_arrays_too(view) -> None:
    check(pc.Moments.from_arrays(view), np.array(view), None)


def test_data_frames_and_tensors_are_arrays_too() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2, 4], "b": [True, False, True], "c": [0.5, 1.5, 9.0]})
    check(pc.Moments.from_arrays(frame), frame.to_numpy(dtype=float), None)
    torch = pytest.importorskip("torch")
    check(pc.Moments.from_arrays(torch.from_numpy(X)), X, None)


def test_scaling_is_explicit_only() -> None:
    pixels = RNG.integers(0, 256, (100, 9), dtype=np.uint8)
    check(pc.Moments.from_arrays(pixels), pixels, None)
    check(pc.Moments.from_arrays(pixels, scale=1 / 255), pixels / 255, None)
    check(pc.Moments.from_batches([pixels[:50], pixels[50:]], scale=-2.0), pixels * -2.0, None)
    paired = pc.Moments.from_arrays(pixels, pixels[:, :2], scale=1 / 255, center=False)
    check(paired, pixels / 255, pixels[:, :2] / 255)


@pytest.mark.parametrize("scale", [0, np.nan, np.inf, "1/255", None, 1j, [1.0]])
def test_a_scale_is_a_number(scale) -> None:
    for measure in (pc.Moments.from_arrays, lambda x, **k: pc.Moments.from_batches([x], **k)):
        with pytest.raises(pc.InvalidArgumentError, match=r"^scale: got"):
            measure(X, scale=scale)


def test_scaled_arguments_are_not_changed() -> None:
    before = X.copy()
    pc.Moments.from_arrays(X, scale=3.0)
    pc.Moments.from_batches([X[:100], X[100:]], center=False)
    np.testing.assert_array_equal(X, before)


def generator(size: int, *columns: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Batches in one buffer that the next batch overwrites, as fast loaders do."""
    buffers = [np.empty((size, c.shape[1]), c.dtype) for c in columns]
    for start in range(0, len(columns[0]), size):
        parts = [c[start : start + size] for c in columns]
        for buffer, part in zip(buffers, parts, strict=True):
            buffer[: len(part)] = part
        yield tuple(b[: len(parts[0])] for b in buffers)


@pytest.mark.parametrize("size", [1, 7, 299, 300, 1000])
def test_batches_of_any_size_equal_the_whole(size: int) -> None:
    check(pc.Moments.from_batches(generator(size, X)), X, None)
    check(pc.Moments.from_batches(generator(size, X, Y)), X, Y)
    check(pc.Moments.from_batches(x for (x,) in generator(size, X)), X, None)


def test_a_data_loader_will_do() -> None:
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True)
    check(pc.Moments.from_batches(loader), X, Y)
    lonely = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(X)))
    check(pc.Moments.from_batches(lonely), X, None)


def test_an_empty_condition_leaves_the_target() -> None:
    moments = pc.Moments.from_arrays(np.empty((300, 0)), Y)
    check(moments, np.empty((300, 0)), Y)
    batches = [(np.empty((len(y), 0)), y) for y in np.array_split(Y, 4)]
    check(pc.Moments.from_batches(batches), np.empty((300, 0)), Y)
    spec = {"latent_dim": 3, "beta": 1.5, "eta_dec": 0.7}
    vae = pc.forecast(pc.Moments.from_arrays(Y), pc.VAESpec(**spec))
    cvae = pc.forecast(moments, pc.CVAESpec(**spec))
    assert cvae.loss == pytest.approx(vae.loss, rel=1e-12)


@given(
    st.permutations(range(60)),
    st.sets(st.integers(1, 59), max_size=8),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_merging_any_split_in_any_order_equals_the_whole(rows, cuts, random, paired) -> None:
    x, y = X[rows], (Y[rows] if paired else None)
    spans = list(zip([0, *sorted(cuts)], [*sorted(cuts), 60], strict=True))
    # A group of one row has no variance of its own to be refused for: it joins its neighbour.
    groups = [slice(a, b) for a, b in spans if b - a > 1]
    used = np.concatenate([np.arange(60)[g] for g in groups]) if groups else np.arange(0)
    if len(groups) == 0:
        return
    parts = [pc.Moments.from_arrays(x[g], None if y is None else y[g]) for g in groups]
    while len(parts) > 1:
        random.shuffle(parts)
        parts.append(parts.pop() + parts.pop())
    check(parts[0], x[used], None if y is None else y[used], rtol=1e-11)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_any_batch_split_equals_the_whole(sizes) -> None:
    stops = np.cumsum(sizes)[np.cumsum(sizes) < len(X)]
    check(pc.Moments.from_batches(np.split(X, stops)), X, None, rtol=1e-11)


def test_a_sum_leaves_its_terms_alone() -> None:
    one, two = pc.Moments.from_arrays(X[:50]), pc.Moments.from_arrays(X[50:])
    check(one + two, X, None)
    check(two + one + one, np.vstack([X, X[:50]]), None)
    check(sum([one, two]), X, None)
    check(one, X[:50], None)
    check(two, X[50:], None)
    raw = pc.Moments.from_arrays(X[:50], center=False) + pc.Moments.from_arrays(
        X[50:], center=False
    )
    assert not raw.center
    check(raw, X, None)


@pytest.mark.parametrize("way", ["array", "batches", "rows", "sum", "sorted", "condition"])
def test_a_mean_of_a_million_leaves_the_digits_of_unit_variance(way: str) -> None:
    noise = np.random.default_rng(1).standard_normal((5000, 4))
    x = noise + 1e6
    if way == "sorted":
        x = x[np.argsort(x[:, 0])]  # the mean so far is no guide to what comes next
    deviations = x - 1e6  # exact, or nearly so, in float64
    expected = np.cov(deviations.T, bias=True)
    if way == "array":
        found = pc.Moments.from_arrays(x).xx
    elif way == "condition":
        found = pc.Moments.from_arrays(x, noise[:, :1]).xx
    elif way == "sum":
        parts = [pc.Moments.from_arrays(part) for part in np.array_split(x, 7)]
        found = sum(parts[1:], start=parts[0]).xx
    else:
        size = 1 if way == "rows" else 100
        found = pc.Moments.from_batches(x[i : i + size] for i in range(0, 5000, size)).xx
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    naive = x.T @ x / len(x) - np.outer(x.mean(0), x.mean(0))
    assert not np.allclose(naive, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [0.1, 1e6 / 3, -7e-9])
def test_constant_features_have_no_variance_at_all(value: float) -> None:
    x = np.column_stack([np.full(4000, value), np.arange(4000.0)])
    for moments in (
        pc.Moments.from_arrays(x),
        pc.Moments.from_batches(np.array_split(x, 13)),
        pc.Moments.from_arrays(x[:1000]) + pc.Moments.from_arrays(x[1000:]),
    ):
        assert moments.xx[0].tolist() == [0.0, 0.0]
        assert moments.mean_x[0] == value


def test_raw_and_central_moments_differ_by_the_means() -> None:
    raw = pc.Moments.from_arrays(X, Y, center=False)
    central = pc.Moments.from_arrays(X, Y)
    check(raw.with_center(True), X, Y)
    check(central.with_center(False), X, Y)
    np.testing.assert_allclose(raw.yx - central.yx, np.outer(Y.mean(0), X.mean(0)), rtol=1e-10)
    assert "raw" in repr(raw)
    assert "centred" in repr(central)


def test_a_constant_input_is_a_column_of_ones() -> None:
    with_ones = np.column_stack([X, np.ones(len(X))])
    check(pc.Moments.from_arrays(X, Y).with_constant_input(), with_ones, Y)


def test_matrices_are_taken_as_they_are() -> None:
    xx, yx, yy = second(X, X), second(Y, X), second(Y, Y)
    moments = pc.Moments.from_matrices(xx, yx, yy, n=300)
    for found, given_ in ((moments.xx, xx), (moments.yx, yx), (moments.yy, yy)):
        np.testing.assert_array_equal(found, given_)
    assert (moments.n, moments.features, moments.center) == (300, (7, 4), True)
    assert pc.Moments.from_matrices(xx).total_variance == pytest.approx(X.var(0).sum())
    f, g = (
        pc.forecast(m, pc.HVAESpec((3, 2), (1, 2), sigma_1=0.5))
        for m in (moments, pc.Moments.from_arrays(X, Y))
    )
    assert f.loss == pytest.approx(g.loss, rel=1e-12)


def test_an_accumulator_that_saw_nothing_changes_nothing() -> None:
    full, nothing = accumulate.Accumulator.empty(7), accumulate.Accumulator.empty(7)
    full.update(("x",), [X])
    before = full.cov
    full.merge(nothing)
    nothing.merge(full)
    np.testing.assert_array_equal(full.cov, before)
    np.testing.assert_array_equal(nothing.cov, before)
    assert nothing.n == full.n == 300
