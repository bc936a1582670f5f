"""Digits, the tasks cut out of images, the synthetic pairs, the choice of one class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fresh import output
from posterior_collapse.data import Dataset, half, load, pairs, quarter
from posterior_collapse.errors import DataError, InvalidArgumentError


def random_images(*shape: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.random.default_rng(sum(shape)).standard_normal((5, *shape))


def test_digits_are_those_of_scikit_learn() -> None:
    reference = load_digits()
    dataset = load("digits")
    np.testing.assert_array_equal(dataset.x, reference.data / 16)
    assert dataset.labels is not None
    np.testing.assert_array_equal(dataset.labels, reference.target)
    assert dataset.image_shape == (8, 8)
    assert repr(dataset) == (
        "<Dataset 'digits': 1,797 x 64 float64, pixels divided by 16; "
        "labels 0, 1, 2, 3, 4, 5, 6, 7, 8, 9; images 8 x 8>"
    )


def test_digits_import_numpy_alone() -> None:
    code = (
        "import sys; from posterior_collapse.data import load; load('digits'); "
        "heavy = {'sklearn', 'scipy', 'pandas', 'pyarrow', 'torch', 'pooch', 'requests'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert output(code) == "[]\n"


def test_a_scale_replaces_the_divisor() -> None:
    dataset = load("digits", scale=2)
    np.testing.assert_array_equal(dataset.x, load_digits().data * 2)
    assert dataset.note == "1,797 x 64 float64, multiplied by 2"


@pytest.mark.parametrize("digit", range(10))
def test_one_digit(digit: int) -> None:
    reference = load_digits()
    for label in (digit, str(digit)):
        dataset = load("digits", label=label)
        np.testing.assert_array_equal(dataset.x, reference.data[reference.target == digit] / 16)
        assert dataset.note.endswith(f"label {digit} only")


def test_a_label_that_does_not_occur() -> None:
    with pytest.raises(DataError, match="label: got 10; expected one of 0, 1, 2"):
        load("digits", label=10)
    with pytest.raises(DataError, match="expected one of"):
        load("digits", label="three")
    with pytest.raises(DataError, match="expected labels in 'array'"):
        load(np.eye(3), label=1)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (8, 8), (4, 10), (2, 2)])
def test_quarter_pixel_by_pixel(height: int, width: int) -> None:
    raw = random_images(height, width)
    cut = load(raw, task="quarter")
    h, w = height // 2, width // 2
    corners = {"top-left": (0, 0), "top-right": (0, w), "bottom-right": (h, w)}
    assert cut.y is not None
    for n in range(5):
        assert cut.x[n].tolist() == [raw[n, h + r, c] for r in range(h) for c in range(w)]
        expected = [
            raw[n, top + r, left + c]
            for top, left in corners.values()
            for r in range(h)
            for c in range(w)
        ]
        assert cut.y[n].tolist() == expected
    assert (cut.image_shape, cut.task) == ((height, width), "quarter")


@pytest.mark.parametrize(("height", "width"), [(28, 28), (6, 3), (2, 1)])
def test_half_pixel_by_pixel(height: int, width: int) -> None:
    raw = random_images(height, width)
    cut = load(raw, task="half")
    assert cut.y is not None
    for n in range(5):
        top = [raw[n, r, c] for r in range(height // 2) for c in range(width)]
        bottom = [raw[n, r, c] for r in range(height // 2, height) for c in range(width)]
        assert cut.x[n].tolist() == top
        assert cut.y[n].tolist() == bottom


@pytest.mark.parametrize("cut", [quarter, half])
@pytest.mark.parametrize("shape", [(1, 4, 6), (4, 6, 1)])
def test_one_channel_first_or_last(cut: Any, shape: tuple[int, ...]) -> None:
    raw = random_images(4, 6)
    plain, channelled = cut(load(raw)), cut(load(raw.reshape(5, *shape)))
    np.testing.assert_array_equal(plain.x, channelled.x)
    np.testing.assert_array_equal(plain.y, channelled.y)


@pytest.mark.parametrize(
    ("task", "shape"), [("quarter", (5, 4)), ("quarter", (4, 5)), ("half", (5, 4))]
)
def test_odd_images_are_refused(task: str, shape: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=f"expected one channel with an even height.*{task} task"):
        load(random_images(*shape), task=task)


def test_what_cannot_be_cut() -> None:
    with pytest.raises(DataError, match=r"shape \(4, 4, 3\)"):
        load(random_images(4, 4, 3), task="half")
    with pytest.raises(DataError, match="no image shape"):
        load(random_images(16), task="quarter")
    with pytest.raises(DataError, match="a target already"):
        quarter(load(random_images(4, 4), task="half"))
    with pytest.raises(InvalidArgumentError, match="Did you mean 'quarter'"):
        load("digits", task="quater")
    with pytest.raises(InvalidArgumentError, match="beside `given`"):
        load("digits", task="half", given="digits")


def correlation(dataset: Dataset) -> tuple[float, float]:
    """Return the mean correlation of x and y over all units, and its standard error at rho = 0.

    The means are known to be 0 and the variances to be 1 (x of the quadratic kind: 2), so each of
    the n * dim products is one independent draw.
    """
    assert dataset.y is not None
    products = dataset.x * dataset.y
    return float(products.mean()), float(products.std() / np.sqrt(products.size))


@pytest.mark.parametrize("seed", [4, 5, 6])
@pytest.mark.parametrize(
    ("kind", "rho"),
    [
        ("identical", 1.0),
        ("1/2", 0.5),
        ("1/4", 0.25),
        ("1/8", 0.125),
        ("-0.7", -0.7),
        (0.3, 0.3),
        ("random", 0.0),
        ("quadratic", 0.0),
    ],
)
def test_pairs_have_their_correlation(kind: str | float, rho: float, seed: int) -> None:
    dataset = pairs(kind, seed=seed)
    found, error = correlation(dataset)
    assert abs(found - rho) < 4 * error
    assert dataset.y is not None
    size = dataset.x.size
    assert abs(np.mean(dataset.y)) < 4 / np.sqrt(size)
    # The variance of a squared unit normal is 2, that of its square's square 60 (kind quadratic).
    variance, spread = (2.0, np.sqrt(60 - 4)) if kind == "quadratic" else (1.0, np.sqrt(2))
    assert abs(np.mean(dataset.x**2) - variance) < 4 * spread / np.sqrt(size)


def test_pairs_exactly() -> None:
    identical, quadratic = pairs("identical"), pairs("quadratic")
    assert identical.y is not None
    np.testing.assert_array_equal(identical.x, identical.y)
    np.testing.assert_array_equal(quadratic.x, identical.y**2 - 1)
    for kind in ("1/8", "random"):
        np.testing.assert_array_equal(pairs(kind).y, identical.y)
    np.testing.assert_array_equal(pairs("1/8").x, pairs(0.125).x)
    np.testing.assert_array_equal(load("pairs:1/8").x, pairs("1/8").x)
    assert not np.array_equal(pairs("identical", seed=5).x, identical.x)
    assert pairs("random", n=7, dim=3).x.shape == (7, 3)


@pytest.mark.parametrize("kind", ["identicle", "1.5", "-2", "nan", "1/0", "", "1/2/3", None])
def test_pairs_of_another_kind(kind: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="a correlation from -1 to 1"):
        pairs(kind)


@pytest.mark.parametrize("size", [{"n": 0}, {"dim": -1}, {"n": 2.5}])
def test_pairs_of_no_size(size: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=next(iter(size))):
        pairs("random", **size)
