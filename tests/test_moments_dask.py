"""Dask arrays, chunked in any way, against the arrays they were made from."""

from __future__ import annotations

import numpy as np
import pytest

import posterior_collapse as pc
from test_moments import X, Y, check

da = pytest.importorskip("dask.array")

CHUNKS = [(300, 7), (50, 7), (7, 2), (1, 1), ((1, 99, 200), (3, 4)), (299, 5)]


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("center", [True, False])
def test_chunked_both_ways(chunks, center: bool) -> None:
    lazy = da.from_array(X, chunks=chunks)
    check(pc.Moments.from_arrays(lazy, center=center), X, None)


@pytest.mark.parametrize("chunks", CHUNKS)
def test_pairs_need_not_be_chunked_alike(chunks) -> None:
    lazy_x, lazy_y = da.from_array(X, chunks=chunks), da.from_array(Y, chunks=(64, 3))
    check(pc.Moments.from_arrays(lazy_x, lazy_y), X, Y)
    check(pc.Moments.from_arrays(lazy_x, Y), X, Y)
    check(pc.Moments.from_arrays(X, lazy_y), X, Y)


def test_dtype_and_scale_are_those_of_arrays() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 5), dtype=np.uint8)
    lazy = da.from_array(pixels, chunks=(20, 2))
    check(pc.Moments.from_arrays(lazy, scale=1 / 255), pixels / 255, None)


def test_an_empty_condition_leaves_the_target() -> None:
    nothing = np.empty((300, 0))
    check(pc.Moments.from_arrays(nothing, da.from_array(Y, chunks=(70, 4))), nothing, Y)


def test_the_mean_may_be_a_million() -> None:
    noise = np.random.default_rng(1).standard_normal((3000, 3))
    found = pc.Moments.from_arrays(da.from_array(noise + 1e6, chunks=(100, 2))).xx
    np.testing.assert_allclose(found, np.cov((noise + 1e6 - 1e6).T, bias=True), rtol=0, atol=1e-9)


def test_row_counts_that_are_not_known_yet_are_counted() -> None:
    lazy = da.from_array(X, chunks=(40, 3))
    keep = X[:, 0] > X[:, 0].mean()
    some = lazy[lazy[:, 0] > X[:, 0].mean()]
    check(pc.Moments.from_arrays(some), X[keep], None)
    check(pc.Moments.from_arrays(some, Y[keep]), X[keep], Y[keep])
    first = da.from_array(X, chunks=(40, 7))[da.arange(300, chunks=40) < 40]
    check(pc.Moments.from_arrays(first), X[:40], None)  # later chunks are empty


def test_data_frames_are_arrays_too() -> None:
    frames = pytest.importorskip("dask.dataframe")
    pandas = pytest.importorskip("pandas")
    frame = frames.from_pandas(pandas.DataFrame(X), npartitions=4)
    check(pc.Moments.from_arrays(frame), X, None)
    text = frames.from_pandas(pandas.DataFrame({"a": [1, 2], "b": ["u", "v"]}), npartitions=1)
    with pytest.raises(pc.DataError, match=r"^x: got .*object|string"):
        pc.Moments.from_arrays(text)


def test_a_forecast_takes_them_as_they_are() -> None:
    spec = pc.VAESpec(4, eta_dec=0.5)
    loss = pc.forecast(da.from_array(X, chunks=(80, 2)), spec).loss
    assert loss == pytest.approx(pc.forecast(X, spec).loss, rel=1e-10)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (da.zeros(5), None, r"x: got a 1-D array of shape \(5,\)"),
        (da.zeros((0, 2)), None, "x: got an empty array"),
        (da.zeros((5, 0)), None, "x: got an empty array"),
        (da.zeros((5, 2), dtype=complex), None, "x: got complex numbers"),
        (da.ones((5, 2)), None, "x: got data that are all constant"),
        (da.ones((1, 2)), None, "x: got a single sample"),
        (da.from_array(X), da.from_array(Y[:9]), "x and y: got 300 and 9 samples"),
        (da.from_array(X), Y[:9], "x and y: got 300 and 9 samples"),
        (da.from_array(X), da.from_array(np.full((300, 1), "a")), "y: got dtype <U1"),
        (da.zeros((9, 8193)), None, r"x: got dask arrays of \[8193\] features"),
    ],
)
def test_what_is_not_samples_is_refused(x, y, words: str) -> None:
    with pytest.raises(pc.DataError, match="^" + words):
        pc.Moments.from_arrays(x, y)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_place_of_what_is_not_finite_counts_from_the_first_row(value: float) -> None:
    x, y = X.copy(), Y.copy()
    x[217, 5], y[133, 2] = value, value
    lazy = da.from_array(x, chunks=(40, 2))
    with pytest.raises(
        pc.DataError, match=rf"^x: got {value} at row 217, column 5 \(counted from 0\);"
    ):
        pc.Moments.from_arrays(lazy)
    with pytest.raises(
        pc.DataError, match=rf"^y: got {value} at row 133, column 2 \(counted from 0\);"
    ):
        pc.Moments.from_arrays(da.from_array(X, chunks=(40, 2)), y)
