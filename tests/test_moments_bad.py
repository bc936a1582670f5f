"""What cannot be measured is refused in one line that says what, where and what to do."""

from __future__ import annotations

import dask.array
import numpy as np
import pytest
from scipy import sparse

import posterior_collapse as pc
from posterior_collapse.moments import wide

X = np.random.default_rng(0).standard_normal((40, 6))
Y = X[:, :2] + 1
OBJECTS = np.array([[1.0, None], [2.0, 3.0]], dtype=object)


def refused(words: str, measure, *args, **kwargs) -> None:
    with pytest.raises(pc.DataError, match=words) as caught:
        measure(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    assert "; expected " in message
    assert message.endswith(".")


BAD = [
    (X[0], r"^x: got a 1-D array of shape \(6,\).*reshape\(-1, 1\)"),
    (np.float64(3.0), "^x: got a 0-D array"),
    (np.zeros((0, 3)), r"^x: got an empty array of shape \(0, 3\)"),
    (np.zeros((3, 0)), r"^x: got an empty array of shape \(3, 0\)"),
    (X * 1j, r"^x: got complex numbers \(complex128\)"),
    ([["a", "b"], ["c", "d"]], "^x: got dtype <U1"),
    (np.array([[b"a"], [b"b"]]), "^x: got dtype |S1"),
    (OBJECTS, "^x: got dtype object"),
    (np.array([["2020-01-01"]], dtype="M8[D]"), "^x: got dtype datetime64"),
    ([[1.0, 2.0], [3.0]], "^x: got what does not form a matrix .*inhomogeneous"),
    (np.ma.masked_less(X, 0), "^x: got masked values"),
    (X[:1], "^x: got a single sample"),
    (np.full((40, 3), 0.1), "^x: got data that are all constant"),
    (X * 1e-170, "^x: got data that are all constant, or vary by less than 1e-150; .*rescale"),
    (X * 1e-160, "^x: got data that are all constant, or vary by less than 1e-150; .*rescale"),
    (X * 1e200, r"^x: got values up to .*e\+200; .*Rescale"),
]


@pytest.mark.parametrize(("value", "words"), BAD)
def test_what_is_not_samples_is_refused(value, words: str) -> None:
    refused(words, pc.Moments.from_arrays, value)
    if not isinstance(value, list):  # a list of two is a pair
        refused(words, pc.Moments.from_batches, [value])


@pytest.mark.parametrize(("value", "words"), BAD[:11])
def test_what_is_no_target_is_refused_by_its_name(value, words: str) -> None:
    refused(words.replace("^x:", "^y:"), pc.Moments.from_arrays, X, value)
    refused(words.replace("^x:", "^y:"), pc.Moments.from_batches, [(X, value)])


def test_a_column_of_text_is_named() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [1, 2, 3], "town": ["Bern", "Jena", "Graz"]})
    refused("^column 'town' of x: got text", pc.Moments.from_arrays, frame)
    refused("^column 'town' of y: got text", pc.Moments.from_arrays, X[:3], frame)
    when = pandas.DataFrame({"t": pandas.to_datetime(["2020-01-01", "2020-01-02"])})
    refused("^column 't' of x: got datetime64", pc.Moments.from_arrays, when)
    missing = pandas.DataFrame({"a": pandas.array([1, 2, None], dtype="Int64")})
    refused("^column 'a' of x: got nan at row 2", pc.Moments.from_arrays, missing)


def test_a_tensor_with_a_gradient_is_read() -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor(X, requires_grad=True)
    np.testing.assert_array_equal(pc.Moments.from_arrays(x).cov, pc.Moments.from_arrays(X).cov)


@pytest.mark.parametrize(("rows_x", "rows_y"), [(40, 39), (1, 40), (40, 1)])
def test_unmatched_samples_are_counted(rows_x: int, rows_y: int) -> None:
    words = f"^x and y: got {rows_x} and {rows_y} samples"
    refused(words, pc.Moments.from_arrays, X[:rows_x], Y[:rows_y])
    refused(words, pc.Moments.from_batches, [(X[:rows_x], Y[:rows_y])])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_place_of_what_is_not_finite_is_said(value: float, dtype: type) -> None:
    x = np.zeros((5000, 40), dtype)
    x[:, 0] = np.arange(5000) % 7
    for row, column in [(0, 0), (4999, 39), (2503, 17)]:
        bad = x.copy()
        bad[row, column] = value
        bad[row + 1 :, column:] = np.nan  # the first one is named, not the last
        words = rf"got {value} at row {row}, column {column} \(counted from 0\);"
        refused("^x: " + words, pc.Moments.from_arrays, bad)
        refused("^y: " + words, pc.Moments.from_arrays, x, bad)
        refused("^x: " + words, pc.Moments.from_arrays, bad, x)
        refused("^x: " + words, pc.Moments.from_batches, np.array_split(bad, 9))
        pairs = zip(np.array_split(x, 9), np.array_split(bad, 9), strict=True)
        refused("^y: " + words, pc.Moments.from_batches, pairs)


def test_infinities_that_cancel_are_seen() -> None:
    bad = X.copy()
    bad[3, 1], bad[7, 1] = np.inf, -np.inf
    refused(r"^x: got inf at row 3, column 1 \(counted from 0\);", pc.Moments.from_arrays, bad)


@pytest.mark.parametrize("limit", [4, 1000], ids=["sketch", "row space"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_wide_data_are_refused_alike(limit: int, value: float, monkeypatch) -> None:
    monkeypatch.setattr(wide, "MAX_FEATURES", 5)
    monkeypatch.setattr(wide, "MAX_SAMPLES", limit)
    bad = X.copy()
    bad[33, 4], bad[34, 4] = value, -value
    large = r"^x: got values up to 1e\+200"
    words = large if value == 1e200 else rf"^x: got {value} at row 33, column 4 \(counted from 0\);"
    refused(words, pc.Moments.from_arrays, bad)
    refused("all constant", pc.Moments.from_arrays, np.full((40, 6), 0.1))
    if limit > len(X):
        refused(words, pc.Moments.from_batches, [bad[:20], bad[20:]])
        refused(words.replace("x:", "y:"), pc.Moments.from_arrays, X, bad)
        refused(words.replace("x:", "y:"), pc.Moments.from_arrays, X[:, :2], bad)
        refused("a single sample", pc.Moments.from_arrays, X[:1])


@pytest.mark.parametrize("most", [3, 100], ids=["wide", "narrow"])
def test_batches_that_do_not_fit_together(most: int, monkeypatch) -> None:
    monkeypatch.setattr(wide, "MAX_FEATURES", most)
    for batches, words in [
        ([X, X, X[:, :5]], r"^batch starting at row 80: got features \[5\]; expected \[6\]"),
        ([X, (X, Y)], r"^batch starting at row 40: got features \[6, 2\]; expected \[6\]"),
        ([(X, Y), (X, X)], r"^batch starting at row 40: got features \[6, 6\]; expected \[6, 2\]"),
        ([(X, Y), X], r"^batch starting at row 40: got features \[6\]; expected \[6, 2\]"),
        ([X, X[:, 0]], "^x: got a 1-D array"),
    ]:
        refused(words, pc.Moments.from_batches, batches)
        refused(words, pc.Moments.from_batches, iter(batches))


@pytest.mark.parametrize("batches", [[], iter([]), ()])
def test_no_batch_is_refused(batches) -> None:
    refused("^batches: got no batch", pc.Moments.from_batches, batches)


def test_one_sample_over_all_batches_is_refused() -> None:
    refused("a single sample", pc.Moments.from_batches, [X[:1]])
    assert pc.Moments.from_batches([X[:1], X[1:2]]).n == 2


def test_only_alike_moments_are_added() -> None:
    m = pc.Moments.from_arrays(X, Y)
    for other in (
        pc.Moments.from_arrays(X),
        pc.Moments.from_arrays(Y, X),
        pc.Moments.from_arrays(X, Y[:, :1]),
        m.with_center(False),
    ):
        refused("^moments: got Moments.*the same features", m.__add__, other)
        refused("^moments: got Moments.*the same features", other.__add__, m)
    words = "^moments: got a sum with moments of matrices"
    for n in (None, 40):  # of how many rows they are does not tell how far their means are apart
        one = pc.Moments.from_matrices(m.xx, n=n)
        for first, second in ((one, one), (m, one), (one, m)):
            refused(words, first.__add__, second)


@pytest.mark.parametrize("other", [X, 1, None])
def test_only_moments_are_added_and_only_what_was_read_is_measured(other) -> None:
    m = pc.Moments.from_arrays(X)
    with pytest.raises(pc.InvalidArgumentError, match=r"moments: got a sum with .*from_arrays"):
        m + other
    if not isinstance(other, np.ndarray):  # whose sum is one of elements
        with pytest.raises(pc.InvalidArgumentError, match=r"moments: got a sum with .*from_arrays"):
            other + m
    refused(r"^data: got .*Call Moments\.from_arrays", pc.Moments.of, other)


GOOD = np.diag([2.0, 1.0])


@pytest.mark.parametrize(
    ("matrices", "words"),
    [
        ((X,), r"^xx: got shape \(40, 6\); expected a square matrix"),
        (([1.0, 2.0],), "^xx: got a 1-D array"),
        ((GOOD, np.zeros((1, 2)), np.ones((1, 2))), r"^yy: got shape \(1, 2\)"),
        ((GOOD, GOOD), "^yx and yy: got only one of them"),
        ((GOOD, None, GOOD), "^yx and yy: got only one of them"),
        ((GOOD, np.zeros((2, 1)), [[1.0]]), r"^yx: got shape \(2, 1\); expected \(1, 2\)"),
        (([[1.0, 0.5], [0.4, 1.0]],), "^xx, yx, yy: got an asymmetric matrix"),
        (([[1.0, 2.0], [2.0, 1.0]],), "^xx, yx, yy: got a matrix with a negative eigenvalue"),
        ((GOOD, [[9.0, 0.0]], [[1.0]]), "^xx, yx, yy: got a matrix with a negative eigenvalue"),
        ((np.zeros((2, 2)),), "^xx, yx, yy: got zeros"),
        (([[1.0, np.nan], [np.nan, 1.0]],), "^xx: got nan at row 0, column 1"),
        ((GOOD, [[0.0, np.inf]], [[1.0]]), "^yx: got inf at row 0, column 1"),
        ((GOOD * 1j,), "^xx: got complex"),
        ((GOOD.astype(str),), "^xx: got dtype <U"),
    ],
)
def test_matrices_must_be_joint_second_moments(matrices, words: str) -> None:
    refused(words, pc.Moments.from_matrices, *matrices)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"center": "none"}, "center: got 'none'; expected True or False"),
        ({"center": None}, "center: got None"),
        ({"scale": 1e200}, "scale: got 1e\\+200; .*squares within floats"),
        ({"scale": 1e160, "center": False}, "scale: got 1e\\+160"),
    ],
)
def test_options_that_no_moments_come_of_are_refused(options, word: str) -> None:
    with pytest.raises(pc.InvalidArgumentError, match=word):
        pc.Moments.from_arrays(X + 1, **options)


@pytest.mark.parametrize("n", [0, -3, 1.5, "a", True])
def test_a_number_of_samples_is_one(n) -> None:
    with pytest.raises(pc.InvalidArgumentError, match=r"^n: got"):
        pc.Moments.from_matrices(np.eye(2), n=n)


def test_sparse_second_moments_are_read() -> None:
    found = pc.Moments.from_matrices(sparse.eye(3), n=np.int64(7))
    assert (found.xx.tolist(), found.n) == (np.eye(3).tolist(), 7)


MASKED = np.ma.masked_less(X, -1)


@pytest.mark.parametrize(
    "values",
    [list(MASKED), dask.array.from_array(MASKED, chunks=(9, 6))],
    ids=["list of rows", "dask array"],
)
def test_masks_are_seen_wherever_they_are(values) -> None:
    """NumPy drops them, and takes the numbers below for data."""
    refused("^x: got .*masked", pc.Moments.from_arrays, values)
    refused("^x: got .*masked", pc.fit, pc.VAESpec(2), values, "linear", epochs=1)
    refused("^y: got .*masked", pc.Moments.from_arrays, X, values)


def test_rounding_in_matrices_is_forgiven() -> None:
    low_rank = X[:3].T @ X[:3] / 3
    low_rank[0, 1] *= 1 + 1e-12
    assert pc.Moments.from_matrices(low_rank).total_variance == pytest.approx(np.trace(low_rank))
    assert pc.Moments.from_matrices(low_rank.astype(np.float32)).xx.dtype == np.float64
